"""One rollout: one task, one model, one trace."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from repo_agent.agent.loop import Rollout, in_thread
from repo_agent.agent.spec import AgentSpec
from repo_agent.errors import InfraError, Stopped, StoreError, boundary
from repo_agent.messages import seed_of
from repo_agent.models import Model, Sampling
from repo_agent.models.prices import Prices
from repo_agent.models.tokens import TokenCounter
from repo_agent.rollout.meter import Meter, Metered
from repo_agent.rollout.runner import Play, Watch, run_rollouts
from repo_agent.sandbox.grade import grade
from repo_agent.sandbox.isolate import Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.workspace import Workspace
from repo_agent.tasks import test_job
from repo_agent.tasks.similar import verbatim
from repo_agent.tasks.task import Task, may_write
from repo_agent.tools.files import read_only
from repo_agent.tools.registry import Registry
from repo_agent.traces import events
from repo_agent.traces.store import RunDir
from repo_agent.traces.writer import TraceWriter

OnEvent = Callable[[events.Event], None]
ModelFor = Callable[[Task, int], Model]
"""The model that plays rollout `number` of a task."""
Playing = Callable[[OnEvent], Awaitable["tuple[Rollout | None, Outcome]"]]
"""Plays and tells its events; gives the rollout, None where it did not come to one, and what came of it."""
Grader = Callable[[Path, TestJob, Isolation], Awaitable[Grade]]


@dataclass(frozen=True)
class Setting:
    """What all rollouts of a run share."""

    suite: str
    arm: str
    model: str
    spec: AgentSpec
    sampling: Sampling
    seed: int
    constrain: bool
    isolation: Isolation
    constraint: str | None = None
    """How the model holds replies to the schema, where `constrain` is on."""
    isolated_io: bool = False
    """Compare results outside of the tested code's process, where a task has cases."""
    prices: Prices | None = None
    counter: TokenCounter = field(default_factory=TokenCounter)
    """Counts replies whose server does not."""
    grade: Grader = grade
    """What runs the tests; a benchmark of the loop alone puts something idle here."""

    def rollout_seed(self, task: Task, number: int) -> int:
        """The same for every arm."""
        return seed_of(self.seed, task.id, number)


async def play_all(
    tasks: Sequence[Task],
    rollouts: int,
    model_for: ModelFor,
    setting: Setting,
    run_dir: RunDir,
    jobs: int,
    meter: Meter | None = None,
    watch: Watch | None = None,
) -> list[tuple[str, int]]:
    """Play what is pending of so many rollouts of each task; see `runner.run_rollouts`."""
    meter, watch = meter or Meter(), watch or Watch()
    plays = player(tasks, model_for, setting, meter, watch)
    return await run_rollouts(rollouts_of(tasks, rollouts), plays, run_dir, jobs, meter, watch)


def rollouts_of(tasks: Sequence[Task], rollouts: int) -> list[tuple[str, int]]:
    """In the order of play: each task once before any is played again."""
    return [(task.id, number) for number in range(rollouts) for task in tasks]


def player(tasks: Sequence[Task], model_for: ModelFor, setting: Setting, meter: Meter, watch: Watch) -> Play:
    """Plays a rollout of one of these tasks; every request is metered."""
    by_id = {task.id: task for task in tasks}

    def one(task_id: str, number: int, writer: TraceWriter) -> Awaitable[events.RunEnd]:
        task = by_id[task_id]
        return play(task, number, Metered(model_for(task, number), meter), setting, writer, watch.event)

    return one


async def play(
    task: Task, number: int, model: Model, setting: Setting, writer: TraceWriter, watch: OnEvent | None = None
) -> events.RunEnd:
    """Play one rollout into its trace; see `traced`."""
    seed = setting.rollout_seed(task, number)
    start, played = _start(task, number, setting, seed), partial(_played, task, model, setting, seed)
    return await traced(start, played, setting.prices, writer, watch)


async def traced(
    start: events.RunStart, played: Playing, prices: Prices | None, writer: TraceWriter, watch: OnEvent | None
) -> events.RunEnd:
    """Write what is `played` into its trace; one that our failure or a stop ended goes to errors/ and is pending again.

    The returned event tells how it ended; `ended` is "error" for ours, "stopped" for a stop. `watch` sees every event.
    Raises StoreError where the trace cannot be written.
    """
    started = time.monotonic()
    held: list[events.Event] = []

    def emit(event: events.Event) -> None:
        """A request, and a reply whose result follows at once, are written together with the next event."""
        held.append(event)
        if not isinstance(event, events.LlmRequest) and getattr(event, "turn_class", "") not in events.HAVE_RESULTS:
            writer.emit(*held)
            held.clear()
        if watch:
            watch(event)

    try:
        emit(start)
        rollout, outcome = await played(emit)
        end = _end(rollout, outcome, prices, time.monotonic() - started)
        emit(end)
        await in_thread(_put_away, writer, end)
        return end
    finally:
        writer.close()


@dataclass
class Outcome:
    """What came of a rollout; by default an error of ours."""

    ended: str = "error"
    passed: bool | None = None
    verbatim: bool | None = None
    error: str = ""


@contextmanager
def noted(outcome: Outcome) -> Iterator[None]:
    """A stop, and a failure of ours, inside the block become the outcome; but for a store that cannot be written."""
    try:
        yield
        return
    except StoreError:
        raise
    except Stopped as stop:
        ended, error = "stopped", stop.reason
    except InfraError as failure:
        ended, error = "error", str(failure)
    outcome.ended, outcome.passed, outcome.verbatim, outcome.error = ended, None, None, error


async def _played(
    task: Task, model: Model, setting: Setting, seed: int, emit: Callable[[events.Event], None]
) -> tuple[Rollout | None, Outcome]:
    """The rollout at its end, None where its workspace could not be made, and what came of it."""
    outcome, rollout = Outcome(), None
    with noted(outcome):
        async with workspace_of(task) as workspace:
            tests = _Tests(task, workspace, setting)
            rollout = Rollout(
                model=model,
                spec=setting.spec,
                root=workspace.root,
                run_tests=tests.run,
                emit=emit,
                sampling=setting.sampling,
                seed=seed,
                constrain=setting.constrain,
                guarded=guarded(task, setting.spec.registry),
                counter=setting.counter,
            )
            ended = await rollout.run(task.goal)
            with boundary("grade"):
                verdict = await tests.run("grade")
            emit(verdict)
            outcome.ended, outcome.passed, outcome.verbatim = ended, verdict.outcome == "passed", tests.verbatim
    return rollout, outcome


@asynccontextmanager
async def workspace_of(task: Task) -> AsyncIterator[Workspace]:
    """A workspace that is made and cleared away without holding up other rollouts."""
    workspace = Workspace(task.files)
    with boundary("workspace"):
        await in_thread(workspace.__enter__)
    try:
        yield workspace
    finally:
        await in_thread(workspace.__exit__, None, None, None)


def _end(rollout: Rollout | None, outcome: Outcome, prices: Prices | None, seconds: float) -> events.RunEnd:
    """The last line of a trace."""
    prompt, completion = (rollout.prompt_tokens, rollout.completion_tokens) if rollout else (0, 0)
    known = prices and prompt is not None and completion is not None
    return events.RunEnd(
        ended=outcome.ended,
        passed=outcome.passed,
        steps=rollout.steps if rollout else 0,
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds=round(seconds, 3),
        error=outcome.error,
        verbatim=outcome.verbatim,
        cost_usd=prices.cost(prompt or 0, completion or 0) if known and prices else None,
    )


def _put_away(writer: TraceWriter, end: events.RunEnd) -> None:
    """Where a trace belongs that ended so."""
    if end.ended not in ("error", "stopped"):
        writer.commit()
    elif end.ended == "error" or end.steps:
        writer.fail()
    else:
        writer.drop()


def guarded(task: Task, registry: Registry) -> Registry | None:
    """Where the task says what may be written, the same tools with a write_file that refuses the rest."""
    if not task.writable:
        return None
    return read_only(registry, partial(may_write, patterns=task.writable), ", ".join(task.writable))


class _Tests:
    """Runs a task's tests on the workspace as it is; an unchanged workspace is not run twice."""

    def __init__(self, task: Task, workspace: Workspace, setting: Setting) -> None:
        self._task, self._workspace, self._setting = task, workspace, setting
        self._last: tuple[str, Grade] | None = None
        self.verbatim: bool | None = None
        """As of the last run."""

    async def run(self, when: events.When) -> events.Tests:
        state, job = await in_thread(self._state)
        if self._last is None or self._last[0] != state:
            self._last = state, await self._setting.grade(self._workspace.root, job, self._setting.isolation)
        return events.Tests(when=when, **asdict(self._last[1]))

    def _state(self) -> tuple[str, TestJob]:
        self.verbatim = verbatim(self._task, self._workspace.root)
        return self._workspace.digest(), test_job(self._task, self._setting.isolated_io)


def _start(task: Task, number: int, setting: Setting, seed: int) -> events.RunStart:
    return events.RunStart(
        task=task.id,
        group=task.split_group,
        task_hash=task.hash,
        suite=setting.suite,
        rollout=number,
        arm=setting.arm,
        model=setting.model,
        protocol=setting.spec.protocol.name,
        system=setting.spec.system,
        tools=setting.spec.registry.schemas(),
        sampling=asdict(setting.sampling),
        seed=seed,
        isolation=setting.isolation.name,
        constraint=setting.constraint,
    )
