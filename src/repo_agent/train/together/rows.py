"""The file for Together: a dataset's rows as chat messages, a weight on each, or preference pairs, and what each must
become as token ids.

A row ends after its last turn that fits `max_length`, as in local training. Together renders a row in one go, so a row
is uploaded only where the base's own tokenizer, given the whole row, makes the ids that we train on; others are counted
and left out. The first rows are chosen so that they show every shape of row that there is: the preview of Together
begins at the start of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.dataset import Dataset
from repo_agent.data.export import Source, weighted
from repo_agent.data.pair_set import EXPORTS, PairSet, spells
from repo_agent.data.pair_tokens import TokenPair, token_pairs
from repo_agent.data.tally import Proof
from repo_agent.data.tokens import prove, refuse_what_differs
from repo_agent.data.trajectories import Trajectory, rows
from repo_agent.errors import UserError
from repo_agent.messages import Message
from repo_agent.train.batches import Row

R = TypeVar("R", bound=Row)
PREVIEWED = 16
"""The most rows that are put first and compared."""


@dataclass(frozen=True)
class UploadRow(Generic[R]):
    """A line of the file, the ids and spans that it must become, and its shape, where it is previewed."""

    record: dict[str, Any]
    expected: R
    shape: frozenset[str] = frozenset()


@dataclass
class Upload(Generic[R]):
    """The rows of the file, in order, and what is not in it."""

    tasks: list[str]
    """Tasks that they come from."""
    rows: list[UploadRow[R]] = field(default_factory=list)
    too_long: int = 0
    inexact: int = 0
    """Rows of which the base's tokenizer, given the whole row, makes other ids; pairs that spell a special token."""
    lost: Counter[str] = field(default_factory=Counter)
    """Tool → trained tokens of turns that did not fit a row."""
    prompts: dict[str, int] = field(default_factory=dict)
    """Prompts against those that ran."""

    @property
    def tokens(self) -> int:
        return sum(row.expected.length for row in self.rows)

    @property
    def trained(self) -> int:
        return sum(row.expected.trained for row in self.rows)

    @property
    def longest(self) -> int:
        return max(row.expected.length for row in self.rows)


def upload_of(data: Dataset | PairSet, renderer: Renderer, most: int) -> Upload[Any]:
    """Raises UserError where no row is left, or a prompt renders otherwise than it ran."""
    made: Upload[Any] = (
        upload_rows(data, renderer, most) if isinstance(data, Dataset) else upload_pairs(data, renderer, most)
    )
    if not made.rows:
        what = f"no row is left: {made.too_long} are too long, {made.inexact} tokenise otherwise in one go"
        raise UserError(what, str(data.path), "Raise --max-length, or use another base")
    return made


def upload_pairs(data: PairSet, renderer: Renderer, most: int) -> Upload[TokenPair]:
    """Preference pairs in the form of `pairs --export together`; those that are too long are dropped whole."""
    made, tasks = Upload[TokenPair]([], prompts=dict(data.record["counts"]["prompts"])), set()
    _, view = EXPORTS["together"]
    for row, pair in token_pairs(data, renderer):
        both = zip((row.chosen, row.rejected), pair, strict=True)
        if pair.longer > most:
            made.too_long += 1
            made.lost["pair"] += pair.trained
        elif spells(row, renderer) or not all(_exact(renderer, [*row.context, said], own) for said, own in both):
            made.inexact += 1
        else:
            made.rows.append(UploadRow(view(data, row), pair))
            tasks.add(row.record["task"])
    made.tasks = sorted(tasks)
    return made


def upload_rows(dataset: Dataset, renderer: Renderer, most: int) -> Upload[Tokens]:
    """A dataset's trajectories, those first that show every shape."""
    made, proof = Upload[Tokens](dataset.tasks), Proof()
    source = Source(dataset, renderer)
    for trajectory in source.trajectories():
        for messages, tokens in _rows(trajectory, renderer, most, made):
            targets = [span.message for span in tokens.spans]
            if not _exact(renderer, messages, tokens):
                made.inexact += 1
                continue
            prove(proof, trajectory, tokens, renderer.fingerprint())
            record = {"messages": weighted(messages, targets), **source.tools()}
            made.rows.append(UploadRow(record, tokens, _shape(trajectory, messages, targets, record)))
    refuse_what_differs(proof, str(dataset.path))
    made.rows, made.prompts = ordered(made.rows), proof.to_dict()
    return made


def _exact(renderer: Renderer, messages: Sequence[Message], own: Tokens) -> bool:
    """Whether a program that knows nothing of us tokenises a conversation as it runs turn by turn."""
    text = renderer.tokenizer.apply_chat_template(
        [message.to_dict() for message in messages], tools=renderer.tools, tokenize=False
    )
    whole = list(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])
    return whole[: own.length] == own.input_ids


def ordered(found: Sequence[UploadRow[Tokens]]) -> list[UploadRow[Tokens]]:
    """The rows with those first that together show every shape: the longest, then always the one that adds most."""
    waiting = dict(enumerate(found))
    first: list[UploadRow[Tokens]] = []
    seen: set[str] = set()
    while waiting and len(first) < PREVIEWED:
        if first:
            number = max(waiting, key=lambda one: len(waiting[one].shape - seen))
            if not waiting[number].shape - seen:
                break
        else:
            number = max(waiting, key=lambda one: waiting[one].expected.length)
        first.append(waiting.pop(number))
        seen |= first[-1].shape
    return [*first, *waiting.values()]


def _rows(
    trajectory: Trajectory, renderer: Renderer, most: int, made: Upload[Tokens]
) -> Iterator[tuple[list[Message], Tokens]]:
    """Each row as the messages up to its last turn that fits, and its tokens."""
    places = {turn.at: turn for turn in trajectory.kept}
    for row in rows(trajectory):
        for whole in renderer.rows(row.messages, row.targets):
            kept = whole.within(most)
            for span in whole.spans[len(kept.spans) :]:
                made.lost[places[span.message].what] += span.end - span.start
            if kept.spans:
                yield row.messages[: kept.spans[-1].message + 1], kept
            else:
                made.too_long += 1


def _shape(
    trajectory: Trajectory, messages: Sequence[Message], targets: Sequence[int], record: dict[str, Any]
) -> frozenset[str]:
    """What may make a row render or be masked in its own way."""
    turns = {turn.at: turn for turn in trajectory.turns}
    shape = {f"trains {turns[at].what}" for at in targets} | {f"begins with {messages[0].role}"}
    shape |= {"corrects a bad turn" for at in targets if turns[at].after_bad}
    shape |= {f"trains {'one turn' if len(targets) == 1 else 'several turns'}"}
    shape |= {"tools" for _ in record.get("tools", ())}
    for at, message in enumerate(messages):
        if message.role == "assistant" and at not in targets:
            shape.add("a turn without loss")
        if message.role == "tool":
            shape.add("a tool's message")
        if message.tool_calls:
            shape.add("several calls" if len(message.tool_calls) > 1 else "a call beside the text")
        if not message.content.isascii():
            shape.add("letters beyond ASCII")
        if message.content != message.content.strip():
            shape.add("white space at an end")
        if at and messages[at - 1].role == message.role:
            shape.add(f"{message.role} after {message.role}")
    return frozenset(shape)
