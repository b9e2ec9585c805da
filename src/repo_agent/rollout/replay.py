"""Replay: the next call in recorded contexts, judged, and executed where the tools are ours. One trace a call."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import UserError
from repo_agent.messages import seed_of, text_hash, tilde
from repo_agent.models import Model, Sampling
from repo_agent.models.prices import Prices, find_prices
from repo_agent.models.resolve import open_model
from repo_agent.models.tokens import TokenCounter
from repo_agent.protocols import protocol_named
from repo_agent.protocols.contract import contract_of
from repo_agent.rollout.contexts import Context, Contexts, contexts_of
from repo_agent.rollout.episode import OnEvent, Outcome, guarded, noted, traced, workspace_of
from repo_agent.rollout.meter import Metered
from repo_agent.rollout.options import arm_name, check_model
from repo_agent.rollout.record import adapter_keys, adapter_record, check_adapter
from repo_agent.rollout.runner import Play, Watch
from repo_agent.rollout.served import prove_served
from repo_agent.rollout.session import Session, carry_out, session_of
from repo_agent.tasks import load_suite
from repo_agent.tasks.task import Suite, Task
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
    suite: str | None = None
    """What told the split, where it was not the runs."""
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
    judged: Registry
    """The same tools without functions, where a call cannot run."""
    tasks: Mapping[tuple[Path, str], Task]
    """By run and id, the tasks whose files are as they were when the contexts were recorded: calls can run on them."""
    counter: TokenCounter
    prices: Prices | None
    constraint: str | None = None

    def task_of(self, context: Context) -> Task | None:
        return self.tasks.get((context.runnable, context.task)) if context.runnable else None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.options.temperature, self.options.max_tokens)


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
    numbers = record["rollouts"]
    wanted = [(task, k) for k in range(max(numbers.values())) for task, count in numbers.items() if k < count]
    session = session_of(options, record, wanted, shared.prices, watch)
    model = open_model(options.model) if session.pending else None

    async def begin() -> tuple[Play, Sequence[events.LlmAction]]:
        schema = shared.spec.protocol.schema(shared.spec.registry) if options.constrain else None
        constraint, canary = await prove_served(options, model, schema, session.meter)
        return _player(replace(shared, constraint=constraint), model, session), canary

    result = carry_out(session, model, begin)
    contexts = [context for of_task in found.by_task.values() for context in of_task]
    return {
        **result,
        "contexts": len(contexts),
        "tasks": len(found.by_task),
        "runnable": options.samples * sum(shared.task_of(context) is not None for context in contexts),
        "left_out": dict(found.left_out),
        "problems": found.problems,
    }


def _shared(options: ReplayOptions, found: Contexts) -> _Shared:
    protocol, registry = protocol_named(found.contract.protocol), found.registry
    limits = Limits(max_steps=1, observation_chars=options.observation_chars, read_chars=options.read_chars,
                    tests="never")  # fmt: skip
    if options.constrain and protocol.schema(registry) is None:
        what = f"a reply of the protocol {protocol.name} is more than one JSON value"
        raise UserError(what, "--constrain", "Leave it out")
    functions = any(spec.fn for spec in registry.specs.values())
    same = contract_of(registry, protocol.name).hash == found.contract.hash
    trained = adapter_record(options)
    return _Shared(
        options,
        found,
        AgentSpec(registry, protocol, limits),
        Registry.from_openai(registry.schemas()) if functions else registry,
        runnable_tasks(found) if functions and same else {},
        TokenCounter(trained.base if trained and options.adapter else None),
        find_prices(options.model, options.price_in, options.price_out),
    )


def runnable_tasks(found: Contexts) -> dict[tuple[Path, str], Task]:
    """The tasks of the contexts' runs that are still what they were when those ran."""
    runs = {context.runnable for of_task in found.by_task.values() for context in of_task if context.runnable}
    suites: dict[str, Suite | None] = {}
    tasks: dict[tuple[Path, str], Task] = {}
    for run in runs:
        record = RunDir(run).record
        spec, hashes = str(record.get("suite")), record.get("task_hashes") or {}
        if spec not in suites:
            suites[spec] = _suite(spec)
        suite = suites[spec]
        tasks |= {(run, task.id): task for task in (suite.tasks if suite else ()) if hashes.get(task.id) == task.hash}
    return tasks


def _suite(spec: str) -> Suite | None:
    try:
        return load_suite(spec)
    except UserError:
        return None


def _record(shared: _Shared) -> dict[str, Any]:
    """run.json. Raises UserError where the adapter does not belong to these contexts."""
    options, found, contract = shared.options, shared.found, shared.found.contract
    tasks = list(found.by_task)
    trained = adapter_record(options)
    if trained:
        check_adapter(options, trained, contract.hash, tasks)
    contexts = [context for of_task in found.by_task.values() for context in of_task]
    prompts = {context.system for context in contexts}
    return {
        "format": 1,
        "kind": "replay",
        "arm": arm_name(options.model, options.constrain),
        "model": tilde(options.model),
        "constrain": options.constrain,
        "suite": _named(options.paths),
        "runs": [tilde(str(path)) for path in options.paths],
        "split_from": {
            "dataset": tilde(str(options.dataset)) if options.dataset else None,
            "suite": tilde(options.suite) if options.suite else None,
        },
        "suite_hash": found.hash,
        "split": options.split,
        "tasks": tasks,
        "train": [],
        "held_out": tasks if options.split == "held-out" else [],
        "held_out_groups": len({context.group for context in contexts}),
        "rollouts": {task: len(of_task) * options.samples for task, of_task in found.by_task.items()},
        "samples": options.samples,
        "contexts": options.contexts,
        "seed": options.seed,
        "protocol": contract.protocol,
        "sampling": asdict(shared.sampling),
        "limits": asdict(shared.spec.limits),
        "executed": sorted({context.task for context in contexts if shared.task_of(context)}),
        "contract": contract.hash,
        TOOLS: tool_hashes(found.registry.schemas()),
        PROMPT: text_hash(prompts.pop()) if len(prompts) == 1 else None,
        "tools": {"module": tilde(options.tools), "hash": source_hash(options.tools)} if options.tools else None,
        **adapter_keys(options, trained),
        "versions": {"python": platform.python_version(), "repo-agent": version("repo-agent")},
    }


def _named(paths: Sequence[Path]) -> str:
    return " ".join(tilde(str(path)) for path in paths)


def _player(shared: _Shared, model: Model | None, session: Session) -> Play:
    """Plays one sample of one context; every request is metered. The model is None where nothing is pending."""

    def one(task: str, number: int, writer: TraceWriter) -> Awaitable[events.RunEnd]:
        assert model is not None
        context = shared.found.by_task[task][number // shared.options.samples]
        seed = seed_of(shared.options.seed, task, number)
        played = partial(_played, context, Metered(model, session.meter), shared, seed)
        return traced(_start(context, number, shared, seed), played, shared.prices, writer, session.watch.event)

    return one


async def _played(
    context: Context, model: Model, shared: _Shared, seed: int, emit: OnEvent
) -> tuple[Rollout | None, Outcome]:
    """One next call, in the files that the recorded one met, where they are known."""
    task, outcome, rollout = shared.task_of(context), Outcome(), None
    with noted(outcome):
        async with workspace_of(task) if task else nullcontext() as workspace:
            rollout = Rollout(
                model=model,
                spec=shared.spec,
                root=workspace.root if workspace else Path(),
                run_tests=None,
                emit=emit,
                sampling=shared.sampling,
                seed=seed,
                constrain=shared.options.constrain,
                guarded=guarded(task, shared.spec.registry) if task else shared.judged,
                any_call=called(context, shared.spec),
                counter=shared.counter,
                parallel=context.parallel,
            )
            tools = shared.found.contract.printed_tools
            outcome.ended = await rollout.replay(context.messages, context.writes if task else (), tools)
    return rollout, outcome


def called(context: Context, spec: AgentSpec) -> bool:
    """Whether a call was made before."""
    said = [message for message in context.messages if message.role == "assistant"]
    return any(m.tool_calls or spec.protocol.parse(m.content, spec.registry.specs).call for m in said)


def _start(context: Context, number: int, shared: _Shared, seed: int) -> events.RunStart:
    return events.RunStart(
        task=context.task,
        group=context.group,
        task_hash=None,
        suite=None,
        rollout=number,
        arm=arm_name(shared.options.model, shared.options.constrain),
        model=tilde(shared.options.model),
        protocol=shared.spec.protocol.name,
        system=context.system,
        tools=shared.found.contract.tools,
        sampling=asdict(shared.sampling) | {"parallel_tool_calls": context.parallel},
        seed=seed,
        isolation=None,
        source="replay",
        constraint=shared.constraint,
    )
