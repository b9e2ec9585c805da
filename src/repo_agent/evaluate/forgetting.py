"""What tuning cost: the answers of two arms to the same probes, paired over prompts and texts.

Beside the verdict, which is on the tasks alone. Five metrics share 5% by Holm's method; one on which the tuned arm is
shown to be worse is named in the verdict's title, and never changes its label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from repo_agent.evaluate import stats
from repo_agent.evaluate.advice import p_text, percent, points
from repo_agent.evaluate.arms import Arm, shown
from repo_agent.evaluate.metrics import mean
from repo_agent.evaluate.pairs import Pair
from repo_agent.models.resolve import PRESETS
from repo_agent.probes.answers import METRICS, Answers, read_answers

NATS = "nats"
LEAST_NATS = 0.05
"""A rise of fewer nats a token is not called forgetting, however sure it is: any training moves all texts a little."""
_SAME = ("probes", "protocol", "contract", "sampling", "seed")
_WORSE: Mapping[str, str] = {
    "no_call_tools": "answers fewer prompts without a call where it has tools",
    "no_call_plain": "answers fewer prompts without a call where it has no tools",
    "chat": "answers fewer plain prompts as asked",
    "whole": "ends fewer replies by itself",
    NATS: "finds ordinary text less likely",
}
_SHORT: Mapping[str, str] = {
    "no_call_tools": "answers fewer no-call prompts",
    "no_call_plain": "answers fewer no-call prompts",
    "chat": "chats worse",
    "whole": "ends fewer replies",
    NATS: "reads ordinary text worse",
}


@dataclass(frozen=True)
class Forgetting:
    """The probes of every arm that has them; the pair of `reference` and `tuned` is tested."""

    answers: Mapping[str, Answers]
    """Arm → its answers, where it has any."""
    pairs: tuple[Pair, ...]
    """Of each two arms with comparable answers: the later less the earlier one."""
    tested: Mapping[str, Pair]
    """Metric → tuned less reference, where both have a value."""
    adjusted: Mapping[str, float]
    """Metric → p after Holm's method."""
    why_not: str
    """Why nothing is tested; "" where something is."""
    command: str
    """What measures it, where something does."""

    @property
    def forgotten(self) -> list[str]:
        """The metrics on which tuned is shown to be worse."""
        return [metric for metric, p in self.adjusted.items() if p < stats.ALPHA and _is_worse(self.tested[metric])]

    @property
    def qualifier(self) -> str:
        """What the verdict's title says of it: `answers fewer no-call prompts, chats worse`."""
        return ", ".join(dict.fromkeys(_SHORT[metric] for metric in self.forgotten))

    @property
    def warnings(self) -> list[str]:
        """A line for each metric on which tuned is shown to be worse."""
        return [f"Forgets: {self._warning(metric)}." for metric in self.forgotten]

    @property
    def missing(self) -> list[str]:
        """A line where nothing is measured and something could be."""
        return [f"Forgetting: {self.why_not}{f': {self.command}' if self.command else '.'}"] if self.why_not else []

    def figure(self, arm: str, metric: str) -> float | None:
        """An arm's share of good answers, or its nats a token; None where that is not measured."""
        return self.answers[arm].mean(metric) if arm in self.answers else None

    def _warning(self, metric: str) -> str:
        pair = self.tested[metric]
        figures = " against ".join(figure_text(metric, self.figure(name, metric)) for name in (pair.b, pair.a))
        interval = interval_text(pair)
        spread = f"95% interval {interval}" if interval else "no 95% interval"
        size = f"{len(pair.values)} {'texts' if metric == NATS else 'prompts'}"
        sure = f"{p_text(self.adjusted[metric])} with Holm's correction"
        return f"{pair.b} {_WORSE[metric]} than {pair.a}: {figures} ({difference_text(pair)}, {spread}; {sure}; {size})"

    def to_json(self) -> dict[str, Any] | None:
        """None where no arm was probed."""
        if not self.answers:
            return None
        keys = ("a", "b", "metric", "difference", "interval", "p")
        return {
            "arms": {name: {metric: self.figure(name, metric) for metric in METRICS} for name in self.answers},
            "pairs": [{key: getattr(pair, key) for key in keys} for pair in self.pairs],
            "adjusted_p": {metric: self.adjusted.get(metric) for metric in METRICS},
            "forgotten": self.forgotten,
        }


def forgetting(arms: Sequence[Arm], reference: Arm, tuned: Arm) -> Forgetting:
    """Read and compare the answers of these arms. Raises UserError for a damaged file."""
    read = {arm.name: read_answers(arm.path) for arm in arms}
    answers = {name: found for name, found in read.items() if found is not None}
    probed = [arm.name for arm in arms if arm.name in answers]
    pairs = [
        pair
        for a, b in combinations(probed, 2)
        if not _differing(answers[a], answers[b])
        for pair in _compared(a, b, answers)
    ]
    of_two = {pair.metric: pair for pair in pairs if {pair.a, pair.b} == {reference.name, tuned.name}}
    tested = {metric: _turned(pair, tuned.name) for metric, pair in of_two.items() if pair.difference is not None}
    why, command = ("", "") if tested else _why_not(reference, tuned, answers)
    adjusted = holm({metric: pair.p for metric, pair in tested.items() if pair.p is not None})
    return Forgetting(answers, tuple(pairs), tested, adjusted, why, command)


def _differing(a: Answers, b: Answers) -> list[str]:
    return [key for key in _SAME if a.settings.get(key) != b.settings.get(key)]


def _why_not(reference: Arm, tuned: Arm, answers: Mapping[str, Answers]) -> tuple[str, str]:
    """Why two arms are not compared on the probes, and the command that would help; nothing where tuned has no adapter
    and was not probed either."""
    both = (reference, tuned)
    lacking = [arm for arm in both if arm.name not in answers]
    if not lacking:
        differing = ", ".join(_differing(answers[reference.name], answers[tuned.name]))
        return f"not comparable, the two were probed otherwise ({differing or 'no value'})", ""
    if not tuned.adapted and len(lacking) == len(both):
        return "", ""
    askable = all(arm.kind in ("local", *PRESETS) and not arm.recorded for arm in lacking)
    command = f"repo-agent probes {' '.join(shown(arm.path) for arm in lacking)}" if askable else ""
    return f"not measured for {' and '.join(arm.name for arm in lacking)}", command


def _compared(a: str, b: str, answers: Mapping[str, Answers]) -> list[Pair]:
    found = {metric: _differences(answers[a], answers[b], metric) for metric in METRICS}
    flips = stats.sign_flips([list(values.values()) for values in found.values()])
    return [
        Pair(
            a=a,
            b=b,
            metric=metric,
            difference=mean(values.values()),
            interval=flip.interval,
            p=flip.p,
            p_label=flip.how,
            differences=tuple(values.items()),
            left_out=tuple(name for name in answers[a].values(metric) if name not in values),
        )
        for (metric, values), flip in zip(found.items(), flips, strict=True)
    ]


def _differences(a: Answers, b: Answers, metric: str) -> dict[str, float]:
    """Probe → b - a, where both have a value. Nats a token are of one tokenizer, which the counts of tokens tell."""
    left, right = a.values(metric), b.values(metric)
    if metric == NATS and a.tokens != b.tokens:
        return {}
    return {name: round(right[name] - left[name], 9) for name in left if name in right}


def _turned(pair: Pair, later: str) -> Pair:
    """A pair as `later` less the other arm."""
    if pair.b == later:
        return pair
    interval = stats.Interval(0.0 - pair.interval.high, 0.0 - pair.interval.low) if pair.interval else None
    values = tuple((name, 0.0 - value) for name, value in pair.differences)
    difference = None if pair.difference is None else 0.0 - pair.difference
    return Pair(pair.b, pair.a, pair.metric, difference, interval, pair.p, pair.p_label, values, pair.left_out)


def holm(found: Mapping[str, float]) -> dict[str, float]:
    """Each p adjusted by Holm's method, all with the same weight."""
    from statsmodels.stats.multitest import multipletests

    return (
        dict(zip(found, map(float, multipletests(list(found.values()), method="holm")[1]), strict=True))
        if found
        else {}
    )


def _is_worse(pair: Pair) -> bool:
    difference = pair.difference or 0.0
    return difference >= LEAST_NATS if pair.metric == NATS else difference < 0


def figure_text(metric: str, value: float | None) -> str:
    """A share as a percentage, nats as they are; an em dash for what was not measured."""
    return f"{value:.3f}" if metric == NATS and value is not None else percent(value)


def difference_text(pair: Pair) -> str:
    """`-82.5 points`, `+0.310 nats`; an em dash for what was not measured."""
    if pair.difference is None:
        return "—"
    return f"{pair.difference:+.3f} nats" if pair.metric == NATS else points(pair.difference, sign=True)


def interval_text(pair: Pair) -> str:
    """`-92.5 to -70.0`; "" where there is none."""
    if pair.interval is None:
        return ""
    ends = pair.interval if pair.metric == NATS else [100 * end for end in pair.interval]
    return " to ".join(f"{end:+.3f}" if pair.metric == NATS else f"{end:+.1f}" for end in ends)
