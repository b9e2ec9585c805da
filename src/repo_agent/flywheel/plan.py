"""What `repo-agent flywheel FILE` is told: a TOML file of rounds. All that is wrong with it is said at once."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from repo_agent.errors import UserError

Option = bool | int | float | str | list[str]
Options = dict[str, Option]
"""Options of a command by their names, as `max_tokens = 512`."""
BASE, CONSTRAINED, START = "base", "base-constrained", "start"
"""Arms that are no round's: the base, the base under a grammar, and the adapter that the first round begins from."""
_GIVEN = {
    "eval": "suite split model out rollouts held_out adapter budget_usd budget_tokens json".split(),
    "collect": "suite split model out rollouts held_out adapter budget_usd budget_tokens json constrain".split(),
    "build": "out tokenizer dry_run json".split(),
    "pairs": "out tokenizer dry_run json".split(),
    "train": "out base adapter method resume cancel dry_run budget_usd json".split(),
}
"""Options that follow from the rest of the plan."""


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Round(_Table):
    """Collect, build or pair, train, evaluate, compare."""

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9][\w-]*$")
    """Of its folders and of its arm."""
    route: Literal["teacher", "self", "dpo"]
    """teacher: SFT on a stronger model's rollouts; self: SFT on the model's own under a grammar; dpo: preference
    pairs of its bad turns."""
    begin: str | None = None
    """The earlier round whose adapter it begins from, `start`, or `base`; None: the round before."""
    teacher: str | None = None
    """A model, as `eval --model` takes it; of the route teacher alone."""
    keep: Literal["executed", "passed"] | None = None
    """Which turns are trained on: calls that executed, or those of them in rollouts that passed. teacher: passed; self:
    executed."""
    rollouts: int = pydantic.Field(4, ge=1)
    """Of each train task."""
    samples: int = pydantic.Field(4, ge=0)
    """dpo: next calls drawn again in each context of those rollouts; 0: none."""
    min_rows: int = pydantic.Field(1, ge=1)
    """Step rows or pairs; with fewer the round ends before it trains."""
    collect: Options = {}
    """More options of the `eval` that collects."""
    build: Options = {}
    pairs: Options = {}
    train: Options = {}

    @property
    def kept(self) -> str:
        return self.keep or ("executed" if self.route == "self" else "passed")


class Plan(_Table):
    """A whole flywheel."""

    out: Path
    """Folder for all that it makes."""
    suite: str
    base: str
    adapter: Path | None = None
    """Where the first round begins; None: from the base."""
    rollouts: int = pydantic.Field(3, ge=1)
    """Of each held-out task, in every arm."""
    held_out: int | None = pydantic.Field(None, ge=1)
    """Groups of tasks to hold out; None: the suite's own split."""
    seed: int = 0
    constrained_base: bool = True
    """Whether the base also plays under a grammar: tuning has to beat that too."""
    stop_unless_better: bool = True
    """End after a round whose adapter is not shown better than what it began from."""
    target_validity: float | None = pydantic.Field(None, gt=0, le=1)
    """End when a round's adapter reaches it on the held-out tasks."""
    budget_usd: float | None = pydantic.Field(None, gt=0)
    budget_minutes: float | None = pydantic.Field(None, gt=0)
    eval: Options = {}
    """Options of every `eval`: limits, --jobs, the protocol."""
    round: tuple[Round, ...] = pydantic.Field(min_length=1)

    def beginning(self, place: int) -> str:
        """The arm that a round begins from."""
        first = START if self.adapter else BASE
        return self.round[place].begin or (self.round[place - 1].name if place else first)

    def model(self, arm: str) -> str:
        """What plays an arm, as `eval --model` takes it."""
        adapter = self.adapter_of(arm)
        return f"local:{self.base}+{adapter}" if adapter else f"local:{self.base}"

    def adapter_of(self, arm: str) -> Path | None:
        if arm == START:
            return self.adapter
        return None if arm in (BASE, CONSTRAINED) else self.out / "adapters" / arm


def read_plan(file: Path) -> Plan:
    """The plan of a TOML file. Raises UserError that lists everything that is wrong, each with its place."""
    try:
        record = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as TOML ({error})", str(file), "See docs/flywheel.md") from error
    return make_plan(record, str(file))


def make_plan(record: Mapping[str, Any], where: str) -> Plan:
    """The plan of a table. Raises UserError that lists everything that is wrong, each with its place."""
    try:
        plan = Plan(**record)
    except pydantic.ValidationError as error:
        refuse(list(_problems(error)), where)
        raise AssertionError from error
    refuse(list(_conflicts(plan)), where)
    return plan


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise UserError where there are problems."""
    if problems:
        count = f"{len(problems)} settings are wrong" if len(problems) > 1 else "a setting is wrong"
        raise UserError(f"{count}: {'; '.join(problems)}", where, "See docs/flywheel.md")


def _problems(error: pydantic.ValidationError) -> Iterator[str]:
    """A line for each place."""
    found: dict[str, str] = {}
    for one in error.errors():
        place = _place(one["loc"])
        if one["type"] == "too_short" and one["input"]:
            continue  # rounds are there, and each has said what is wrong with it
        if place in found:  # an option fails once for each kind of value that it is not
            found[place] = f"{place}: an option is a number, a text, true, false or a list of texts"
        elif one["type"] == "extra_forbidden":
            found[place] = f"{place}: there is no such setting"
        elif one["type"] in ("missing", "too_short"):
            found[place] = f"{place} is missing"
        else:
            found[place] = f"{place}: {one['msg'].removeprefix('Value error, ')}, got {one['input']!r}"
    yield from found.values()


def _place(loc: tuple[int | str, ...]) -> str:
    """`round 2: train.lr`; which of several kinds of value an option failed to be says nothing."""
    names = [str(part) for part in loc if isinstance(part, str)][:3]
    if loc[:1] == ("round",) and len(loc) > 1:
        return f"round {int(loc[1]) + 1}: {'.'.join(names[1:]) or 'it'}"
    return ".".join(names[:2])


def _conflicts(plan: Plan) -> Iterator[str]:
    """What settings may not say together."""
    known = [BASE, *([START] if plan.adapter else [])]
    for name, count in Counter([BASE, CONSTRAINED, START, *(one.name for one in plan.round)]).items():
        if count > 1:
            yield f"round {name}: the name is taken"
    yield from _given("eval", plan.eval)
    for place, one in enumerate(plan.round):
        where = f"round {place + 1}"
        for table in ("collect", "build", "pairs", "train"):
            yield from (f"{where}: {problem}" for problem in _given(table, getattr(one, table)))
        if one.begin is not None and one.begin not in known:
            yield f"{where}: begin names no earlier arm, got {one.begin!r}; known: {', '.join(known)}"
        elif one.route == "dpo" and plan.beginning(place) == BASE:
            yield f"{where}: dpo begins from an adapter: put a round before it, or name an adapter"
        if (one.route == "teacher") != (one.teacher is not None):
            yield f"{where}: teacher {'is missing' if one.teacher is None else f'is not of the route {one.route}'}"
        if one.route == "dpo" and (one.keep or one.build):
            yield f"{where}: keep and build are not of the route dpo"
        if one.route != "dpo" and one.pairs:
            yield f"{where}: pairs is of the route dpo alone"
        known.append(one.name)


def _given(table: str, options: Options) -> Iterator[str]:
    for name in options:
        if name.replace("-", "_") in _GIVEN[table]:
            yield f"{table}.{name} follows from the rest of the plan: leave it out"
