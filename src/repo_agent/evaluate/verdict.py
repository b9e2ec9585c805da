"""The conclusion of a comparison: every pair of arms on every metric, and one verdict.

While an arm owes rollouts the verdict is `incomplete`. Where the reader allows that, `better` and `worse` are given
only where no owed rollout could change them (see `pairs.settled_label`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from repo_agent.evaluate import advice, metrics
from repo_agent.evaluate.arms import Arm, eval_command, load_arms
from repo_agent.evaluate.pairs import Pair, pair, settled_label
from repo_agent.tools.verdict import LADDER

HEADLINE = "validity"
_DECIDING = (HEADLINE, "pass_rate")
"""What the cheapest arm is chosen by; the rung `executes` is validity."""


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

    def text(self) -> list[str]:
        """The verdict in plain words, a line each: the sentence, its evidence, tasks that leaked into training, the
        cheapest arm and why, the next step."""
        verdict = self.verdict
        lines = [verdict.sentence, verdict.evidence, *advice.leaks(self.arms)]
        if verdict.cheapest:
            lines.append(f"{self.cheapest_is} {verdict.cheapest}. {verdict.why_cheapest}")
        return [line for line in (*lines, f"Next step: {verdict.next_step}") if line]

    @property
    def cheapest_is(self) -> str:
        """What the verdict's `cheapest` is, as text before its name."""
        return f"Cheapest arm that is not shown to be worse than {self.tuned.name}:"

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
        "leaked_tasks": len(arm.leaked_tasks),
        "isolation": arm.record.get("isolation"),
        "verbatim": arm.verbatim[0] if arm.verbatim else None,
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
    step = advice.next_step(label, reference, tuned, headline)
    sentence = advice.sentence(label, reference, tuned)
    detail = advice.detail(label, headline)
    if owing:
        detail += " Some rollouts are owed: better or worse is said only where none of them could change it."
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
            unseen = " and ".join(f"{advice.points(pair(arm, tuned, m).mde)} of {m}" for m in _DECIDING)
            because = f"{tuned.name} is not shown to be better than {arm.name} on {' or '.join(_DECIDING)}"
            return arm, f"{because}; the smallest effects that would have shown: {unseen}."
        beaten.append(f"{arm.name} on {' and '.join(on)}")
    if not beaten:
        return tuned, f"No arm in this comparison is cheaper than {tuned.name}."
    return tuned, f"{tuned.name} is better than every cheaper arm: {'; '.join(beaten)}."
