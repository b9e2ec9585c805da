"""Trajectories as rows of token ids: cut at the last turn that fits, and compared with what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import Span, Tokens
from repo_agent.data.dataset import Dataset
from repo_agent.data.tally import Proof
from repo_agent.data.trajectories import Label, Trajectory, rows
from repo_agent.errors import UserError


class Fitted(NamedTuple):
    """A row that ends after the last kept turn that fits, and the turns that did not."""

    tokens: Tokens
    lost: list[tuple[Label, Span]]


def fitted(trajectory: Trajectory, renderer: Renderer, most: int | None) -> Iterator[Fitted]:
    """A trajectory's rows of at most `most` tokens: same prefix and same loss as far as they go.

    Raises UserError that names the trajectory where the chat template refuses it.
    """
    places = {turn.at: turn for turn in trajectory.kept}
    for row in rows(trajectory):
        try:
            made = renderer.rows(row.messages, row.targets)
        except UserError as error:
            raise UserError(error.what, f"{trajectory.id} ({error.where})", error.remedy) from error
        for tokens in made:
            kept = tokens if most is None else tokens.within(most)
            yield Fitted(kept, [(places[span.message], span) for span in tokens.spans[len(kept.spans) :]])


def prove(proof: Proof, trajectory: Trajectory, tokens: Tokens, fingerprint: str) -> None:
    """Compare the prompt of each trained turn with the one that ran, where that was recorded."""
    places = {turn.at: turn for turn in trajectory.kept}
    for span, own in zip(tokens.spans, tokens.prompt_hashes(), strict=True):
        turn = places[span.message]
        ran = None if trajectory.reconstructed else turn.prompt_ids
        proof.add(f"{trajectory.id}:{turn.t}", own, fingerprint, ran)


R = TypeVar("R")


@dataclass
class Rows(Generic[R]):
    """What some data are for one tokenizer: rows, or pairs of them."""

    rows: list[R] = field(default_factory=list)
    tasks: list[tuple[str, str]] = field(default_factory=list)
    """Of each row its task, and the task's group."""
    too_long: int = 0
    """Rows of which not one turn fits; pairs that do not fit, which are dropped whole: one that is cut says that a turn
    ended where it did not."""
    lost: Counter[str] = field(default_factory=Counter)
    """Tool → trained tokens lost with turns that did not fit; of pairs, all of them."""
    prompts: dict[str, int] = field(default_factory=dict)
    """Prompts against those that ran."""


@dataclass
class TrainingRows(Rows[Tokens]):
    """A dataset's rows."""

    proof: Proof = field(default_factory=Proof)


def training_rows(dataset: Dataset, renderer: Renderer, most: int | None) -> TrainingRows:
    """Raises UserError where a prompt renders otherwise than it ran."""
    made = TrainingRows()
    for trajectory in dataset.trajectories():
        for tokens, lost in fitted(trajectory, renderer, most):
            for turn, span in lost:
                made.lost[turn.what] += span.end - span.start
            if tokens.spans:
                made.rows.append(tokens)
                made.tasks.append((trajectory.task, trajectory.group))
                prove(made.proof, trajectory, tokens, renderer.fingerprint())
            else:
                made.too_long += 1
    refuse_what_differs(made.proof, str(dataset.path))
    made.prompts = made.proof.to_dict()
    return made


def refuse_what_differs(proof: Proof, where: str) -> None:
    """Raise UserError where a prompt renders otherwise than it ran."""
    if proof.different:
        what = f"{proof.different} prompts render otherwise than they ran ({proof.line()}); the first is {proof.first}"
        remedy = "Was a text edited, or is this another chat template? Leave such traces out, or play them again"
        raise UserError(what, where, remedy)
