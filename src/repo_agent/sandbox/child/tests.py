"""Runs pytest on the given files and reports each test through the channel:

{"kind": "ready"}                                      from here on, trouble is the tested code's
{"kind": "collected", "ids": [...]}                    in the order in which they will run
{"kind": "refused", "message"}                         instead, where pytest takes its arguments or a conftest badly
{"kind": "error", "id", "message"}                     a file that could not be collected
{"kind": "test", "id", "outcome", "message"}           passed, failed or skipped
{"kind": "timed_out", "id"}                            the last line: the process ends there
{"kind": "tampered", "what"}                           likewise
{"kind": "end", "sentinel": true}                      pytest came to its end, and a test that must fail did

Code and tests share this interpreter; see guard.py for what that means.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator
from typing import Any

gc.disable()  # saves a seventh of the time that pytest takes to load
import pytest  # noqa: E402

gc.enable()

from repo_agent.sandbox.child import guard  # noqa: E402
from repo_agent.sandbox.child.channel import Channel  # noqa: E402
from repo_agent.sandbox.child.items import expects_failure  # noqa: E402
from repo_agent.sandbox.child.session import MESSAGE_CHARS, Clock, one_line, refusal, silence  # noqa: E402

SENTINEL = "def test_sentinel():\n    assert 1 + 1 == 3\n"


def prepare(job: dict[str, Any], channel: Channel, work: str) -> Callable[[], None]:
    """Load all that is ours, and return what runs the tests; it does not return."""
    sentinel = os.path.join(job["scratch"], "sentinel", f"test_{os.urandom(8).hex()}.py")
    with open(sentinel, "x") as file:
        file.write(SENTINEL)
    watch = guard.Guard(channel, work, job)
    reporter = Reporter(channel, watch, sentinel, job)
    watch.install(more=(Reporter, Channel, Clock))

    def run() -> None:
        silence()
        watch.begin()
        pytest.main(arguments(job, work), plugins=[reporter])
        reporter.end()

    return run


def complaint(error: Exception) -> str:
    """Why pytest does not begin: the cause of a conftest that cannot be loaded, or what is wrong with its arguments."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{getattr(error, 'path', 'conftest.py')}: {one_line(cause)}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error: " in line), lines[0]).strip()[:MESSAGE_CHARS]


def arguments(job: dict[str, Any], work: str) -> list[str]:
    """pytest's arguments. Root and conftest lookup end at the scratch folder, whatever lies above it."""
    fixed = [f"--rootdir={work}", f"--confcutdir={work}", "--capture=no", "--tb=no", "-q"]
    return [*fixed, *job["args"], "--", *job["tests"]]


class Reporter:
    """The pytest plug-in that times every test and writes its result."""

    def __init__(self, channel: Channel, watch: guard.Guard, sentinel: str, job: dict[str, Any]) -> None:
        self.channel, self.watch, self.sentinel, self.seconds = channel, watch, sentinel, job["seconds"]
        self.inside = job["scratch"] if job["filters"] else ""
        self.hides = not job["read"]
        self.running = ""
        self.reports: list[tuple[str, str]] = []
        self.sentinel_held = False
        self.config: pytest.Config | None = None
        self._clock = Clock(self.timed_out)

    def arm(self, seconds: float, running: str = "") -> None:
        """Limit what runs from here on; see `Clock.arm`."""
        self.running = running
        self._clock.arm(seconds)

    def timed_out(self, *_: object) -> None:
        """End the process here: an exception could be swallowed by the very loop that hangs."""
        self.channel.close("timed_out", id=self.running)

    def end(self) -> None:
        self.arm(0)
        self.watch.check(self.config)
        self.channel.close("end", sentinel=self.sentinel_held)

    @pytest.hookimpl(wrapper=True)
    def pytest_cmdline_parse(self) -> Generator[None, object, object]:
        """Arguments, configuration and the first conftest files."""
        try:
            return (yield)
        except Exception as error:
            self.channel.write("refused", message=complaint(error))
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        self.config = session.config
        self.arm(self.seconds * max(1, len(session.config.args)))
        try:
            result = yield
        except pytest.UsageError as error:
            self.channel.write("refused", message=complaint(error))
            raise
        self.arm(0)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """After all tests comes one that must fail."""
        module = pytest.Module.from_parent(session, path=type(session.path)(self.sentinel))
        items.append(pytest.Function.from_parent(module, name="test_sentinel"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.watch.note_items(session)
        self.channel.write("collected", ids=[item.nodeid for item in session.items if not self.is_sentinel(item)])

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
        if isinstance(node, pytest.Collector) and call.excinfo:
            error = call.excinfo.value
            cause = error.__cause__ if isinstance(error, node.CollectError) else None
            self.channel.write("error", id=node.nodeid, message=self.reason(cause or error))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple) and self.watch.is_code(str(report.longrepr[0])):
            self.channel.write("error", id=report.nodeid, message="skipped by the code under test")

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.channel.write("error", id=self.running, message=one_line(excinfo.value))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.reports = []
        self.watch.check_item(item, self)
        self.watch.begin_item()
        self.arm(self.seconds, item.nodeid)
        result = yield
        self.arm(0)
        self.watch.check_item(item, self)
        failures = [message for outcome, message in self.reports if outcome == "failed"]
        outcome = "failed" if failures or not self.reports else self.reports[-1][0]
        message = next(filter(None, failures), "")
        if outcome == "passed" and not self.is_sentinel(item) and not self.watch.has_ended(item):
            outcome, message = "failed", "the test did not come to its end"
        skips = [message for outcome, message in self.reports if outcome == "skipped"]
        if outcome != "failed" and skips:
            message = skips[-1] if outcome == "skipped" else "skipped in part"
        if self.is_sentinel(item):
            self.sentinel_held = outcome == "failed" and message.startswith("AssertionError")
        else:
            self.channel.write("test", id=item.nodeid, outcome=outcome, message=message)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        # Looked at first: pytest puts its own skip in the place of unittest's.
        if call.when == "call":
            self.watch.check_object(item)
        # unittest catches what it is raised, and pytest says it again.
        errors = [info.value for info in (call.excinfo, *(getattr(item, "_excinfo", None) or ())) if info is not None]
        raised = [one for error in errors for one in (error, error.__context__) if one is not None]
        by_code = any(map(self.watch.skipped_by_code, raised))
        report = yield
        if report.skipped and by_code:
            self.reports.append(("failed", "skipped by the code under test"))
        elif report.failed:
            said = self.reason(call.excinfo.value) if call.excinfo else str(report.longrepr)
            self.reports.append(("failed", said))
        elif report.when == "call" or not report.passed:
            expected = hasattr(report, "wasxfail") and expects_failure(item)
            self.reports.append((report.outcome, "failed, as expected" if expected else ""))
        return report

    def reason(self, error: BaseException) -> str:
        """Why a test failed, in one line; what the sandbox refused comes first."""
        if isinstance(error, pytest.FixtureLookupError):
            return f"fixture {error.argname!r} not found"
        example, got = getattr(error, "example", None), getattr(error, "got", None)
        if example is not None and isinstance(got, str):
            return f"doctest: expected {str(example.want).strip()}, got {got.strip()}"[:MESSAGE_CHARS]
        refused = refusal(error, self.inside, self.hides) if self.inside else ""
        return f"refused by the sandbox ({refused}): {one_line(error)}" if refused else one_line(error)

    def is_sentinel(self, item: pytest.Item) -> bool:
        return str(item.path) == self.sentinel
