"""The child of `grade`: runs pytest on the given files and reports each test, one JSON object a line.

Started as a script with the numbers of two inherited file descriptors. The first is an open file that holds the job as
one JSON object, `{"root", "tests", "args", "seconds", "memory_bytes", "file_bytes", "marker"}`. The job is read and
wiped, so the marker is in no argument list and no environment. The second is a pipe that takes one byte when pytest is
loaded: from there on, trouble is the tested code's. Then the file takes the results:

{"kind": "collected", "ids": [...]}                    in the order in which they will run
{"kind": "error", "id", "message"}                     a file that could not be collected
{"kind": "test", "id", "outcome", "message"}           passed, failed or skipped
{"kind": "timed_out", "id"}                            the last line: the process ends there
{"kind": "end", "marker"}                              pytest came to its end by itself

Not covered: the tested code shares this interpreter, so code that hunts for the marker or patches pytest can forge
a line. It imports nothing of ours, so that it starts fast and shows the tests a plain interpreter.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Generator
from typing import Any

gc.disable()  # saves a seventh of the time that pytest takes to load
import pytest  # noqa: E402

gc.enable()

# Plug-ins that write reports, keep caches or serve a person at a terminal: none changes what a test means, and
# leaving them out makes every run a third cheaper.
UNUSED = (
    *("cacheprovider", "doctest", "junitxml", "pastebin", "faulthandler", "debugging", "stepwise", "setuponly"),
    *("setupplan", "legacypath", "threadexception", "unraisableexception"),
)
MESSAGE_CHARS = 2_000
CLOCK_FACTOR = 4
"""A test may take this many times its processor time on the clock."""


def main(fd: int, started: int) -> None:
    """Read the job, set the limits, run the tests; standard output must lead to /dev/null."""
    os.set_inheritable(fd, False)
    with open(fd, "r+", closefd=False) as file:
        job = json.loads(file.read())
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    set_limits(job["memory_bytes"], job["file_bytes"])
    sys.dont_write_bytecode = True
    sys.argv[1:] = []
    os.chdir(job["root"])
    sys.path.insert(0, job["root"])
    reporter = Reporter(fd, job["seconds"])
    os.write(started, b"1")
    os.close(started)
    # Standard output leads nowhere, and from here errors do too: what tests print is shown to no one, so nothing of it
    # has to be read, capped or waited for.
    os.dup2(1, 2)
    pytest.main(arguments(job), plugins=[reporter])
    reporter.arm(0)
    reporter.write("end", marker=job["marker"])
    os._exit(0)


def set_limits(memory_bytes: int, file_bytes: int) -> None:
    """Address space, size of a written file, no core dump: hard limits, inherited by every child process."""
    for kind, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def arguments(job: dict[str, Any]) -> list[str]:
    """pytest's arguments. Root and conftest lookup end at the scratch folder, whatever lies above it."""
    root = job["root"]
    plugins = [word for name in UNUSED for word in ("-p", f"no:{name}")]
    fixed = [f"--rootdir={root}", f"--confcutdir={root}", "--capture=no", "--tb=no", "-q"]
    return [*plugins, *fixed, *job["args"], "--", *job["tests"]]


class Reporter:
    """The pytest plug-in that times every test and writes its result."""

    def __init__(self, fd: int, seconds: float) -> None:
        self.fd, self.seconds = fd, seconds
        self.running = ""
        self.outcome, self.message = "", ""
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, self.timed_out)

    def write(self, kind: str, **fields: object) -> None:
        os.write(self.fd, (json.dumps({"kind": kind, **fields}) + "\n").encode())

    def arm(self, seconds: float, running: str = "") -> None:
        """Limit processor time, so that a busy machine fails no test; and the clock, for tests that wait."""
        self.running = running
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * CLOCK_FACTOR)

    def timed_out(self, *_: object) -> None:
        """End the process here: an exception could be swallowed by the very loop that hangs."""
        self.write("timed_out", id=self.running)
        os._exit(0)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        self.arm(self.seconds * max(1, len(session.config.args)))
        result = yield
        self.arm(0)
        return result

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.write("collected", ids=[item.nodeid for item in session.items])

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
        if isinstance(node, pytest.Collector) and call.excinfo:
            error = call.excinfo.value
            cause = error.__cause__ if isinstance(error, node.CollectError) else None
            self.write("error", id=node.nodeid, message=one_line(cause or error))

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.write("error", id=self.running, message=one_line(excinfo.value))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.outcome, self.message = "", ""
        self.arm(self.seconds, item.nodeid)
        result = yield
        self.arm(0)
        self.write("test", id=item.nodeid, outcome=self.outcome or "failed", message=self.message)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self.outcome != "failed" and (report.when == "call" or not report.passed):
            self.outcome = report.outcome
        if report.failed:
            self.message = self.message or (one_line(call.excinfo.value) if call.excinfo else str(report.longrepr))
        return report


def one_line(error: BaseException) -> str:
    """`AssertionError: assert 3 == 4`; for a syntax error, with file and line."""
    lines = traceback.format_exception_only(type(error), error)
    text = f"{type(error).__name__}: {error}" if isinstance(error, SyntaxError) else lines[0]
    return text.strip().split("\n", 1)[0][:MESSAGE_CHARS]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
