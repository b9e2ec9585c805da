"""What a comparison says in words: the verdict's sentence, its evidence, warnings, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from repo_agent.evaluate import metrics, stats
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.commands import eval_command, preference_commands
from repo_agent.evaluate.comparable import same_model
from repo_agent.evaluate.pairs import Pair
from repo_agent.evaluate.verdict import BETTER, DECIDING, INCONCLUSIVE, PASS_RATE, VALIDITY, WEIGHTS, WORSE, Decision
from repo_agent.tools.verdict import UNSCORED
from repo_agent.traces.store import PROMPT, TRAINED_PROMPTS

COMPETENT = 0.95
"""From this validity on, the schema is learned."""
_WORTH_SEEING = 0.05
"""The smallest effect that another run is planned for."""
_PAIRS = "generate preference data with the tuned model."
_DPO = "Train on preferences next (DPO), on data that the tuned model generates."


class Step(NamedTuple):
    """What to do next, and the commands that do it, where all their names are known."""

    text: str
    commands: tuple[str, ...] = ()


def next_step(verdict: Decision, reference: Arm, tuned: Arm, arms: Sequence[Arm]) -> Step:
    """The plan's next iteration after this verdict on `tuned` against `reference`."""
    if verdict.label == "too_few_tasks":
        return Step(f"Play more tasks: hold out {stats.MIN_TASKS} or more.")
    if verdict.label == "unfinished":
        return Step("Finish the runs:", tuple(eval_command(arm) for arm in arms if arm.pending))
    steps: Mapping[str, Callable[[Decision, Arm, Arm], str]] = {
        "not_measured": lambda *_: "Look at how the rollouts ended: there is nothing to compare.",
        "better": lambda *_: f"Validity is up and more rollouts pass: {_PAIRS}",
        "better_validity": _after_better_validity,
        "better_pass_rate": lambda *_: f"More rollouts pass: {_PAIRS}",
        "mixed": _after_mixed,
        "worse": _after_worse,
        "inconclusive": _after_inconclusive,
        "better_alone": _after_better_alone,
        "inconclusive_alone": _after_inconclusive,
        "worse_alone": _after_worse,
    }
    text = steps[verdict.label](verdict, reference, tuned)
    return Step(text, preference_commands(tuned) if _DPO in text or _PAIRS in text else ())


def _after_better_validity(_: Decision, __: Arm, tuned: Arm) -> str:
    if _competent(tuned):
        return f"The schema is learned, but the pass rate is not shown to move. {_DPO}"
    if (metrics.overall(tuned, PASS_RATE) or 0) >= 0.5:
        return f"Validity is up and at least half of the rollouts pass: {_PAIRS}"
    return "Validity is up but passes are not: put more varied contexts and stop examples into the training traces."


def _after_better_alone(_: Decision, __: Arm, tuned: Arm) -> str:
    learned = "The schema is learned" if _competent(tuned) else "More calls are valid"
    return f"{learned}. Whether more tasks are solved is not measured: play rollouts with outcomes (eval, or marks)."


def _after_mixed(verdict: Decision, reference: Arm, tuned: Arm) -> str:
    if verdict.sides[VALIDITY] == WORSE:
        return _after_worse(verdict, reference, tuned)
    return (
        "Do not ship this adapter: its calls are valid more often, but they solve fewer tasks. Read rollouts that only "
        "the reference passes, and train again with a lower learning rate, fewer epochs or more varied traces."
    )


def _after_worse(_: Decision, reference: Arm, tuned: Arm) -> str:
    return (
        f"Do not ship this adapter. {_grown(reference, tuned)}Read its example turns, check the dataset's card "
        "(funnel, contract, parity), and train again with a lower learning rate or fewer epochs."
    )


def _after_inconclusive(verdict: Decision, reference: Arm, tuned: Arm) -> str:
    if not _competent(tuned):
        return _more_tasks(verdict.pairs[VALIDITY])
    before, after = (percent(metrics.overall(arm, VALIDITY)) for arm in (reference, tuned))
    if _competent(reference):
        return f"Both arms have the schema ({before} and {after} valid): more SFT has little to teach there. {_DPO}"
    return (
        f"{tuned.name} has the schema ({after} valid). {_DPO} That it has it from tuning is not shown: "
        f"{_more_tasks(verdict.pairs[VALIDITY])}"
    )


def _competent(arm: Arm) -> bool:
    return (metrics.overall(arm, VALIDITY) or 0) >= COMPETENT


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


def _more_tasks(pair: Pair) -> str:
    """How many tasks the spread seen here asks for."""
    target = max(abs(pair.difference or 0), _WORTH_SEEING)
    needed = stats.tasks_needed(pair.values, target, stats.ALPHA * WEIGHTS[VALIDITY])
    if needed is None:
        return "Add tasks: the ones that have a value in both arms say nothing about the spread."
    if needed <= len(pair.values):
        return f"An effect of {points(target)} would most likely have shown: if that is what matters, stop here."
    plan = f"with this spread about {needed:,} tasks (now {len(pair.values)}) would show {points(target)}"
    return f"Add tasks rather than rollouts: {plan}."


def sentence(verdict: Decision, reference: Arm, tuned: Arm) -> str:
    """The verdict with both arms' figures."""
    if verdict.label == "unfinished":
        pending = ", ".join(f"{arm.name} {len(arm.pending)}" for arm in (reference, tuned) if arm.pending)
        return f"Unfinished: pending rollouts ({pending}) could still change the verdict."
    if verdict.label == "not_measured":
        bare = [_metric(name) for name in DECIDING if verdict.pairs[name].difference is None]
        return f"Not measured: no task has {' or '.join(bare)} in both {tuned.name} and {reference.name}."
    if not verdict.concluded:
        return f"{verdict.title}. Here are {len(tuned.tasks)}."
    sides = {name: side for name, side in verdict.sides.items() if side != INCONCLUSIVE}
    said = [_said(name, side, reference, tuned) for name, side in sides.items()]
    if not said:
        figures = " and ".join(f"{_metric(name)} {_figures(name, reference, tuned)}" for name in verdict.sides)
        return f"{verdict.title}: no difference is shown between {tuned.name} and {reference.name}; {figures}."
    joint = " but " if verdict.label == "mixed" else " and "
    colon = ";" if ":" in verdict.title else ":"
    return f"{verdict.title}{colon} {tuned.name} {joint.join(said)} than {reference.name}."


def _said(metric: str, side: str, reference: Arm, tuned: Arm) -> str:
    more = "more" if side == BETTER else "fewer"
    done = f"emits {more} valid tool calls" if metric == VALIDITY else f"passes {more} rollouts"
    return f"{done} ({_figures(metric, reference, tuned)})"


def _figures(metric: str, reference: Arm, tuned: Arm) -> str:
    return f"{percent(metrics.overall(tuned, metric))} against {percent(metrics.overall(reference, metric))}"


def _metric(name: str) -> str:
    return name.replace("_", " ")


def evidence(verdict: Decision) -> list[str]:
    """A line on each deciding metric: the difference with its interval and p, and where nothing is shown the effect
    that most likely would have been."""
    return [_evidence(verdict, name) for name in DECIDING]


def _evidence(verdict: Decision, metric: str) -> str:
    pair, name = verdict.pairs[metric], _metric(metric).capitalize()
    if pair.difference is None:
        return f"{name}: not measured on any task."
    interval = "no 95% interval"
    if pair.interval:
        interval = f"95% interval {100 * pair.interval.low:+.1f} to {100 * pair.interval.high:+.1f}"
    p, adjusted = p_text(pair.p), p_text(verdict.adjusted.get(metric, pair.p))
    tested = p if p == adjusted else f"{p}, with Holm's correction {adjusted.removeprefix('p = ')}"
    text = f"{name}: {points(pair.difference, sign=True)} ({interval}; {tested}; {len(pair.values)} tasks"
    least = smallest_effect(verdict, metric) if verdict.sides.get(metric) == INCONCLUSIVE else None
    if least is None:
        return f"{text}, {pair.p_label})."
    return f"{text}, {pair.p_label}). The smallest effect that this design most likely shows is {points(least)}."


def smallest_effect(verdict: Decision, metric: str) -> float | None:
    """The smallest true effect that four of five such runs would show on this metric alone; None where no verdict was
    reached, or there is no spread."""
    return stats.mde(verdict.pairs[metric].values, stats.ALPHA * WEIGHTS[metric]) if verdict.concluded else None


def leaks(arms: Sequence[Arm]) -> list[str]:
    """A warning for each arm whose adapter was trained on tasks of this comparison."""
    return [
        f"Leak: the adapter of {arm.name} was trained on {len(arm.leaked_tasks)} of these {len(arm.tasks)} tasks. "
        "Its figures there show memory, not what it does on tasks that it never saw."
        for arm in arms
        if arm.leaked_tasks
    ]


def warnings(arms: Sequence[Arm]) -> list[str]:
    """What differs between the arms, or is unknown of them, beside what they are compared in."""
    unknown = [arm.name for arm in arms if arm.adapter_unknown]
    lines = []
    if unknown:
        lines.append(f"Adapter unknown: leaks unchecked ({', '.join(unknown)}); name it with --adapter.")
    if same_model(arms):
        lines.append("Null comparison: the arms are the same model, so every difference is chance.")
    lines += [note for arm in arms for note in arm.notes]
    if all(arm.replayed for arm in arms):
        lines.append(f"Ended instead of calling, not scored: {', '.join(map(_finals, arms))}.")
    lines += _spread(arms, "System prompts differ", lambda arm: arm.record.get(PROMPT))
    for arm in arms:
        known = arm.record.get(TRAINED_PROMPTS)
        if known and arm.record.get(PROMPT) not in known:
            lines.append(f"{arm.name} was trained on other system prompts ({', '.join(known[:3])}) than it plays with.")
    lines += _spread([arm for arm in arms if arm.base_hash], "Base weights differ", lambda arm: arm.base_hash)
    lines += _spread(arms, "Isolation differs", lambda arm: " and ".join(sorted(arm.isolations)) or None)
    for arm in arms:
        if len(arm.isolations) > 1:
            counts = ", ".join(f"{name} in {count} rollouts" for name, count in arm.isolations.most_common())
            lines.append(f"Isolation changed when {arm.name} was resumed: {counts}.")
    return lines


def _finals(arm: Arm) -> str:
    total = sum(arm.classes.values())
    return f"{arm.name} {percent(arm.classes.get('final', 0) / total if total else None)}"


def _spread(arms: Sequence[Arm], what: str, of: Callable[[Arm], str | None]) -> list[str]:
    """A line that names every arm's value, where known ones differ."""
    values = {arm.name: of(arm) for arm in arms}
    if len({value for value in values.values() if value is not None}) < 2:
        return []
    return [f"{what}: {', '.join(f'{name} {value}' for name, value in values.items() if value is not None)}."]


def percent(value: float | None) -> str:
    """A share as a percentage; an em dash for what was not measured."""
    return "—" if value is None else f"{100 * value:.1f}%"


def points(value: float | None, *, sign: bool = False) -> str:
    """A difference of shares in percentage points."""
    if value is None:
        return "an unknown number of points"
    return f"{100 * value:{'+' if sign else ''}.1f} points"


def p_text(p: float | None) -> str:
    """`p = 0.0312`; below the resolution of the draws just that it is."""
    if p is None:
        return "p not measured"
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"
