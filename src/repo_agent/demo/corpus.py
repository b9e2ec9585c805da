"""What the tiny base model has seen: transcripts of a sloppy teacher, played through the real loop.

The teacher knows the fix but is careless to a degree that stays the same over a transcript: it leaves out arguments,
invents names, wraps JSON in prose, and errs in ways that no grammar cures (a path without its folder, a final before
the fix, the same call again). Tests are worked out here, on programs of our own making, in the grader's words.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from pathlib import Path, PurePosixPath

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec
from repo_agent.messages import Message, ToolCall
from repo_agent.models import Completion, Request, Sampling
from repo_agent.protocols import PROTOCOLS, Protocol
from repo_agent.rollout.oracle import PROSE, plan, summary
from repo_agent.sandbox.workspace import put_files
from repo_agent.tasks.micro import make_task
from repo_agent.tasks.names import NamePool
from repo_agent.tasks.task import Task, as_text
from repo_agent.tools.files import default_registry
from repo_agent.traces import events

CAREFUL_SHARE = 0.15
"""Share of transcripts without a deliberate slip."""
SLOPPY_RATES = (0.5, 0.95)
"""Elsewhere the chance of a slip a turn is drawn from this range, once a transcript."""
RETRY_FACTOR = 0.6
"""How much rarer a slip is in the turn after a bad one."""
_WRONG_NAMES = {
    "list_files": ("ls", "list_dir"),
    "read_file": ("open_file", "cat"),
    "grep": ("search", "find"),
    "write_file": ("edit_file", "save"),
}


class SloppyTeacher:
    """Plays a plan of right calls and slips at its own rate; a model like any other."""

    name = "sloppy"

    def __init__(self, task: Task, protocol: Protocol, rng: random.Random) -> None:
        self._task, self._protocol, self._rng = task, protocol, rng
        self._plan, self._at = plan(task, rng), 0
        careful = rng.random() < CAREFUL_SHARE
        self._rate = 0.0 if careful else rng.uniform(*SLOPPY_RATES)
        self._bad: str | None = None

    async def complete(self, request: Request) -> Completion:
        return Completion(self._reply(), "stop")

    async def close(self) -> None:
        pass

    def _reply(self) -> str:
        rng, rate = self._rng, self._rate * (RETRY_FACTOR if self._bad else 1)
        if rng.random() < rate:
            if self._bad and rng.random() < 0.15:
                return self._bad
            if self._at and rng.random() < 0.2:
                return self._protocol.render_final(summary(self._task))
            if self._at < len(self._plan):
                text, bad = self._slip(self._plan[self._at])
                self._bad = text if bad else None
                return text
        self._bad = None
        if self._at == len(self._plan):
            return self._protocol.render_final(summary(self._task))
        self._at += 1
        return self._protocol.render_call(self._plan[self._at - 1])

    def _slip(self, call: ToolCall) -> tuple[str, bool]:
        """A wrong reply in place of a call, and whether the loop will refuse it."""
        rng, args = self._rng, dict(call.args)
        kind = rng.choices(
            ("missing", "folder", "again", "prose", "type", "tool", "content"), (24, 38, 8, 8, 6, 5, 12)
        )[0]
        if kind == "folder" and "rel_path" in args and "/" in args["rel_path"]:
            args["rel_path"] = PurePosixPath(args["rel_path"]).name
            return self._protocol.render_call(ToolCall(call.name, args)), call.name == "read_file"
        if kind == "folder" and "rel_dir" in args:
            target = rng.choice(sorted(self._task.fix or {}))
            args["rel_dir"] = rng.choice((PurePosixPath(target).name, "tests/src", "code"))
            return self._protocol.render_call(ToolCall(call.name, args)), True
        if kind == "again" and self._at:
            return self._protocol.render_call(self._plan[self._at - 1]), False
        if kind == "prose":
            return f"{rng.choice(PROSE)} {self._protocol.render_call(call)}", True
        if kind == "tool":
            return self._protocol.render_call(ToolCall(rng.choice(_WRONG_NAMES[call.name]), args)), True
        if kind == "content" and call.name == "write_file":
            return self._protocol.render_call(ToolCall(call.name, {**args, "content": self._spoilt(args)})), False
        numbers = [name for name, value in args.items() if isinstance(value, int)]
        if kind == "type" and numbers:
            return self._protocol.render_call(ToolCall(call.name, {**args, numbers[0]: str(args[numbers[0]])})), True
        args.pop(list(args)[-1])
        return self._protocol.render_call(ToolCall(call.name, args)), True

    def _spoilt(self, args: dict[str, str]) -> str:
        """The file as it was, or with a wrong word: a write that the tests refuse."""
        before, after = as_text(self._task.files[args["rel_path"]]), args["content"]
        if self._rng.random() < 0.5:
            return before
        words = sorted(set(re.findall(r"[a-z_]{2,}", after)))
        word = self._rng.choice(words)
        return after.replace(word, word[:-1], 1)


def simulated_tests(task: Task, root: Path, when: events.When) -> events.Tests:
    """What the grader says of a micro task's workspace, worked out without a process."""
    headline, failures, test_path = "1 passed", [], task.tests[0]
    text = as_text(task.files[test_path])
    module = "/".join(text.split(" ")[1].split(".")) + ".py"
    name = re.findall(r"^def (\w+)", text, re.MULTILINE)[0]
    calls = re.findall(r"^    assert (\w+)(\(.*\)) == (.*)$", text, re.MULTILINE)
    scope: dict[str, object] = {}
    try:
        exec((root / module).read_text(), scope)
        for function, args, want in calls:
            got, wanted = eval(function + args, scope), eval(want)
            if got != wanted:
                failures.append(f"{test_path}::{name}: AssertionError: assert {got!r} == {wanted!r}")
                break
    except (SyntaxError, KeyError) as error:
        headline, failures = "1 error", [f"{test_path}: {type(error).__name__}: {error}"]
    except (NameError, AttributeError, TypeError, ValueError) as error:
        failures.append(f"{test_path}::{name}: {type(error).__name__}: {error}")
    if failures and headline == "1 passed":
        headline = "1 failed"
    return events.Tests(
        when=when,
        outcome="failed" if failures else "passed",
        passed=0 if failures else 1,
        failed=len(failures),
        skipped=0,
        expected=1,
        output="\n".join([headline, *failures]),
    )


def transcript(seed: int) -> list[Message]:
    """One transcript on a fresh task whose names no suite uses."""
    rng = random.Random(f"corpus {seed}")
    task = make_task(rng, NamePool(rng, suite=False), "corpus")
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        root = Path(folder)
        put_files(root, task.files)

        async def run_tests(when: events.When) -> events.Tests:
            return simulated_tests(task, root, when)

        protocol = PROTOCOLS["json"]
        rollout = Rollout(
            model=SloppyTeacher(task, protocol, rng),
            spec=AgentSpec(default_registry(), protocol),
            root=root,
            run_tests=run_tests,
            emit=lambda event: None,
            sampling=Sampling(),
            seed=seed,
        )
        asyncio.run(rollout.run(task.goal))
    return rollout.messages
