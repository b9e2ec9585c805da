"""Live rollouts: one arm, played over one side of a suite, into one run directory that can be gone on with."""

from __future__ import annotations

import asyncio
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repo_agent.agent import Limits
from repo_agent.errors import StoreError, UserError
from repo_agent.messages import tilde
from repo_agent.models import Constrainable, Model, Sampling
from repo_agent.models.prices import find_prices
from repo_agent.models.resolve import open_model, parts
from repo_agent.protocols import protocol_named
from repo_agent.protocols.contract import contract_of
from repo_agent.rollout.episode import Setting
from repo_agent.rollout.meter import INTERRUPTED, Budget, Meter
from repo_agent.rollout.oracle import oracle, playable
from repo_agent.rollout.runner import Watch, allow_files, run_rollouts
from repo_agent.sandbox.canary import choose
from repo_agent.tasks import load_suite
from repo_agent.tasks.task import Suite, Task
from repo_agent.tools.files import default_registry
from repo_agent.tools.own import check_runnable, load_tools, source_hash
from repo_agent.tools.registry import Registry
from repo_agent.traces.store import RunDir
from repo_agent.train.config import adapter_hash, read_record

SPLITS = ("train", "held-out", "all")
TEST_POLICIES = ("on_write", "on_final", "never")


@dataclass(frozen=True)
class EvalOptions:
    """What `repo-agent eval` takes; see its help."""

    suite: str
    split: str
    model: str
    out: Path
    held_out: int | None = None
    protocol: str = "json"
    constrain: bool = False
    rollouts: int = 1
    temperature: float = 0.7
    max_tokens: int = 4096
    seed: int = 0
    jobs: int = 8
    max_steps: int = Limits.max_steps
    max_bad_turns: int = Limits.max_bad_turns
    tests: str = "on_write"
    stop_on_pass: bool = False
    unsafe_local: bool = False
    isolated_io: bool = False
    tools: str | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None


def run_eval(options: EvalOptions, watch: Watch | None = None) -> dict[str, Any]:
    """Play what the run directory owes; returns the command's JSON. Where a stop ended it, `stopped` says which.

    Raises UserError for bad options, a run of other settings, or an adapter of another contract; InfraError where the
    model or the grader keeps failing.
    """
    started, watch = time.monotonic(), watch or Watch()
    _check(options)
    suite = load_suite(options.suite)
    tasks = _chosen(suite, options)
    setting = _setting(options, suite)
    if options.model == "oracle":
        playable(setting.registry, tasks)
    record = _record(options, suite, tasks, setting)
    if options.out.exists():
        RunDir.open(options.out, record)  # other settings are refused before weights are loaded
    meter = Meter(Budget(options.budget_usd, options.budget_tokens), setting.prices, RunDir(options.out).spent())
    wanted = [(task.id, number) for task in tasks for number in range(options.rollouts)]
    owed = RunDir(options.out).owed(wanted)
    allow_files(min(options.jobs, len(owed)))
    model = open_model(options.model) if owed and options.model != "oracle" else None

    def model_for(task: Task, number: int) -> Model:
        return model or oracle(task, setting.protocol, setting.rollout_seed(task, number))

    async def play() -> tuple[RunDir, list[tuple[str, int]]]:
        try:
            proved = await _proved(setting, model)
            run_dir = RunDir.open(options.out, record)
            watch.start(len(wanted), len(wanted) - len(owed), _turns(run_dir.rows()), meter)
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


async def _proved(setting: Setting, model: Model | None) -> Setting:
    """The setting with how the model holds replies to the schema. Raises UserError where it turns out not to."""
    schema = setting.protocol.schema(setting.registry) if setting.constrain else None
    if schema is None or not isinstance(model, Constrainable):
        return setting
    return replace(setting, constraint=await model.constraint(schema))


def arm_name(model: str, constrain: bool) -> str:
    """`base`, `tuned` (with an adapter), `oracle`, or a server model's name; `+constrained` where it is."""
    kind, name, adapter = parts(model)
    plain = {"oracle": "oracle", "local": "tuned" if adapter else "base"}.get(kind, name)
    return f"{plain}+constrained" if constrain else plain


def _check(options: EvalOptions) -> None:
    for flag, value, known in (("--split", options.split, SPLITS), ("--tests", options.tests, TEST_POLICIES)):
        if value not in known:
            raise UserError(f"{value!r} is none of {', '.join(known)}", flag, "Choose one of them")
    for flag, number in (
        ("--rollouts", options.rollouts),
        ("--jobs", options.jobs),
        ("--max-steps", options.max_steps),
    ):
        if number < 1:
            raise UserError(f"{number} is too small", flag, "Give 1 or more")
    if options.stop_on_pass and options.tests != "on_write":
        raise UserError("needs tests after each write", "--stop-on-pass", "Leave out --tests")
    if options.constrain and options.model == "oracle":
        raise UserError("the oracle is no language model", "--constrain", "Leave it out")
    if options.constrain and protocol_named(options.protocol).schema(default_registry()) is None:
        what = f"a reply of the protocol {options.protocol} is more than one JSON value"
        raise UserError(what, "--constrain", "Use --protocol json")
    if options.protocol == "native" and parts(options.model)[0] == "local":
        what = "in native the server makes and reads the calls, and a local model has no server"
        raise UserError(what, "--protocol", "Use hermes, the same format in the model's own text")
    if options.model == "oracle" and Budget(options.budget_usd, options.budget_tokens).limited:
        raise UserError("the oracle spends nothing", "--budget-usd, --budget-tokens", "Leave the budget out")


def _chosen(suite: Suite, options: EvalOptions) -> list[Task]:
    split = suite.split(options.held_out)
    ids = {"train": split.train, "held-out": split.held_out, "all": tuple(task.id for task in suite.tasks)}
    if not ids[options.split]:
        what = "no task is held out: a split needs two groups of tasks"
        raise UserError(what, f"--suite {options.suite}", "Add a task of another group, or play --split all")
    return [suite.by_id[task] for task in ids[options.split]]


def _setting(options: EvalOptions, suite: Suite) -> Setting:
    return Setting(
        suite=tilde(suite.spec),
        arm=arm_name(options.model, options.constrain),
        model=tilde(options.model),
        protocol=protocol_named(options.protocol),
        registry=_registry(options),
        sampling=Sampling(options.temperature, options.max_tokens),
        limits=Limits(
            max_steps=options.max_steps,
            max_bad_turns=options.max_bad_turns,
            tests=options.tests,
            stop_on_pass=options.stop_on_pass,
        ),
        seed=options.seed,
        constrain=options.constrain,
        isolation=choose(options.unsafe_local),
        isolated_io=options.isolated_io,
        prices=find_prices(options.model, options.price_in, options.price_out),
    )


def _registry(options: EvalOptions) -> Registry:
    if options.tools is None:
        return default_registry()
    registry = load_tools(options.tools)
    check_runnable(registry, options.tools)
    return registry


def _record(options: EvalOptions, suite: Suite, tasks: list[Task], setting: Setting) -> dict[str, Any]:
    split = suite.split(options.held_out)
    contract = contract_of(setting.registry, setting.protocol.name).hash
    return {
        "format": 1,
        "arm": setting.arm,
        "model": setting.model,
        "constrain": options.constrain,
        "suite": setting.suite,
        "suite_hash": suite.hash,
        "split": options.split,
        "tasks": [task.id for task in tasks],
        "task_hashes": {task.id: task.hash for task in tasks},
        "train": list(split.train),
        "held_out": list(split.held_out),
        "held_out_groups": len({suite.by_id[task].split_group for task in split.held_out}),
        "rollouts": options.rollouts,
        "seed": options.seed,
        "protocol": setting.protocol.name,
        "sampling": asdict(setting.sampling),
        "limits": asdict(setting.limits),
        "contract": contract,
        "tools": {"module": tilde(options.tools), "hash": source_hash(options.tools)} if options.tools else None,
        "adapter": _adapter(options, contract, [task.id for task in tasks]),
        "isolation": setting.isolation.name,
        "isolated_io": options.isolated_io or None,
        "versions": {"python": platform.python_version(), "repo-agent": version("repo-agent")},
    }


def _adapter(options: EvalOptions, contract: str, tasks: list[str]) -> dict[str, Any] | None:
    """What run.json keeps of the adapter: a hash, and the tasks that it was trained on.

    Raises UserError for one of another contract or base, or, on held-out tasks, one that was trained on them.
    """
    _, base, folder = parts(options.model)
    if not folder:
        return None
    trained = read_record(Path(folder).expanduser())
    leaked = sorted({*trained.train_tasks} & {*tasks}) if options.split == "held-out" else []
    if trained.contract != contract:
        what = f"was trained for contract {trained.contract}, this loop has {contract}"
        raise UserError(what, folder, "Use the tools and protocol it was made for, or build and train again")
    if trained.base != tilde(base):
        raise UserError(f"was trained on {trained.base}, not on {base}", folder, f"Use local:{trained.base}+{folder}")
    if leaked:
        what = f"was trained on {len(leaked)} of these held-out tasks ({', '.join(leaked[:3])} …)"
        raise UserError(what, folder, "Build without --no-split, and with the same --held-out")
    return {"hash": adapter_hash(Path(folder).expanduser()), "train_tasks": trained.train_tasks}


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
    owed = run_dir.owed(wanted)
    return {
        "rollouts": len(rows),
        "passed": sum(bool(row["passed"]) for row in rows),
        "owed": len(owed),
        "elsewhere": len({*owed} & {*elsewhere}),
        "turns": dict(_turns(rows).most_common()),
        "tokens": meter.tokens,
        "cost_usd": meter.usd,
        "stopped": {"reason": meter.stopped.reason, "code": meter.stopped.code} if meter.stopped and owed else None,
        "seconds": round(seconds, 1),
    }
