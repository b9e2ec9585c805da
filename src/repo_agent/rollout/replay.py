"""Replay: the next call in recorded contexts, judged, and executed where the tools are ours. One trace a call."""

from __future__ import annotations

import platform
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repo_agent.agent.loop import Rollout, in_thread
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import InfraError, Stopped, StoreError, UserError
from repo_agent.messages import digest, text_hash, tilde
from repo_agent.models import Model, Sampling
from repo_agent.models.prices import find_prices
from repo_agent.models.resolve import open_model
from repo_agent.models.tokens import TokenCounter
from repo_agent.protocols import protocol_named
from repo_agent.rollout.contexts import Context, Contexts, contexts_of
from repo_agent.rollout.episode import Outcome, end_of, guarded, put_away, workspace_of
from repo_agent.rollout.meter import Budget, Meter, Metered
from repo_agent.rollout.options import arm_name, check_model
from repo_agent.rollout.record import adapter_keys, adapter_record, check_adapter
from repo_agent.rollout.runner import Play, Watch, allow_files
from repo_agent.rollout.served import prove_served
from repo_agent.rollout.session import Session, carry_out
from repo_agent.tasks import load_suite
from repo_agent.tasks.task import Task
from repo_agent.tools.own import load_tools, source_hash
from repo_agent.tools.registry import Registry
from repo_agent.traces import events
from repo_agent.traces.store import PROMPT, TOOLS, RunDir, tool_hashes
from repo_agent.traces.writer import TraceWriter


@dataclass(frozen=True)
class ReplayOptions:
    """What `repo-agent replay` takes; see its help."""

    paths: Sequence[Path]
    model: str
    out: Path
    tasks: Collection[str] | None
    """Whose contexts are replayed; None: all."""
    split: str = "held-out"
    dataset: Path | None = None
    """What told the split, where it was a dataset."""
    adapter: Path | None = None
    tools: str | None = None
    constrain: bool = False
    contexts: int = 20
    """Of each task, at most."""
    samples: int = 1
    """Of each context."""
    temperature: float = 0.7
    max_tokens: int = 4096
    seed: int = 0
    jobs: int = 8
    observation_chars: int = Limits.observation_chars
    read_chars: int = Limits.read_chars
    budget_usd: float | None = None
    budget_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True)
class _Shared:
    """What all replayed turns of a run share."""

    options: ReplayOptions
    found: Contexts
    spec: AgentSpec
    tasks: Mapping[str, Task]
    """Tasks whose files are as they were when the contexts were recorded: calls can run on them."""
    seen_only: Registry
    """The same tools without functions, where a call cannot run."""
    counter: TokenCounter
    constraint: str | None = None


def run_replay(options: ReplayOptions, watch: Watch | None = None) -> dict[str, Any]:
    """Ask for the next call in each context, so many times; returns the command's JSON. An unfinished run directory of
    the same settings is resumed.

    Raises UserError for bad options or contexts that are not there, InfraError where the model keeps failing.
    """
    check_model(options.model, options.adapter)
    given = load_tools(options.tools) if options.tools else None
    found = contexts_of(options.paths, options.tasks, options.contexts, given)
    if not found.by_task:
        reasons = ", ".join(f"{count} turns {why}" for why, count in found.left_out.most_common())
        remedy = "Give runs with rollouts of tasks on that side, or --split all"
        raise UserError(f"hold no context to replay ({reasons or 'no turn'})", _named(options.paths), remedy)
    shared = _shared(options, found)
    record = _record(shared)
    if options.out.exists():
        RunDir.open(options.out, record)  # other settings are refused before weights are loaded
    prices = find_prices(options.model, options.price_in, options.price_out)
    meter = Meter(Budget(options.budget_usd, options.budget_tokens), prices, RunDir(options.out).spent())
    numbers = {task: len(contexts) * options.samples for task, contexts in found.by_task.items()}
    wanted = [(task, k) for k in range(max(numbers.values())) for task, count in numbers.items() if k < count]
    session = Session(options.out, record, wanted, options.jobs, meter, watch or Watch())
    allow_files(min(options.jobs, len(session.pending)))
    model = open_model(options.model) if session.pending else None

    async def begin() -> tuple[Play, Sequence[events.LlmAction]]:
        schema = shared.spec.protocol.schema(shared.spec.registry) if options.constrain else None
        constraint, canary = await prove_served(options, model, schema, meter)
        return _player(shared, constraint, model, meter, session.watch), canary

    result = carry_out(session, model, begin)
    runnable = sum(task in shared.tasks for task, _ in wanted)
    contexts = {"contexts": sum(map(len, found.by_task.values())), "tasks": len(found.by_task)}
    return {**result, **contexts, "runnable": runnable, "left_out": dict(found.left_out), "problems": found.problems}


def _shared(options: ReplayOptions, found: Contexts) -> _Shared:
    protocol = protocol_named(found.contract.protocol)
    limits = Limits(max_steps=1, observation_chars=options.observation_chars, read_chars=options.read_chars,
                    tests="never")  # fmt: skip
    if options.constrain and protocol.schema(found.registry) is None:
        what = f"a reply of the protocol {protocol.name} is more than one JSON value"
        raise UserError(what, "--constrain", "Leave it out")
    runs = {context.runnable for contexts in found.by_task.values() for context in contexts if context.runnable}
    can_run = all(spec.fn for spec in found.registry.specs.values())
    tasks = {name: task for run in runs for name, task in _tasks_of(run).items()} if can_run else {}
    trained = adapter_record(options)
    counter = TokenCounter(trained.base if trained and options.adapter else None)
    spec = AgentSpec(found.registry, protocol, limits)
    return _Shared(options, found, spec, tasks, Registry.from_openai(found.registry.schemas()), counter)


def _tasks_of(run: Path) -> dict[str, Task]:
    """The tasks of a run of ours that are still what they were when it ran."""
    record = RunDir(run).record
    try:
        suite = load_suite(record["suite"])
    except (UserError, KeyError):
        return {}
    hashes = record.get("task_hashes") or {}
    return {task.id: task for task in suite.tasks if hashes.get(task.id) == task.hash}


def _record(shared: _Shared) -> dict[str, Any]:
    """run.json. Raises UserError where the adapter does not belong to these contexts."""
    options, found, contract = shared.options, shared.found, shared.found.contract
    tasks = list(found.by_task)
    trained = adapter_record(options)
    if trained:
        check_adapter(options, trained, contract.hash, tasks)
    prompts = {one.messages[0].content for contexts in found.by_task.values() for one in contexts
               if one.messages[0].role == "system"}  # fmt: skip
    groups = {one.group for contexts in found.by_task.values() for one in contexts}
    return {
        "format": 1,
        "kind": "replay",
        "arm": arm_name(options.model, options.constrain),
        "model": tilde(options.model),
        "constrain": options.constrain,
        "suite": _named(options.paths),
        "runs": [tilde(str(path)) for path in options.paths],
        "dataset": tilde(str(options.dataset)) if options.dataset else None,
        "suite_hash": found.hash,
        "split": options.split,
        "tasks": tasks,
        "train": [],
        "held_out": tasks if options.split == "held-out" else [],
        "held_out_groups": len(groups),
        "rollouts": {task: len(contexts) * options.samples for task, contexts in found.by_task.items()},
        "samples": options.samples,
        "contexts": options.contexts,
        "seed": options.seed,
        "protocol": contract.protocol,
        "sampling": asdict(Sampling(options.temperature, options.max_tokens)),
        "limits": asdict(shared.spec.limits),
        "executed": sorted(shared.tasks.keys() & set(tasks)),
        "contract": contract.hash,
        TOOLS: tool_hashes(found.registry.schemas()),
        PROMPT: text_hash(prompts.pop()) if len(prompts) == 1 else None,
        "tools": {"module": tilde(options.tools), "hash": source_hash(options.tools)} if options.tools else None,
        **adapter_keys(options, trained),
        "versions": {"python": platform.python_version(), "repo-agent": version("repo-agent")},
    }


def _named(paths: Sequence[Path]) -> str:
    return " ".join(tilde(str(path)) for path in paths)


def _player(shared: _Shared, constraint: str | None, model: Model | None, meter: Meter, watch: Watch) -> Play:
    """Plays one sample of one context; every request is metered. The model is None where nothing is pending."""

    def one(task: str, number: int, writer: TraceWriter) -> Awaitable[events.RunEnd]:
        assert model is not None
        context = shared.found.by_task[task][number // shared.options.samples]
        return _play(context, number, Metered(model, meter), shared, constraint, writer, watch)

    return one


async def _play(
    context: Context, number: int, model: Model, shared: _Shared, constraint: str | None, writer: TraceWriter,
    watch: Watch,
) -> events.RunEnd:  # fmt: skip
    """One next call into its trace; one that our failure or a stop ended is pending again."""
    started, seed = time.monotonic(), int(digest([shared.options.seed, context.task, number]), 16) % 2**31
    outcome, rollout = Outcome(), None
    held: list[events.Event] = [_start(context, number, shared, constraint, seed)]
    try:
        async with AsyncExitStack() as stack:
            task = shared.tasks.get(context.task) if context.runnable else None
            workspace = await stack.enter_async_context(workspace_of(task)) if task else None
            rollout = Rollout(
                model=model,
                spec=shared.spec,
                root=workspace.root if workspace else Path(),
                run_tests=None,
                emit=held.append,
                sampling=Sampling(shared.options.temperature, shared.options.max_tokens),
                seed=seed,
                constrain=shared.options.constrain,
                guarded=guarded(task, shared.spec.registry) if task else shared.seen_only,
                any_call=_called(context, shared.spec),
                counter=shared.counter,
                parallel=context.parallel,
            )
            tools = shared.found.contract.printed_tools
            outcome.ended = await rollout.replay(context.messages, context.writes if task else (), tools)
    except Stopped as stop:
        outcome = Outcome("stopped", error=stop.reason)
    except StoreError:
        raise
    except InfraError as failure:
        outcome = Outcome("error", error=str(failure))
    try:
        end = end_of(rollout, outcome, find_prices(shared.options.model, shared.options.price_in,
                                                    shared.options.price_out), time.monotonic() - started)  # fmt: skip
        for event in (*held, end):
            watch.event(event)
        writer.emit(*held, end)
        await in_thread(put_away, writer, end)
        return end
    finally:
        writer.close()


def _called(context: Context, spec: AgentSpec) -> bool:
    """Whether a call was made before."""
    said = [message for message in context.messages if message.role == "assistant"]
    return any(m.tool_calls or spec.protocol.parse(m.content, spec.registry.specs).call for m in said)


def _start(context: Context, number: int, shared: _Shared, constraint: str | None, seed: int) -> events.RunStart:
    first = context.messages[0]
    return events.RunStart(
        task=context.task,
        group=context.group,
        task_hash=None,
        suite=None,
        rollout=number,
        arm=arm_name(shared.options.model, shared.options.constrain),
        model=tilde(shared.options.model),
        protocol=shared.spec.protocol.name,
        system=first.content if first.role == "system" else "",
        tools=shared.found.contract.tools,
        sampling=asdict(Sampling(shared.options.temperature, shared.options.max_tokens))
        | {"parallel_tool_calls": context.parallel},
        seed=seed,
        isolation=None,
        source="replay",
        constraint=constraint,
    )
