"""The reward of a reply to a recorded context: how many rungs of the ladder it has passed, its call run in the files
that the context had.

    0    cut off, no call, several calls, text around the call, broken JSON
    1/4  a tool that there is not; a final while there is something left to do
    2/4  an argument missing, unknown, of another type, or unusable
    3/4  a call that its tool refused; one whose answer stands in the context already, or after which nothing was left
         to do; one that cannot be run here
    1    a call that ran; a final where the tests pass

The rungs are those of `tools.verdict`, which reports count, too: what is rewarded is what is measured. Quarters are
exact in binary, so a group of equal rewards has a mean without rounding, and advantages of exactly 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import InfraError
from repo_agent.messages import ToolCall, Usage
from repo_agent.models import Completion, Request, Sampling
from repo_agent.protocols import protocol_named
from repo_agent.protocols.contract import contract_of
from repo_agent.rollout.contexts import Context, Contexts, call_key
from repo_agent.rollout.episode import guarded, workspace_of
from repo_agent.rollout.replay import called, runnable_tasks
from repo_agent.tasks.task import Task
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import LADDER, rungs
from repo_agent.traces import events


class Reply(NamedTuple):
    """What a model said to a context."""

    context: Context
    text: str
    finish: str
    """`stop`, or `length` where the limit of tokens cut it off."""


class Graded(NamedTuple):
    """What a reply is worth, and its turn class."""

    reward: float
    turn_class: str


@dataclass
class Grader:
    """Grades replies to the contexts of one contract; the same reply to the same context once."""

    found: Contexts
    _known: dict[tuple[int, str, str], Graded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found, protocol = self.found, protocol_named(self.found.contract.protocol)
        functions = any(spec.fn for spec in found.registry.specs.values())
        same = contract_of(found.registry, protocol.name).hash == found.contract.hash
        self._spec = AgentSpec(found.registry, protocol, Limits(max_steps=1, tests="never"))
        self._judged = Registry.from_openai(found.registry.schemas()) if functions else found.registry
        self._tasks = runnable_tasks(found) if functions and same else {}

    def runs(self, context: Context) -> bool:
        """Whether the calls of replies to it are run."""
        return self._task(context) is not None

    def grade(self, replies: Sequence[Reply]) -> list[Graded]:
        """Raises InfraError where a tool fails by our own fault."""
        keys = [(id(reply.context), reply.text, reply.finish) for reply in replies]
        fresh = {key: reply for key, reply in zip(keys, replies, strict=True) if key not in self._known}

        async def all_fresh() -> list[Graded]:
            return list(await asyncio.gather(*map(self._grade, fresh.values())))

        self._known.update(zip(fresh, asyncio.run(all_fresh()), strict=True))
        return [self._known[key] for key in keys]

    def _task(self, context: Context) -> Task | None:
        return self._tasks.get((context.runnable, context.task)) if context.runnable else None

    async def _grade(self, reply: Reply) -> Graded:
        """The reply is played as one turn of the loop that every rollout goes through."""
        context, told = reply.context, list[events.Event]()
        task = self._task(context)
        async with workspace_of(task) if task else nullcontext() as workspace:
            rollout = Rollout(
                model=_Said(reply.text, reply.finish),
                spec=self._spec,
                root=workspace.root if workspace else Path(),
                run_tests=None,
                emit=told.append,
                sampling=Sampling(),
                seed=0,
                guarded=guarded(task, self._spec.registry) if task else self._judged,
                any_call=called(context, self._spec),
                parallel=context.parallel,
            )
            await rollout.replay(context.messages, context.writes if task else (), None)
        action = next(event for event in told if isinstance(event, events.LlmAction))
        repeated = any(call_key(ToolCall(**call)) in context.asked for call in action.calls)
        return Graded(
            reward_of(action.turn_class, context, runs=task is not None, repeated=repeated), action.turn_class
        )


def reward_of(turn_class: str, context: Context, *, runs: bool, repeated: bool) -> float:
    """See the table above."""
    top = len(LADDER)
    if turn_class == "infra_error":
        raise InfraError("reward", "a turn that failed by our own fault has no reward")
    if turn_class == "final":
        passed = top if context.passing else rungs("early_final")
    else:
        passed = rungs(turn_class)
        if turn_class == "ok" and (repeated or context.passing or not runs):
            passed = top - 1
    return passed / top


@dataclass
class _Said:
    """A model that says one text."""

    text: str
    finish: str
    name: str = "recorded"

    async def complete(self, request: Request) -> Completion:
        return Completion(self.text, self.finish, Usage(0, 0))

    async def close(self) -> None:
        pass
