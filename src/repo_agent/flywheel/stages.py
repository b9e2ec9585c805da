"""The commands of a flywheel, as words that a shell takes too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from repo_agent.flywheel.plan import BASE, CONSTRAINED, START, Option, Options, Plan, Round
from repo_agent.models.prices import Prices, find_prices


class Stage(NamedTuple):
    """A command, the folder that it makes, and the prices of its tokens where it is paid by token."""

    words: list[str]
    made: Path
    prices: Prices | None = None

    @property
    def hosted(self) -> bool:
        """Whether it is a training job that is paid."""
        return self.words[0] == "train" and "together" in self.words


def opening(plan: Plan) -> Iterator[Stage]:
    """The arms that are there before the first round, on the held-out tasks."""
    yield held_out(plan, BASE)
    if plan.constrained_base:
        yield held_out(plan, CONSTRAINED)
    if plan.adapter:
        yield held_out(plan, START)


def held_out(plan: Plan, arm: str) -> Stage:
    """An arm on the held-out tasks."""
    more = ["--constrain"] if arm == CONSTRAINED else []
    return _eval(plan, "held-out", plan.model(arm), plan.rollouts, plan.out / "runs" / arm, {}, more)


def gathering(plan: Plan, place: int) -> Iterator[Stage]:
    """What a round trains on: rollouts on the train tasks, then a dataset or pairs."""
    one = plan.round[place]
    played, own = plan.out / "runs" / f"{one.name}-collect", plan.model(plan.beginning(place))
    more = ["--constrain"] if one.route == "self" else []
    yield _eval(plan, "train", one.teacher or own, one.rollouts, played, one.collect, more)
    if one.route != "dpo":
        words = ["build", str(played), "--tokenizer", plan.base]
        if one.kept == "executed":
            words += ["--gate", "run_passed=off", "--gate", "final_passed"]
        yield Stage([*words, *_flags(one.build), "--out", str(material(plan, one))], material(plan, one))
        return
    again = plan.out / "runs" / f"{one.name}-again"
    if one.samples:
        words = ["replay", str(played), "--split", "train", "--model", own, "--samples", str(one.samples)]
        shared: Options = {name: plan.eval[name] for name in ("jobs", "max_tokens", "temperature") if name in plan.eval}
        yield Stage([*words, "--seed", str(plan.seed), *_flags(shared), "--out", str(again)], again)
    runs = [str(played), *([str(again)] if one.samples else [])]
    words = ["pairs", *runs, "--tokenizer", plan.base, *_flags(one.pairs)]
    yield Stage([*words, "--out", str(material(plan, one))], material(plan, one))


def material(plan: Plan, one: Round) -> Path:
    """The dataset, or the pairs, of a round."""
    return plan.out / ("pairs" if one.route == "dpo" else "datasets") / one.name


def training(plan: Plan, place: int) -> Stage:
    """The training of a round; it goes on from the adapter that the round begins from."""
    one, adapter = plan.round[place], plan.adapter_of(plan.beginning(place))
    made = plan.out / "adapters" / one.name
    words = ["train", str(material(plan, one)), "--base", plan.base]
    words += ["--method", "dpo"] if one.route == "dpo" else []
    words += ["--adapter", str(adapter)] if adapter else []
    return Stage([*words, *_flags(one.train), "--resume", "--out", str(made)], made)


def verdict(plan: Plan, place: int) -> Stage:
    """A round's adapter against what it began from."""
    name = plan.round[place].name
    made = plan.out / "reports" / name
    runs = [str(plan.out / "runs" / arm) for arm in (plan.beginning(place), name)]
    return Stage(["compare", *runs, "--out", str(made)], made)


def routes(plan: Plan, rounds: int) -> Stage:
    """All arms of the first so many rounds, on one page."""
    arms = [stage.made for stage in opening(plan)] + [plan.out / "runs" / one.name for one in plan.round[:rounds]]
    made = plan.out / "reports" / f"routes-to-{plan.round[rounds - 1].name}"
    return Stage(["compare", *map(str, arms), "--out", str(made)], made)


def every_stage(plan: Plan) -> Iterator[Stage]:
    """All of them, in order, if no rule ends the flywheel before."""
    yield from opening(plan)
    for place, one in enumerate(plan.round):
        yield from gathering(plan, place)
        yield from (training(plan, place), held_out(plan, one.name), verdict(plan, place))
    yield routes(plan, len(plan.round))


def _eval(
    plan: Plan, split: str, model: str, rollouts: int, out: Path, more: Mapping[str, Option], switches: Sequence[str]
) -> Stage:
    options: dict[str, Option] = {"seed": plan.seed, **plan.eval, **more}
    words = ["eval", "--suite", plan.suite, "--split", split, "--model", model, "--rollouts", str(rollouts)]
    words += ["--held-out", str(plan.held_out)] if plan.held_out else []
    price_in, price_out = (float(str(options[side])) if side in options else None for side in ("price_in", "price_out"))
    prices = None if model.startswith(("local:", "oracle")) else find_prices(model, price_in, price_out)
    return Stage([*words, *switches, *_flags(options), "--out", str(out)], out, prices)


def _flags(options: Mapping[str, Option]) -> Iterator[str]:
    """Options as words: true is a switch, false its opposite, a list repeats the option."""
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{flag[2:]}"
            continue
        for one in value if isinstance(value, list) else [value]:
            yield from (flag, str(one))
