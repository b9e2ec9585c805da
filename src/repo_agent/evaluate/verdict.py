"""What a comparison says of one arm against another: a label from the pair (validity, pass rate), by one table.

`python -m repo_agent.evaluate.verdict` prints the table.

Both sign-flip tests share the 5% by Holm's method, validity with twice the weight of pass rate: it is the primary
metric, and with equal weights six tasks could show nothing (their smallest p, 2/64, is above 0.025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from repo_agent.evaluate import pairs, stats
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.pairs import Pair

VALIDITY, PASS_RATE = "validity", "pass_rate"
DECIDING = (VALIDITY, PASS_RATE)
WEIGHTS = {VALIDITY: 2 / 3, PASS_RATE: 1 / 3}
BETTER, INCONCLUSIVE, WORSE = "better", "inconclusive", "worse"
SIDES = (WORSE, INCONCLUSIVE, BETTER)
TABLE: Mapping[tuple[str, str], str] = {
    (BETTER, BETTER): "better",
    (BETTER, INCONCLUSIVE): "better_validity",
    (BETTER, WORSE): "mixed",
    (INCONCLUSIVE, BETTER): "better_pass_rate",
    (INCONCLUSIVE, INCONCLUSIVE): "inconclusive",
    (INCONCLUSIVE, WORSE): "worse",
    (WORSE, BETTER): "mixed",
    (WORSE, INCONCLUSIVE): "worse",
    (WORSE, WORSE): "worse",
}
"""(validity, pass rate) → label."""
ALONE: Mapping[str, str] = {
    BETTER: "better_alone",
    INCONCLUSIVE: "inconclusive_alone",
    WORSE: "worse_alone",
}
"""Validity → label, where no rollout of either arm has a known outcome: replayed turns, recordings without marks."""
TITLES: Mapping[str, str] = {
    "better": "Better",
    "better_validity": "Better; pass rate not shown to move",
    "better_pass_rate": "Better on pass rate",
    "mixed": "Mixed: do not ship",
    "inconclusive": "Inconclusive",
    "worse": "Worse",
    "better_alone": "Better; pass rate not measured",
    "inconclusive_alone": "Inconclusive; pass rate not measured",
    "worse_alone": "Worse; pass rate not measured",
    "too_few_tasks": f"Too few tasks to show anything; {stats.MIN_TASKS} is the least",
    "unfinished": "Unfinished",
    "not_measured": "Not measured",
}
BETTER_LABELS = frozenset(label for label in TITLES if label.startswith(BETTER))
"""Label → how people read it. The last three come before the table; see `decide`."""
CONCLUSIONS = frozenset((*TABLE.values(), *ALONE.values()))


class Evidence(NamedTuple):
    """One metric's test: the mean difference, of which only the sign counts, and its two-sided p."""

    difference: float
    p: float


@dataclass(frozen=True)
class Decision:
    """What is said of arm `b` against arm `a`. `sides` and `adjusted` are empty where no table was looked into."""

    label: str
    pairs: Mapping[str, Pair]
    """Metric → both arms on it; the deciding two at least."""
    sides: Mapping[str, str]
    """Deciding metric → better, inconclusive or worse."""
    adjusted: Mapping[str, float]
    """Deciding metric → p after Holm's method."""
    forgot: str = ""
    """What a better arm is shown to have forgotten, in words for the title; the label is without it."""

    @property
    def title(self) -> str:
        return "; ".join(filter(None, (TITLES[self.label], self.forgot)))

    @property
    def concluded(self) -> bool:
        return self.label in CONCLUSIONS


def decide(a: Arm, b: Arm, compared: Mapping[str, Pair] | None = None) -> Decision:
    """The label of `b` against `a`. The first that applies: under 6 tasks nothing can be shown; pending rollouts that
    could still change the label leave it unfinished; a metric without a value in an arm is not measured; the table."""
    compared = compared or pairs.compare_on(a, b, DECIDING)
    deciding = DECIDING if a.graded or b.graded else (VALIDITY,)
    tests = [(compared[metric].difference, compared[metric].p) for metric in deciding]
    evidence = [Evidence(difference, p) for difference, p in tests if difference is not None and p is not None]
    if len(a.tasks) < stats.MIN_TASKS:
        return Decision("too_few_tasks", compared, {}, {})
    if (a.pending or b.pending) and (len(evidence) < len(deciding) or len(possible(a, b, deciding)) > 1):
        return Decision("unfinished", compared, {}, {})
    if len(evidence) < len(deciding):
        return Decision("not_measured", compared, {}, {})
    sides = sides_of(*evidence)
    adjusted = holm(*(one.p for one in evidence)) if len(evidence) > 1 else (evidence[0].p,)
    by_metric = dict(zip(deciding, sides, strict=True)), dict(zip(deciding, adjusted, strict=True))
    return Decision(_label(sides), compared, *by_metric)


def _label(sides: tuple[str, ...]) -> str:
    return TABLE[sides[0], sides[1]] if len(sides) > 1 else ALONE[sides[0]]


def holm(validity: float, pass_rate: float) -> tuple[float, float]:
    """Both p adjusted by Holm's weighted method (S. Holm, Scand. J. Statist. 6, 1979): the one that is smaller for its
    weight answers for both, the other one is at least as large and else itself."""
    by_weight = [validity / WEIGHTS[VALIDITY], pass_rate / WEIGHTS[PASS_RATE]]
    first = min(1.0, *by_weight)
    if by_weight[0] <= by_weight[1]:
        return first, max(first, pass_rate)
    return max(first, validity), first


def sides_of(validity: Evidence, pass_rate: Evidence | None = None) -> tuple[str, ...]:
    """Better, inconclusive or worse, for each of the two; for validity alone where the other is not measured."""
    if pass_rate is None:
        return (_side(validity.difference, validity.p),)
    adjusted = holm(validity.p, pass_rate.p)
    return tuple(_side(one.difference, p) for one, p in zip((validity, pass_rate), adjusted, strict=True))


def _side(difference: float, p: float) -> str:
    if p >= stats.ALPHA:
        return INCONCLUSIVE
    return BETTER if difference > 0 else WORSE


def possible(a: Arm, b: Arm, deciding: tuple[str, ...] = DECIDING) -> set[str]:
    """Every label of the table that `b` may get against `a`, whatever the pending rollouts do within the limits.

    Evidence of a metric runs from strongly worse to strongly better and never falls while a task's difference grows:
    turning the signs of a set of tasks reaches the sum exactly where the set's own sum is not above 0. So it lies
    between what the low ends and the high ends of all tasks' differences give, and its side between those of the four
    corners: Holm's method asks of the other metric only whether that is shown. (Shown to be worse at one end and better
    at the other, with nothing shown between, it gives several labels as it is.) Above 15 tasks this holds for the flips
    as drawn.
    """
    corners = product(*(_ends(pairs.bounds(a, b, metric)) for metric in deciding))
    seen = [sides_of(*corner) for corner in corners]
    ranges = [_between([sides[place] for sides in seen]) for place in range(len(deciding))]
    return {_label(sides) for sides in product(*ranges)}


def _ends(bounds: list[stats.Interval]) -> list[Evidence]:
    """The weakest and the strongest evidence for `b` within these bounds."""
    rows = [[bound.low for bound in bounds], [bound.high for bound in bounds]]
    tests = zip(rows, stats.sign_flips(rows), strict=True)
    return [Evidence(sum(row), 1.0 if flips.p is None else flips.p) for row, flips in tests]


def _between(sides: list[str]) -> tuple[str, ...]:
    places = [SIDES.index(side) for side in sides]
    return SIDES[min(places) : max(places) + 1]


def table() -> str:
    """The table of labels, in Markdown."""
    lines = ["| validity | " + " | ".join(f"pass rate {side}" for side in reversed(SIDES)) + " |", "|---|---|---|---|"]
    for row in reversed(SIDES):
        cells = " | ".join(TITLES[TABLE[row, column]] for column in reversed(SIDES))
        lines.append(f"| **{row}** | {cells} |")
    alone = "; ".join(f"{side}: {TITLES[ALONE[side]]}" for side in reversed(SIDES))
    lines += ["", f"Where no outcome of either arm is known, validity decides alone. {alone}."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
