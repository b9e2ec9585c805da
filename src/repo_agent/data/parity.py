"""Proof that merged rows train what step rows train, and that both continue the very prompt a running model gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repo_agent.chat.render import IGNORE, Renderer, Tokens
from repo_agent.data.merge import Trajectory


@dataclass(frozen=True)
class Parity:
    """Result of the check. `faults` name the rows that fail it."""

    steps: int
    merged: int
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.faults

    def line(self) -> str:
        if self.holds:
            return f"holds: {self.merged} merged rows carry the loss of their {self.steps} step rows, token for token"
        return f"FAILS for {len(self.faults)} rows, first {self.faults[0]}"


def check(
    trajectories: Sequence[Trajectory],
    step_rows: Mapping[str, Tokens],
    merged_rows: Mapping[str, Sequence[Tokens]],
    renderer: Renderer,
) -> Parity:
    """Compare rows as rendered: `step_rows` by step id, `merged_rows` (one or more) by trajectory id."""
    faults = []
    for row in trajectories:
        steps = [step_rows[step.id] for step in row.steps]
        if not same_loss(steps, merged_rows[row.id]):
            faults.append(row.id)
        faults += [
            step.id
            for step, tokens in zip(row.steps, steps, strict=True)
            if _prompt(tokens) != renderer.prompt_ids(step.context)
        ]
    return Parity(len(step_rows), sum(map(len, merged_rows.values())), tuple(faults))


def same_loss(steps: Sequence[Tokens], merged: Sequence[Tokens]) -> bool:
    """Whether the merged rows' labels are the union of the step rows' labels, behind the same prefixes.

    Both in order of the turns: a merged row takes the steps that are prefixes of it.
    """
    left = list(steps)
    for row in merged:
        union = [IGNORE] * len(row.labels)
        while left and row.input_ids[: len(left[0].input_ids)] == left[0].input_ids:
            for place, label in enumerate(left.pop(0).labels):
                if label != IGNORE and union[place] != IGNORE:
                    return False
                union[place] = label if label != IGNORE else union[place]
        if union != row.labels:
            return False
    return not left


def _prompt(tokens: Tokens) -> list[int]:
    """The ids before the first one with loss."""
    first = next((place for place, label in enumerate(tokens.labels) if label != IGNORE), len(tokens.labels))
    return tokens.input_ids[:first]
