"""Runs into a conclusion: every pair of arms on every metric, the verdict on one of them, and the cheapest sufficient
arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from repo_agent.evaluate import advice, metrics
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.comparable import load_arms
from repo_agent.evaluate.forgetting import Forgetting, forgetting
from repo_agent.evaluate.pairs import Pair, compare_on
from repo_agent.evaluate.verdict import BETTER_LABELS, DECIDING, VALIDITY, WORSE, Decision, decide
from repo_agent.models.resolve import parts
from repo_agent.tools.verdict import LADDER


@dataclass(frozen=True)
class Comparison:
    """Arms in the order given, every pair of them on every metric, and the verdict on `tuned` against `reference`."""

    arms: tuple[Arm, ...]
    reference: Arm
    tuned: Arm
    pairs: tuple[Pair, ...]
    """Of each two arms in the order given: the later less the earlier one."""
    verdict: Decision
    cheapest: Arm | None
    """The cheapest sufficient arm; None where none is known to be sufficient."""
    why_cheapest: str
    forgetting: Forgetting

    @property
    def sentence(self) -> str:
        """The verdict in plain words, with both arms' figures."""
        return advice.sentence(self.verdict, self.reference, self.tuned)

    @property
    def evidence(self) -> list[str]:
        """A line on each deciding metric."""
        return advice.evidence(self.verdict)

    @property
    def recommendation(self) -> str:
        return f"Cheapest sufficient arm: {self.cheapest.name if self.cheapest else 'none'}."

    @property
    def step(self) -> advice.Step:
        """What to do next."""
        return advice.next_step(self.verdict, self.reference, self.tuned, self.arms)

    @property
    def warnings(self) -> list[str]:
        """What makes the figures less comparable than they look."""
        return [*self.forgetting.warnings, *advice.warnings(self.arms)]

    def text(self) -> list[str]:
        """The verdict in plain words, a line each."""
        lines = [self.sentence, *self.evidence, *advice.leaks(self.arms), *self.warnings, *self.forgetting.missing]
        if self.verdict.concluded:
            lines.append(f"{self.recommendation} {self.why_cheapest}")
        return [*lines, f"Next step: {self.step.text}", *self.step.commands]

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints. Not measured is null; `rollouts` are whole ones, over all tasks."""
        shown = ("a", "b", "metric", "difference", "interval", "p")
        return {
            "arms": [_arm_json(arm) for arm in self.arms],
            "pairs": [{key: getattr(pair, key) for key in shown} for pair in self.pairs],
            "forgetting": self.forgetting.to_json(),
            "verdict": {
                "label": self.verdict.label,
                "title": self.verdict.title,
                **{metric: _evidence_json(self.verdict, metric) for metric in DECIDING},
                "cheapest": self.cheapest.name if self.cheapest else None,
                "next_step": self.step.text,
                "commands": self.step.commands,
                "warnings": [*advice.leaks(self.arms), *self.warnings],
            },
        }


def _evidence_json(verdict: Decision, metric: str) -> dict[str, Any]:
    pair = verdict.pairs[metric]
    return {
        "difference": pair.difference,
        "interval": pair.interval,
        "p": pair.p,
        "adjusted_p": verdict.adjusted.get(metric),
        "side": verdict.sides.get(metric),
        "smallest_effect": advice.smallest_effect(verdict, metric),
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
        "pending": len(arm.pending),
        "leaked_tasks": None if arm.adapter_unknown else len(arm.leaked_tasks),
        "isolation": arm.record.get("isolation"),
        "verbatim": arm.verbatim[0] if arm.verbatim else None,
    }


def compare_runs(run_dirs: Sequence[Path]) -> Comparison:
    """Compare runs of the same work. Raises UserError where `load_arms` does."""
    arms = load_arms(run_dirs)
    reference, tuned = _opponents(arms)
    compared = {(a.name, b.name): compare_on(a, b) for a, b in combinations(arms, 2)}
    pairs = tuple(pair for of_two in compared.values() for pair in of_two.values())
    probed = forgetting(arms, reference, tuned)
    verdict = decide(reference, tuned, compared.get((reference.name, tuned.name)))
    if verdict.label in BETTER_LABELS:
        verdict = replace(verdict, forgot=probed.qualifier)
    cheapest, why = _cheapest(arms, tuned) if verdict.concluded else (None, "")
    return Comparison(arms, reference, tuned, pairs, verdict, cheapest, why, probed)


def _opponents(arms: Sequence[Arm]) -> tuple[Arm, Arm]:
    """Reference and tuned: tuned is the last arm with an adapter (a free one before a constrained), else the last arm;
    the reference is the first of the others."""
    adapted = [arm for arm in arms if arm.adapted]
    free = [arm for arm in adapted if not arm.record["constrain"]]
    tuned = (free or adapted or list(arms))[-1]
    return next(arm for arm in arms if arm is not tuned), tuned


def _cheapest(arms: Sequence[Arm], tuned: Arm) -> tuple[Arm | None, str]:
    """The first arm in order of cost that is shown worse, on validity or on pass rate, neither than `tuned` nor than a
    cheaper arm; and why."""
    ranked = sorted(arms, key=lambda arm: cost_rank(arm, arms))
    passed_over: list[str] = []
    for place, arm in enumerate(ranked):
        rivals = [*ranked[:place], *([tuned] if tuned in ranked[place + 1 :] else [])]
        decisions = {rival.name: decide(rival, arm) for rival in rivals}
        waits = [name for name, decision in decisions.items() if decision.label == "unfinished"]
        if waits:
            return None, f"Pending rollouts could still show {arm.name} to be worse than {' or '.join(waits)}."
        faults = [f"{name} on {_named(worse)}" for name, one in decisions.items() if (worse := _worse_on(one))]
        deciding = DECIDING if any(one.graded for one in arms) else (VALIDITY,)
        unmeasured = any(metrics.overall(arm, metric) is None for metric in deciding)
        if not faults and not unmeasured:
            return arm, _why(arm, tuned, decisions.get(tuned.name), passed_over)
        passed_over.append(f"{arm.name} is {'worse than ' + ' and '.join(faults) if faults else 'not measured'}")
    return None, f"{'; '.join(passed_over)}."


def _worse_on(decision: Decision) -> list[str]:
    return [metric for metric, side in decision.sides.items() if side == WORSE]


def _named(names: Sequence[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)


def _why(arm: Arm, tuned: Arm, against: Decision | None, passed_over: Sequence[str]) -> str:
    before = [f"{'; '.join(passed_over)}."] if passed_over else []
    if arm is tuned or against is None:
        return " ".join(before) or f"No arm in this comparison is cheaper than {arm.name}."
    sizes = {_named([metric]): advice.smallest_effect(against, metric) for metric in DECIDING}
    seen = " and ".join(f"{advice.points(size)} of {name}" for name, size in sizes.items() if size is not None)
    least = f"; the smallest effects that would most likely have shown: {seen}" if seen else ""
    where = "on either" if len(against.sides) > 1 else "on validity"
    return " ".join([*before, f"{arm.name} is not shown to be worse than {tuned.name} {where}{least}."])


def cost_rank(arm: Arm, arms: Sequence[Arm]) -> int:
    """Cheapest first: base, constrained base, tuned, constrained tuned, then models that are not ours to tune."""
    bases = {other.base_name for other in arms if other.adapted}
    served_base = arm.adapter_unknown and parts(arm.record["model"])[1] in bases
    if not (arm.kind == "local" or arm.adapted or served_base):
        return 4
    return 2 * arm.adapted + bool(arm.record["constrain"])
