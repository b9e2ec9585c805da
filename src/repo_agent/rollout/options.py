"""What `repo-agent eval` takes, checked, and made into what the rollouts share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import UserError
from repo_agent.messages import tilde
from repo_agent.models import Sampling
from repo_agent.models.prices import find_prices
from repo_agent.models.resolve import PRESETS, parts
from repo_agent.protocols import protocol_named
from repo_agent.protocols.briefing import INTRO
from repo_agent.rollout.episode import Setting
from repo_agent.rollout.meter import Budget
from repo_agent.sandbox.canary import choose
from repo_agent.tasks.task import Suite, Task
from repo_agent.tools.files import default_registry
from repo_agent.tools.own import check_runnable, load_tools
from repo_agent.tools.registry import Registry

SPLITS = ("train", "held-out", "all")
TEST_POLICIES = ("on_write", "on_final", "never")


@dataclass(frozen=True)
class EvalOptions:
    """What `repo-agent eval` takes; see its help."""

    suite: str
    split: str
    model: str
    out: Path
    adapter: Path | None = None
    """Of a model on a server: the directory of the adapter that it runs."""
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
    observation_chars: int = Limits.observation_chars
    read_chars: int = Limits.read_chars
    intro: Path | None = None
    """A text file that the system prompt begins with."""
    tests: str = "on_write"
    stop_on_pass: bool = False
    unsafe_local: bool = False
    isolated_io: bool = False
    tools: str | None = None
    budget_usd: float | None = None
    budget_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None


def arm_name(model: str, constrain: bool) -> str:
    """`base`, `tuned` (with an adapter), `oracle`, or the name on a server; `+constrained` where it is."""
    kind, name, adapter = parts(model)
    plain = {"oracle": "oracle", "local": "tuned" if adapter else "base"}.get(kind, name)
    return f"{plain}+constrained" if constrain else plain


def check(options: EvalOptions) -> None:
    """Raise UserError for options that do not go together."""
    for flag, value, known in (("--split", options.split, SPLITS), ("--tests", options.tests, TEST_POLICIES)):
        if value not in known:
            raise UserError(f"{value!r} is none of {', '.join(known)}", flag, "Choose one of them")
    for flag, number in (
        ("--rollouts", options.rollouts),
        ("--jobs", options.jobs),
        ("--max-steps", options.max_steps),
        ("--observation-chars", options.observation_chars),
        ("--read-chars", options.read_chars),
    ):
        if number < 1:
            raise UserError(f"{number} is too small", flag, "Give 1 or more")
    check_model(options.model, options.adapter)
    if options.stop_on_pass and options.tests != "on_write":
        raise UserError("needs tests after each write", "--stop-on-pass", "Leave out --tests")
    if options.constrain and options.model == "oracle":
        raise UserError("the oracle is no language model", "--constrain", "Leave it out")
    if options.constrain and protocol_named(options.protocol).schema(default_registry()) is None:
        what = f"a reply of the protocol {options.protocol} is more than one JSON value"
        raise UserError(what, "--constrain", "Use --protocol json")
    if options.model == "oracle" and Budget(options.budget_usd, options.budget_tokens).limited:
        raise UserError("the oracle spends nothing", "--budget-usd, --budget-tokens", "Leave the budget out")


def check_model(model: str, adapter: Path | None) -> None:
    """Raise UserError for an adapter that is named beside a model that is not on a server."""
    if adapter and parts(model)[0] not in PRESETS:
        what = "names the adapter of a model on a server"
        raise UserError(what, "--adapter", "Write local:BASE+ADAPTER, or leave it out")


def chosen(suite: Suite, options: EvalOptions) -> list[Task]:
    """The tasks to play. Raises UserError where there are none."""
    split = suite.split(options.held_out)
    ids = {"train": split.train, "held-out": split.held_out, "all": tuple(task.id for task in suite.tasks)}
    if not ids[options.split]:
        what = "no task is held out: a split needs two groups of tasks"
        raise UserError(what, f"--suite {options.suite}", "Add a task of another group, or play --split all")
    return [suite.by_id[task] for task in ids[options.split]]


def setting(options: EvalOptions, suite: Suite) -> Setting:
    """What all rollouts share."""
    return Setting(
        suite=tilde(suite.spec),
        arm=arm_name(options.model, options.constrain),
        model=tilde(options.model),
        spec=AgentSpec(_registry(options), protocol_named(options.protocol), _limits(options), _intro(options)),
        sampling=Sampling(options.temperature, options.max_tokens),
        seed=options.seed,
        constrain=options.constrain,
        isolation=choose(options.unsafe_local),
        isolated_io=options.isolated_io,
        prices=find_prices(options.model, options.price_in, options.price_out),
    )


def _limits(options: EvalOptions) -> Limits:
    return Limits(
        max_steps=options.max_steps,
        max_bad_turns=options.max_bad_turns,
        observation_chars=options.observation_chars,
        read_chars=options.read_chars,
        tests=options.tests,
        stop_on_pass=options.stop_on_pass,
    )


def _intro(options: EvalOptions) -> str:
    """What the system prompt begins with: the text of a file, else our own sentence."""
    if options.intro is None:
        return INTRO
    try:
        text = options.intro.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", f"--intro {options.intro}", "Name a text file") from error
    if not text:
        raise UserError("is empty", f"--intro {options.intro}", "Write what the agent is for")
    return text


def _registry(options: EvalOptions) -> Registry:
    if options.tools is None:
        return default_registry()
    registry = load_tools(options.tools)
    check_runnable(registry, options.tools)
    return registry
