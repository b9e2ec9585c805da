"""Which conversation a request belongs to: threads found by their messages alone, so that no agent needs to change.

A request goes on with a rollout when its messages begin with those of the rollout's last request and then its reply,
and model and tools are the same. The reply may have come back shortened (see `thread.is_of`), or not at all, where it
was no valid call and other messages follow. After a failure of the server the same request again is a retry.

Everything else starts a new rollout: an edited or cut history, a second sample of the same prompt, other tools. Where
several rollouts fit they are alike to the letter; the one with the request's own name comes first, then the one that
has waited longest. A rollout whose reply is still on its way fits nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repo_agent.errors import UserError
from repo_agent.escape import fit_name
from repo_agent.messages import digest
from repo_agent.record.thread import Thread
from repo_agent.record.verdict import Judge, Tally
from repo_agent.record.wire import Asked
from repo_agent.redact import redacted
from repo_agent.tools.registry import Registry
from repo_agent.traces.store import RunDir

MAX_OPEN = 256
"""Rollouts kept open, each an open file; the one that has waited longest ends when there are more."""
_SLUG = 40


@dataclass(frozen=True)
class TaskFrom:
    """How a rollout's task is called: `goal`, `name`, or `regex:PATTERN` over the first user message."""

    spec: str = "goal"

    def __post_init__(self) -> None:
        if self.spec.startswith("regex:"):
            try:
                re.compile(self.spec.removeprefix("regex:"))
            except re.error as error:
                raise UserError(f"no regular expression ({error})", "--task-from", "Quote it for the shell") from error
        elif self.spec not in ("goal", "name"):
            raise UserError(f"no such way to name a task: {self.spec!r}", "--task-from", "goal, name or regex:PATTERN")

    def task(self, goal: str, name: str | None) -> str:
        """The task's id; the same goal gives the same task, so that several rollouts of it stand together."""
        if self.spec == "name" and name:
            return name
        if self.spec.startswith("regex:"):
            found = re.search(self.spec.removeprefix("regex:"), goal)
            if found and (found[1] if found.re.groups else found[0]):
                return found[1] if found.re.groups else found[0]
        words = re.sub(r"[^a-z0-9]+", "-", goal[: 4 * _SLUG].lower()).strip("-")[:_SLUG].strip("-")
        return f"{words or 'rollout'}-{digest(goal.encode(errors='replace').decode())[:8]}"


class Book:
    """All conversations under way, and the run directory that they go to."""

    def __init__(
        self,
        run: RunDir,
        *,
        source: str = "record",
        tools: Registry | None = None,
        task_from: TaskFrom | None = None,
        clock: Callable[[], float] | None = time.monotonic,
        passed: bool | None = None,
    ) -> None:
        self._run, self._source, self._tools, self._clock, self._passed = run, source, tools, clock, passed
        self._task_from = task_from or TaskFrom()
        self.open: list[Thread] = []
        self.tally = Tally()
        self.rollouts = 0
        self.passed = 0
        self.errors = 0
        self.failed_replies = 0
        self._next: dict[str, int] = {}

    def take(self, asked: Asked, name: str | None = None, secrets: frozenset[str] = frozenset()) -> Thread:
        """The thread that a request goes on with, or a new one; the caller says when it is no longer busy."""
        thread = self.find(asked, name) or self.begin(asked, name, secrets)
        thread.busy = True
        thread.name = thread.name or name
        thread.secrets |= secrets
        return thread

    def find(self, asked: Asked, name: str | None) -> Thread | None:
        """The thread that a request goes on with."""
        waiting = [
            thread
            for thread in self.open
            if not thread.busy
            and thread.asked.contract == asked.contract
            and (name is None or thread.name in (None, name))
        ]
        ranked = [(thread.goes_on(asked), thread) for thread in waiting]
        fits = [(len(one.asked.messages), rank, one.name == name, -one.last, one) for rank, one in ranked if rank]
        return max(fits, key=lambda fit: fit[:4])[4] if fits else None

    def begin(
        self,
        asked: Asked,
        name: str | None = None,
        secrets: frozenset[str] = frozenset(),
        task: str | None = None,
        protocol: str | None = None,
    ) -> Thread:
        """A new thread, its `run_start` written; its task's next free rollout is claimed."""
        while len(self.open) >= MAX_OPEN and (idle := [thread for thread in self.open if not thread.busy]):
            self.end([min(idle, key=lambda thread: thread.last)], "stopped")
        task = fit_name(task or self._task_from.task(redacted(asked.goal, secrets), redacted(name, secrets)))
        writer = None
        while writer is None:
            number = self._next.get(task, 0)
            self._next[task] = number + 1
            writer = self._run.claim(task, number)
        thread = Thread(
            id=f"{task}/{number}",
            task=task,
            rollout=number,
            asked=asked,
            writer=writer,
            judge=Judge(self.tally, asked.tools, self._tools),
            protocol=protocol or ("native" if asked.native else "json"),
            source=self._source,
            secrets=secrets,
            name=name,
            clock=self._clock,
            passed=self._passed,
        )
        thread.open()
        self.open.append(thread)
        return thread

    def named(self, who: str) -> list[Thread]:
        """The open threads of that id, else of that name."""
        return [thread for thread in self.open if thread.id == who] or [
            thread for thread in self.open if thread.name == who
        ]

    def end(self, threads: Sequence[Thread], ended: str) -> None:
        """End threads: their traces are whole."""
        for thread in threads:
            self.open.remove(thread)
            thread.end(ended)
            self.rollouts += bool(thread.steps)
            self.errors += not thread.steps
            self.passed += thread.passed is True and bool(thread.steps)

    def line(self) -> str:
        """What was recorded so far, in one line."""
        open_ = f", {len(self.open)} open" if self.open else ""
        failed = f" · {self.failed_replies} failed at the server" if self.failed_replies else ""
        return f"{self.rollouts} rollouts, {self.passed} marked passed{open_}{failed} · {self.tally.line()}"
