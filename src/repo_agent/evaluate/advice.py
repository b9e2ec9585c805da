"""What a comparison says in words: the verdict's sentence, its evidence, warnings, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.pairs import Pair, settled_label
from repo_agent.tools.verdict import UNSCORED

COMPETENT = 0.95
"""From this validity on, the schema is learned."""
_WORTH_SEEING = 0.05
"""The smallest effect that a further run is planned for."""
_DPO = "Train on preferences next (DPO), on data that the tuned model generates."


def next_step(label: str, reference: Arm, tuned: Arm, headline: Pair) -> str:
    """The plan's next iteration after this label of `tuned` against `reference` on validity."""
    if label == "better":
        return _after_better(reference, tuned)
    if label == "worse":
        return (
            f"Do not ship this adapter. {_grown(reference, tuned)}Read its example turns, check the dataset's card "
            "(funnel, contract, parity), and train again with a lower learning rate or fewer epochs."
        )
    if not headline.values:
        return "No task has a scored turn in both arms: look at how the rollouts ended."
    if headline.label != "inconclusive":
        return "The rollouts that are owed might overturn the label: play them."
    return _after_inconclusive(reference, tuned, headline)


def _after_better(reference: Arm, tuned: Arm) -> str:
    if settled_label(reference, tuned, "pass_rate") == "better":
        return "Validity is up and more rollouts pass: generate preference data with the tuned model."
    if _competent(tuned):
        return f"The schema is learned, but the pass rate is not shown to move. {_DPO}"
    if (metrics.overall(tuned, "pass_rate") or 0) >= 0.5:
        return "Validity is up and at least half of the rollouts pass: generate preference data with the tuned model."
    return "Validity is up but passes are not: put more varied contexts and stop examples into the training traces."


def _after_inconclusive(reference: Arm, tuned: Arm, headline: Pair) -> str:
    if not _competent(tuned):
        return _more_tasks(headline)
    before, after = (percent(metrics.overall(arm, headline.metric)) for arm in (reference, tuned))
    if _competent(reference):
        return f"Both arms have the schema ({before} and {after} valid): more SFT has little to teach there. {_DPO}"
    return (
        f"{tuned.name} has the schema ({after} valid). {_DPO} That it has it from tuning is not shown: "
        f"{_more_tasks(headline)}"
    )


def _competent(arm: Arm) -> bool:
    return (metrics.overall(arm, "validity") or 0) >= COMPETENT


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
    target = max(abs(headline.difference or 0), _WORTH_SEEING)
    needed, now = stats.tasks_needed(headline.values, target), len(headline.values)
    if needed is None:
        return "Every task moved by the same amount, so there is no interval: add tasks that differ more."
    if headline.interval and not headline.interval.low <= 0 <= headline.interval.high:
        return f"Add tasks: the interval is clear of 0, but over {now} tasks the sign-flip p stays above {stats.ALPHA}."
    if needed <= now:
        return f"An effect of {points(target)} would most likely have shown: if that is what matters, stop here."
    plan = f"with this spread about {needed:,} tasks (now {now}) would show {points(target)}"
    return f"Add tasks rather than rollouts: {plan}."


def sentence(label: str, reference: Arm, tuned: Arm) -> str:
    """The verdict with both arms' figures."""
    before, after = (percent(metrics.overall(arm, "validity")) for arm in (reference, tuned))
    said = {
        "better": f"{tuned.name} emits more valid tool calls than {reference.name}",
        "worse": f"{tuned.name} emits fewer valid tool calls than {reference.name}",
        "inconclusive": f"no difference in valid tool calls is shown between {tuned.name} and {reference.name}",
    }[label]
    return f"{label.capitalize()}: {said}, {after} against {before}."


def detail(label: str, headline: Pair) -> str:
    """The difference with its interval and p, and where it is inconclusive the effect that would have shown."""
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


def leaks(arms: Sequence[Arm]) -> list[str]:
    """A warning for each arm whose adapter was trained on tasks of this comparison."""
    return [
        f"Leak: the adapter of {arm.name} was trained on {len(arm.leaked_tasks)} of these {len(arm.tasks)} tasks. "
        "Its figures there show memory, not what it does on tasks that it never saw."
        for arm in arms
        if arm.leaked_tasks
    ]


def percent(value: float | None) -> str:
    """A share as a percentage; an em dash for what was not measured."""
    return "—" if value is None else f"{100 * value:.1f}%"


def points(value: float | None, *, sign: bool = False) -> str:
    """A difference of shares in percentage points."""
    if value is None:
        return "an unknown number of points"
    return f"{100 * value:{'+' if sign else ''}.1f} points"
