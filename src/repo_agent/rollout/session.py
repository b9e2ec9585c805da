"""A session with a run directory: what is pending is played, however the model or the user ends it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from repo_agent.errors import StoreError
from repo_agent.models import Model
from repo_agent.models.prices import Prices
from repo_agent.rollout.meter import INTERRUPTED, Budget, Meter
from repo_agent.rollout.runner import Play, Rollouts, Watch, allow_files, run_rollouts
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

Begin = Callable[[], Awaitable[tuple[Play, Sequence[events.LlmAction]]]]
"""Checks the model before anything is written; returns what plays a rollout, and replies that cost tokens already."""


class Budgeted(Protocol):
    """What a command says of its run directory, of how much runs at once, and of what it may spend."""

    @property
    def out(self) -> Path: ...
    @property
    def jobs(self) -> int: ...
    @property
    def budget_usd(self) -> float | None: ...
    @property
    def budget_tokens(self) -> int | None: ...


@dataclass(frozen=True)
class Session:
    """What is to be played, and into which run directory."""

    out: Path
    record: dict[str, Any]
    """run.json"""
    wanted: Rollouts
    jobs: int
    meter: Meter
    watch: Watch

    @property
    def pending(self) -> Rollouts:
        return RunDir(self.out).pending(self.wanted)


def session_of(
    options: Budgeted, record: dict[str, Any], wanted: Rollouts, prices: Prices | None, watch: Watch | None
) -> Session:
    """A session before anything is loaded. Raises UserError for a run directory of other settings, and for a budget
    that cannot be kept."""
    run = RunDir(options.out)
    if options.out.exists():
        RunDir.open(options.out, record)
    meter = Meter(Budget(options.budget_usd, options.budget_tokens), prices, run.spent())
    session = Session(options.out, record, wanted, options.jobs, meter, watch or Watch())
    allow_files(min(options.jobs, len(session.pending)))
    return session


def carry_out(session: Session, model: Model | None, begin: Begin) -> dict[str, Any]:
    """Play what is pending; returns the command's JSON. Where a stop ended it, `stopped` says which. The model is
    closed in the end.

    Raises what `begin` and `run_rollouts` raise, and UserError for a run directory of other settings.
    """
    started, meter, watch = time.monotonic(), session.meter, session.watch

    async def play() -> tuple[RunDir, list[tuple[str, int]]]:
        try:
            plays, replies = await begin()
            run_dir = RunDir.open(session.out, session.record)
            if replies:
                run_dir.add_canary(replies)
            done = len(session.wanted) - len(session.pending)
            watch.start(len(session.wanted), done, _turns(run_dir.rows()), meter)
            with interrupted(lambda: _interrupt(meter, watch)):
                return run_dir, await run_rollouts(session.wanted, plays, run_dir, session.jobs, meter, watch)
        finally:
            if model:
                await model.close()

    try:
        run_dir, elsewhere = asyncio.run(play())
    except ExceptionGroup as group:
        raise first(group) from None
    return _summary(run_dir, session.wanted, elsewhere, meter, time.monotonic() - started)


@contextmanager
def interrupted(polite: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C inside the block calls `polite`; the next one ends the process as ever."""
    loop = asyncio.get_running_loop()

    def once() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        polite()

    with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
        loop.add_signal_handler(signal.SIGINT, once)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _interrupt(meter: Meter, watch: Watch) -> None:
    meter.stop("stopped", INTERRUPTED)
    watch.stopping()


def first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error to show of several: a full disk before what it has caused, else the first."""
    disk = [error for error in group.exceptions if isinstance(error, StoreError)]
    found = (disk or group.exceptions)[0]
    return first(found) if isinstance(found, BaseExceptionGroup) else found


def _turns(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Turn class → number of turns."""
    turns: Counter[str] = Counter()
    for row in rows:
        turns.update(row["classes"])
    return turns


def _summary(
    run_dir: RunDir, wanted: Rollouts, elsewhere: list[tuple[str, int]], meter: Meter, seconds: float
) -> dict[str, Any]:
    rows = run_dir.write_index()
    pending = run_dir.pending(wanted)
    return {
        "rollouts": len(rows),
        "passed": sum(bool(row["passed"]) for row in rows),
        "pending": len(pending),
        "elsewhere": len({*pending} & {*elsewhere}),
        "turns": dict(_turns(rows).most_common()),
        "tokens": meter.tokens,
        "cost_usd": meter.usd,
        "stopped": {"reason": meter.stopped.reason, "code": meter.stopped.code} if meter.stopped and pending else None,
        "seconds": round(seconds, 1),
    }
