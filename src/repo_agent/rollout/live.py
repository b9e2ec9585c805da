"""Live rollouts: one arm, played over one side of a suite, into one run directory that can be resumed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from repo_agent.errors import StoreError, UserError
from repo_agent.models import Completion, Constrainable, Model, Request
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.resolve import open_model
from repo_agent.models.tokens import TokenCounter
from repo_agent.rollout.episode import Setting
from repo_agent.rollout.meter import INTERRUPTED, Budget, Meter, Metered
from repo_agent.rollout.options import EvalOptions, check, chosen, setting
from repo_agent.rollout.oracle import oracle, playable
from repo_agent.rollout.record import adapter_record, is_base, run_record
from repo_agent.rollout.runner import Watch, allow_files, run_rollouts
from repo_agent.tasks import load_suite
from repo_agent.tasks.task import Task
from repo_agent.traces import events
from repo_agent.traces.store import RunDir


def run_eval(options: EvalOptions, watch: Watch | None = None) -> dict[str, Any]:
    """Play the pending rollouts of a run directory; returns the command's JSON. Where a stop ended it, `stopped` says
    which.

    Raises UserError for bad options, a run of other settings, or an adapter that does not belong to it; InfraError
    where the model or the grader keeps failing.
    """
    started, watch = time.monotonic(), watch or Watch()
    check(options)
    suite = load_suite(options.suite)
    tasks = chosen(suite, options)
    shared = setting(options, suite)
    if options.model == "oracle":
        playable(shared.spec, tasks)
    record = run_record(options, suite, tasks, shared)
    if options.adapter:
        shared = replace(shared, counter=TokenCounter(record["adapter"]["base"]))
    if options.out.exists():
        RunDir.open(options.out, record)  # other settings are refused before weights are loaded
    meter = Meter(Budget(options.budget_usd, options.budget_tokens), shared.prices, RunDir(options.out).spent())
    wanted = [(task.id, number) for task in tasks for number in range(options.rollouts)]
    pending = RunDir(options.out).pending(wanted)
    allow_files(min(options.jobs, len(pending)))
    model = open_model(options.model) if pending and options.model != "oracle" else None

    def model_for(task: Task, number: int) -> Model:
        return model or oracle(task, shared.spec.protocol, shared.rollout_seed(task, number))

    async def play() -> tuple[RunDir, list[tuple[str, int]]]:
        try:
            await _check_served(options, model)
            proved, canary = await _proved(shared, model, meter)
            run_dir = RunDir.open(options.out, record)
            if canary:
                run_dir.add_canary(canary)
            watch.start(len(wanted), len(wanted) - len(pending), _turns(run_dir.rows()), meter)
            with interrupted(lambda: _interrupt(meter, watch)):
                return run_dir, await run_rollouts(
                    tasks, options.rollouts, model_for, proved, run_dir, options.jobs, meter, watch
                )
        finally:
            if model:
                await model.close()

    try:
        run_dir, elsewhere = asyncio.run(play())
    except ExceptionGroup as group:
        raise first(group) from None
    return _summary(run_dir, wanted, elsewhere, meter, time.monotonic() - started)


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


async def _check_served(options: EvalOptions, model: Model | None) -> None:
    """Raise UserError where a server says that it runs the adapter on another base than its own."""
    trained = adapter_record(options) if options.adapter else None
    served = await model.bases() if trained and isinstance(model, OpenAIChat) else []
    if trained and served and not any(is_base(trained, base) for base in served):
        what = f"was trained on {trained.base}, and the server runs {options.model} on {' = '.join(served)}"
        raise UserError(what, str(options.adapter), f"Serve it on {trained.base}, under that name")


async def _proved(shared: Setting, model: Model | None, meter: Meter) -> tuple[Setting, list[events.LlmAction]]:
    """The setting with how the model's replies are constrained to the schema, and the replies that proved it.

    Raises UserError where they turn out not to be, Stopped where the budget does not hold the proof.
    """
    schema = shared.spec.protocol.schema(shared.spec.registry) if shared.constrain else None
    replies: list[events.LlmAction] = []
    if schema is None or not isinstance(model, Constrainable):
        return shared, replies

    async def ask(request: Request) -> Completion:
        completion = await Metered(model, meter).complete(request)
        reply = events.LlmAction(
            text=completion.text,
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            seconds=None,
            turn_class="unjudged",
            lenient_ok=False,
        )
        replies.append(reply)
        return completion

    return replace(shared, constraint=await model.constraint(schema, ask)), replies


def _turns(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Turn class → number of turns."""
    turns: Counter[str] = Counter()
    for row in rows:
        turns.update(row["classes"])
    return turns


def _summary(
    run_dir: RunDir, wanted: list[tuple[str, int]], elsewhere: list[tuple[str, int]], meter: Meter, seconds: float
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
