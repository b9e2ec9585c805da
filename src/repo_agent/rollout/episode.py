"""One rollout: one task, one model, one trace."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from repo_agent.agent import Limits, Rollout
from repo_agent.errors import InfraError, boundary
from repo_agent.messages import digest
from repo_agent.models import Model, Sampling
from repo_agent.protocols import Protocol
from repo_agent.sandbox.grade import grade
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.workspace import Workspace
from repo_agent.tasks import test_job
from repo_agent.tasks.task import Task
from repo_agent.tools.registry import Registry
from repo_agent.traces import events
from repo_agent.traces.store import TraceWriter


@dataclass(frozen=True)
class Setting:
    """What all rollouts of a run share."""

    suite: str
    arm: str
    model: str
    protocol: Protocol
    registry: Registry
    sampling: Sampling
    limits: Limits
    seed: int
    constrain: bool
    isolation: Isolation

    def rollout_seed(self, task: Task, number: int) -> int:
        """The same for every arm: it depends on the run's seed, the task and the rollout's number alone."""
        return int(digest([self.seed, task.id, number]), 16) % 2**31


async def play(task: Task, number: int, model: Model, setting: Setting, writer: TraceWriter) -> events.RunEnd:
    """Play one rollout into its trace; a failure of ours goes to errors/ and is owed again.

    The returned event tells how it ended; `ended == "error"` is ours.
    """
    started = time.monotonic()
    seed = setting.rollout_seed(task, number)
    writer.emit(_start(task, number, setting, seed))
    with Workspace(task.files) as workspace:
        tests = _Tests(task, workspace, setting.isolation)
        rollout = Rollout(
            model=model,
            protocol=setting.protocol,
            registry=setting.registry,
            root=workspace.root,
            run_tests=tests.run,
            emit=writer.emit,
            sampling=setting.sampling,
            seed=seed,
            limits=setting.limits,
            constrain=setting.constrain,
        )
        passed, error = None, ""
        try:
            ended = await rollout.run(task.goal)
            with boundary("grade"):
                verdict = await tests.run("grade")
            writer.emit(verdict)
            passed = verdict.outcome == "passed"
        except InfraError as failure:
            ended, error = "error", str(failure)
    end = events.RunEnd(
        ended=ended,
        passed=passed,
        steps=rollout.steps,
        prompt_tokens=rollout.prompt_tokens,
        completion_tokens=rollout.completion_tokens,
        seconds=round(time.monotonic() - started, 3),
        error=error,
    )
    writer.emit(end)
    if ended == "error":
        writer.fail()
    else:
        writer.commit()
    return end


class _Tests:
    """Runs a task's tests on the workspace as it is; an unchanged workspace is not run twice."""

    def __init__(self, task: Task, workspace: Workspace, isolation: Isolation) -> None:
        self._job, self._workspace, self._isolation = test_job(task), workspace, isolation
        self._last: tuple[str, Grade] | None = None

    async def run(self, when: events.When) -> events.Tests:
        state = self._workspace.digest()
        if self._last is None or self._last[0] != state:
            self._last = state, await grade(self._workspace.root, self._job, self._isolation)
        return events.Tests(when=when, **asdict(self._last[1]))


def _start(task: Task, number: int, setting: Setting, seed: int) -> events.RunStart:
    return events.RunStart(
        task=task.id,
        group=task.split_group,
        task_hash=task.hash,
        suite=setting.suite,
        rollout=number,
        arm=setting.arm,
        model=setting.model,
        protocol=setting.protocol.name,
        system=setting.protocol.describe(setting.registry),
        tools=setting.registry.schemas(),
        sampling=asdict(setting.sampling),
        seed=seed,
        isolation=setting.isolation.name,
    )
