"""Which conversation a request belongs to: found by its messages alone, so that no agent needs to change.

A request continues a rollout when its messages begin with those of the rollout's last request and then its reply, and
model and tools are the same. The reply may have come back shortened (see `conversation.is_of`), or not at all, where it
was no valid call and other messages follow. After a failure of the server the same request again is a retry.

Everything else starts a new rollout: an edited or cut history, a second sample of the same prompt, other tools. Where
several rollouts fit they are alike to the letter; the one with the request's own name comes first, then the one that
has waited longest. A rollout whose reply is still on its way fits nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repo_agent.errors import UserError
from repo_agent.escape import fit_name
from repo_agent.messages import digest
from repo_agent.record.conversation import Conversation
from repo_agent.record.verdict import Judge, Tally
from repo_agent.record.wire import ChatRequest
from repo_agent.redact import redacted
from repo_agent.tools.registry import Registry
from repo_agent.traces.store import RunDir

MAX_OPEN = 256
"""Rollouts kept open, each an open file; the one that has waited longest ends when there are more."""
_SLUG, _PATHS = 40, 20


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


class Conversations:
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
        self.open: list[Conversation] = []
        self.tally = Tally()
        self.rollouts = 0
        self.passed = self.marked = 0
        """Rollouts that passed, and those whose outcome is known."""
        self.errors = 0
        self.failed_replies = 0
        self.unrecorded: Counter[str] = Counter()
        """Requests that pass without being recorded, by path."""
        self._next: dict[str, int] = {}

    def take(
        self, request: ChatRequest, name: str | None = None, secrets: frozenset[str] = frozenset()
    ) -> Conversation:
        """The conversation that a request continues, or a new one; the caller says when it is no longer busy."""
        conversation = self.find(request, name) or self.begin(request, name, secrets)
        conversation.busy = True
        conversation.name = conversation.name or name
        conversation.secrets |= secrets
        return conversation

    def find(self, request: ChatRequest, name: str | None) -> Conversation | None:
        """The conversation that a request continues."""
        waiting = [
            conversation
            for conversation in self.open
            if not conversation.busy
            and conversation.request.contract == request.contract
            and (name is None or conversation.name in (None, name))
        ]
        ranked = [(conversation.continues(request), conversation) for conversation in waiting]
        fits = [(len(one.request.messages), rank, one.name == name, -one.last, one) for rank, one in ranked if rank]
        return max(fits, key=lambda fit: fit[:4])[4] if fits else None

    def begin(
        self,
        request: ChatRequest,
        name: str | None = None,
        secrets: frozenset[str] = frozenset(),
        task: str | None = None,
        protocol: str | None = None,
    ) -> Conversation:
        """A new conversation, its `run_start` written; its task's next free rollout is claimed."""
        while len(self.open) >= MAX_OPEN and (
            idle := [conversation for conversation in self.open if not conversation.busy]
        ):
            self.end([min(idle, key=lambda conversation: conversation.last)], "stopped")
        task = fit_name(task or self._task_from.task(redacted(request.goal, secrets), redacted(name, secrets)))
        writer = None
        while writer is None:
            number = self._next.get(task, 0)
            self._next[task] = number + 1
            writer = self._run.claim(task, number)
        protocol = protocol or ("native" if request.native else "json")
        conversation = Conversation(
            id=f"{task}/{number}",
            task=task,
            rollout=number,
            request=request,
            writer=writer,
            judge=Judge(self.tally, request, protocol, self._tools),
            protocol=protocol,
            source=self._source,
            secrets=secrets,
            name=name,
            clock=self._clock,
            passed=self._passed,
        )
        conversation.open()
        self.open.append(conversation)
        return conversation

    def named(self, who: str) -> list[Conversation]:
        """The open conversations of that id, else of that name."""
        return [conversation for conversation in self.open if conversation.id == who] or [
            conversation for conversation in self.open if conversation.name == who
        ]

    def end(self, conversations: Sequence[Conversation], ended: str) -> None:
        """End conversations: their traces are whole."""
        for conversation in conversations:
            self.open.remove(conversation)
            conversation.end(ended)
            self.rollouts += bool(conversation.steps)
            self.errors += not conversation.steps
            self.passed += conversation.passed is True and bool(conversation.steps)
            self.marked += conversation.passed is not None and bool(conversation.steps)

    def passes(self, path: str) -> None:
        """Count a request that is not recorded."""
        path = path[:_SLUG]
        self.unrecorded[path if path in self.unrecorded or len(self.unrecorded) < _PATHS else "others"] += 1

    def line(self) -> str:
        """What was recorded so far, in one line."""
        open_ = f", {len(self.open)} open" if self.open else ""
        failed = f" · {self.failed_replies} failed at the server" if self.failed_replies else ""
        paths = ", ".join(f"{count} {path}" for path, count in self.unrecorded.most_common(3))
        passed = f" · {self.unrecorded.total()} requests passed unrecorded ({paths})" if paths else ""
        return f"{self.rollouts} rollouts, {self.passed} marked passed{open_}{failed}{passed} · {self.tally.line()}"
