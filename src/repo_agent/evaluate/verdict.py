"""The conclusion of a comparison: every pair of arms on every metric, one verdict, and what to do next.

`better` and `worse` need a 95% interval on one side of 0 **and** a sign-flip p below 0.05; all else is `inconclusive`.
While an arm owes rollouts the verdict is `incomplete`. Where the reader allows that, a label must hold under both
extremes instead: what an arm owes is counted as low as the limits allow for it and as high for the other, and the
reverse (see `metrics.by_task`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import Arm, eval_command, load_arms
from repo_agent.tools.verdict import LADDER, UNSCORED

HEADLINE = "validity"
COMPETENT = 0.95
"""From this validity on, the schema is learned."""
_WORTH_SEEING = 0.05
"""The smallest effect that a further run is planned for."""
_DECIDING = (HEADLINE, "pass_rate")
"""What the cheapest arm is chosen by; the rung `executes` is validity."""


@dataclass(frozen=True)
class Pair:
    """Arm `b` against arm `a` on one metric, paired over the tasks that have a value in both."""

    a: str
    b: str
    metric: str
    difference: float | None
    """Mean over tasks of b - a; None where no task has both values."""
    interval: stats.Interval | None
    p: float | None
    p_label: str
    differences: tuple[tuple[str, float], ...]
    """(task, b - a), in suite order."""
    left_out: tuple[str, ...]
    """Tasks without a value in one of the arms."""

    @property
    def label(self) -> str:
        """better, worse or inconclusive; `more` or `fewer` for calls and steps, where neither is better by itself."""
        if (
            self.interval is None
            or self.p is None
            or self.p >= stats.ALPHA
            or self.interval.low <= 0 <= self.interval.high
        ):
            return "inconclusive"
        up, down = ("more", "fewer") if self.metric in metrics.PER_ROLLOUT else ("better", "worse")
        return up if self.interval.low > 0 else down

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.differences]

    @property
    def mde(self) -> float | None:
        return stats.mde(self.values)


def pair(a: Arm, b: Arm, metric: str, a_owed: bool | None = None, b_owed: bool | None = None) -> Pair:
    """Compare two arms on a metric; `a_owed` and `b_owed` bound owed rollouts as in `metrics.by_task`."""
    left, right = metrics.by_task(a, metric, a_owed), metrics.by_task(b, metric, b_owed)
    found = []
    for task in left:
        before, after = left[task], right[task]
        if before is not None and after is not None:
            found.append((task, after - before))
    values = [value for _, value in found]
    p, p_label = stats.sign_flip_p(values) if values else (None, "no task has both values")
    left_out = tuple(task for task in left if task not in dict(found))
    interval = stats.paired_t(values)
    return Pair(a.name, b.name, metric, metrics.mean(values), interval, p, p_label, tuple(found), left_out)


def settled_label(a: Arm, b: Arm, metric: str) -> str:
    """The label of b against a that holds whatever the owed rollouts would have done."""
    if not (a.owed or b.owed):
        return pair(a, b, metric).label
    labels = {pair(a, b, metric, high, not high).label for high in (True, False)}
    return labels.pop() if len(labels) == 1 else "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """What the comparison says of the tuned arm against the reference, on the headline metric."""

    label: str
    """better, worse, inconclusive or incomplete"""
    metric: str
    effect: float | None
    """Mean difference over tasks, tuned less reference; None while incomplete or where nothing is measured."""
    mde: float | None
    """Smallest effect that this design could have shown; None without spread."""
    cheapest: str | None
    """The cheapest arm that the tuned arm is not shown to beat; None while incomplete."""
    next_step: str
    why_cheapest: str
    sentence: str
    """The verdict in plain words, with both arms' figures."""
    evidence: str
    """The difference with its interval and p, and what else bears on the verdict."""
    headline: Pair

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints as `verdict`."""
        return {key: getattr(self, key) for key in ("label", "metric", "effect", "mde", "cheapest", "next_step")}


@dataclass(frozen=True)
class Comparison:
    """Arms in the order given, every pair of them on every metric, and the verdict."""

    arms: tuple[Arm, ...]
    reference: Arm
    tuned: Arm
    pairs: tuple[Pair, ...]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints. Not measured is null; `rollouts` are whole ones, over all tasks."""
        shown = ("a", "b", "metric", "difference", "interval", "p")
        return {
            "arms": [_arm_json(arm) for arm in self.arms],
            "pairs": [{key: getattr(pair, key) for key in shown} for pair in self.pairs],
            "verdict": self.verdict.to_json(),
        }


def _arm_json(arm: Arm) -> dict[str, Any]:
    figures = {name: metrics.overall(arm, name) for name in metrics.METRICS}
    return {
        "name": arm.name,
        "validity": figures["validity"],
        "ladder": {rung: figures[rung] for rung in LADDER},
        "lenient": figures["lenient"],
        "classes": arm.classes,
        "pass_rate": figures["pass_rate"],
        "mean_calls": figures["mean_calls"],
        "mean_steps": figures["mean_steps"],
        "tasks": len(arm.tasks),
        "rollouts": len(arm.rows),
        "owed": len(arm.owed),
    }


def compare_runs(run_dirs: Sequence[Path], allow_owed: bool = False) -> Comparison:
    """Compare runs of the same work. Raises UserError where `load_arms` does."""
    arms = load_arms(run_dirs)
    reference, tuned = _opponents(arms)
    pairs = tuple(pair(a, b, metric) for a, b in combinations(arms, 2) for metric in metrics.METRICS)
    return Comparison(arms, reference, tuned, pairs, conclude(arms, reference, tuned, allow_owed))


def _opponents(arms: Sequence[Arm]) -> tuple[Arm, Arm]:
    """Reference and tuned: tuned is the last arm with an adapter (a free one before a constrained), else the last arm;
    the reference is the first of the others."""
    adapted = [arm for arm in arms if arm.adapted]
    free = [arm for arm in adapted if not arm.record["constrain"]]
    tuned = (free or adapted or list(arms))[-1]
    return next(arm for arm in arms if arm is not tuned), tuned


def conclude(arms: Sequence[Arm], reference: Arm, tuned: Arm, allow_owed: bool = False) -> Verdict:
    """The verdict on `tuned` against `reference`; `incomplete` while any arm owes rollouts and that is not allowed."""
    headline = pair(reference, tuned, HEADLINE)
    owing = [arm for arm in arms if arm.owed]
    if owing and not allow_owed:
        owed = ", ".join(f"{arm.name} {len(arm.owed)}" for arm in owing)
        sentence = f"Incomplete: rollouts are owed ({owed}), so nothing is concluded."
        commands = " && ".join(eval_command(arm) for arm in owing)
        return Verdict(
            "incomplete", HEADLINE, None, None, None, f"Finish the runs: {commands}", "", sentence, "", headline
        )
    label = settled_label(reference, tuned, HEADLINE)
    cheapest, why = _cheapest(arms, tuned)
    step = _next_step(label, reference, tuned, headline)
    sentence = _sentence(label, reference, tuned)
    detail = _detail(label, headline)
    if owing:
        detail += " Some rollouts are owed: the label is the one that holds at both extremes of what they could do."
    effect, least = headline.difference, headline.mde
    return Verdict(label, HEADLINE, effect, least, cheapest.name, step, why, sentence, detail, headline)


def _cheapest(arms: Sequence[Arm], tuned: Arm) -> tuple[Arm, str]:
    """The first arm in order of cost that `tuned` is not `better` than on any deciding metric, and why."""
    beaten = []
    for arm in sorted(arms, key=lambda arm: arm.cost_rank):
        if arm is tuned:
            break
        on = [metric for metric in _DECIDING if settled_label(arm, tuned, metric) == "better"]
        if not on:
            unseen = " and ".join(f"{points(pair(arm, tuned, m).mde)} of {m}" for m in _DECIDING)
            because = f"{tuned.name} is not shown to be better than {arm.name} on {' or '.join(_DECIDING)}"
            return arm, f"{because}; the smallest effects that would have shown: {unseen}."
        beaten.append(f"{arm.name} on {' and '.join(on)}")
    if not beaten:
        return tuned, f"No arm in this comparison is cheaper than {tuned.name}."
    return tuned, f"{tuned.name} is better than every cheaper arm: {'; '.join(beaten)}."


def _next_step(label: str, reference: Arm, tuned: Arm, headline: Pair) -> str:
    if label == "better":
        if settled_label(reference, tuned, "pass_rate") == "better":
            return (
                "Validity is up and more rollouts pass: "
                "generate preference data with the tuned model as the cheap generator."
            )
        if (metrics.overall(tuned, HEADLINE) or 0) >= COMPETENT:
            return "The schema is learned, but the pass rate does not move: train on preferences next (DPO)."
        return "Validity is up but passes are not: put more varied contexts and stop examples into the training traces."
    if label == "worse":
        return (
            f"Do not ship this adapter. {_grown(reference, tuned)}Read its example turns, check the dataset's card "
            "(funnel, contract, parity), and train again with a lower learning rate or fewer epochs."
        )
    return _more_tasks(headline)


def _grown(reference: Arm, tuned: Arm) -> str:
    """The invalid turn class whose share of all turns grew most."""

    def share(arm: Arm, name: str) -> float:
        return arm.classes.get(name, 0) / max(1, sum(arm.classes.values()))

    names = {*reference.classes, *tuned.classes} - UNSCORED - {"ok"}
    growth = {name: share(tuned, name) - share(reference, name) for name in sorted(names)}
    name = max(growth, key=lambda name: growth[name], default=None)
    if name is None or growth[name] <= 0:
        return ""
    return f"{name} grew most, from {percent(share(reference, name))} to {percent(share(tuned, name))} of all turns. "


def _more_tasks(headline: Pair) -> str:
    """How many tasks the spread seen here asks for."""
    if not headline.values:
        return "No task has a scored turn in both arms: look at how the rollouts ended."
    target = max(abs(headline.difference or 0), _WORTH_SEEING)
    needed, now = stats.tasks_needed(headline.values, target), len(headline.values)
    if needed is None:
        return "Every task moved by the same amount, so there is no interval: add tasks that differ more."
    if headline.label != "inconclusive":
        return "The rollouts that are owed could overturn the label: play them."
    if headline.interval and not headline.interval.low <= 0 <= headline.interval.high:
        return f"Add tasks: the interval is clear of 0, but over {now} tasks the sign-flip p stays above {stats.ALPHA}."
    if needed <= now:
        return f"An effect of {points(target)} would most likely have shown: if that is what matters, stop here."
    plan = f"with this spread about {needed:,} tasks (now {now}) would show {points(target)}"
    return f"Add tasks rather than rollouts: {plan}."


def _sentence(label: str, reference: Arm, tuned: Arm) -> str:
    before, after = (percent(metrics.overall(arm, HEADLINE)) for arm in (reference, tuned))
    said = {
        "better": f"{tuned.name} emits more valid tool calls than {reference.name}",
        "worse": f"{tuned.name} emits fewer valid tool calls than {reference.name}",
        "inconclusive": f"no difference in valid tool calls is shown between {tuned.name} and {reference.name}",
    }[label]
    return f"{label.capitalize()}: {said}, {after} against {before}."


def _detail(label: str, headline: Pair) -> str:
    text = f"Difference: {evidence(headline)}."
    if label == "inconclusive" and headline.mde is not None:
        text += f" The smallest effect that this design could have shown is {points(headline.mde)}."
    return text


def evidence(pair: Pair) -> str:
    """A pair's difference with its interval and p, as text."""
    if pair.difference is None or pair.p is None:
        return "not measured on any task"
    interval = "no 95% interval, since every task moved alike"
    if pair.interval:
        interval = f"95% interval {100 * pair.interval.low:+.1f} to {100 * pair.interval.high:+.1f}"
    count = len(pair.values)
    p = "p < 0.0001" if pair.p < 0.0001 else f"p = {pair.p:.4f}"
    return f"{points(pair.difference, sign=True)} ({interval}; {p}, {pair.p_label}; {count} tasks)"


def percent(value: float | None) -> str:
    """A share as a percentage; an em dash for what was not measured."""
    return "—" if value is None else f"{100 * value:.1f}%"


def points(value: float | None, *, sign: bool = False) -> str:
    """A difference of shares in percentage points."""
    if value is None:
        return "an unknown number of points"
    return f"{100 * value:{'+' if sign else ''}.1f} points"
