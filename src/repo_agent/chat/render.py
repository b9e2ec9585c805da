"""Messages to text, token ids and loss mask, by the tokenizer's own chat template.

A running model is prompted with `prompt_ids(messages)`; a training row is that same prompt followed by the ids of the
turn. A row of several targets is built from the same pieces, in time linear in its text, and only where each prompt is
a prefix of the next: what is trained is, id for id, what runs.

**Control tokens.** What a file, a tool or a user says is text, also where it spells a special token (`<|im_end|>`).
Such spellings are hidden while the template prints, so that every special token in the printed text is the template's
own; each stretch between those is then tokenised with `split_special_tokens`. Where no message spells one, the ids are
the tokenizer's on the whole text.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from repo_agent.chat.control import ControlTokens, Piece
from repo_agent.chat.tokens import Span, Tokens
from repo_agent.errors import UserError
from repo_agent.messages import Message, digest

_CHECKED_CHARS = 100_000


@dataclass
class Renderer:
    """Renders with one tokenizer; `tools` are OpenAI schemas for templates that print them, or None."""

    tokenizer: Any
    tools: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self._control = ControlTokens(self.tokenizer)
        self._hidden_tools = self._control.hide_value(self.tools)
        self._rows = 0
        self._fingerprint = ""

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The conversation up to the place where the assistant's next turn begins."""
        return self._control.shown(self._text(self._hidden(messages), True))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What a model is prompted with."""
        return self._control.ids(self._text(self._hidden(messages), True))

    def turn_text(self, messages: Sequence[Message], index: int) -> str:
        """The text that the assistant says as message `index`: its content and the end-of-turn token.

        Raises UserError where the template rewrites the turn or what stands before it.
        """
        hidden = self._hidden(messages[: index + 1])
        return self._control.shown(self._turn(hidden, index, self._text(hidden[:index], True)))

    def control_tokens(self, text: str) -> list[str]:
        """The special tokens that a text spells."""
        return self._control.spelt(text)

    def rows(self, messages: Sequence[Message], targets: Iterable[int]) -> list[Tokens]:
        """Training rows of one conversation: loss on the `targets` (indices of assistant messages) alone.

        One row where every prompt is a token prefix of the next; a new row starts where that breaks. Raises UserError
        for a template that rewrites a target, or a tokenizer whose ids do not come apart at special tokens.
        """
        wanted = sorted(set(targets))
        if not wanted:
            return []
        hidden = self._hidden(messages[: wanted[-1] + 1])
        turns = self._places(hidden, wanted)
        if turns is None:
            return self._rows_one_by_one(hidden, wanted)
        text = self._text(hidden, False)[: turns[-1][2]]
        self._check_pieces(text)
        return self._assembled(text, turns)

    def fingerprint(self) -> str:
        """Hash of what decides the token ids: a probe conversation's ids and the vocabulary's size."""
        if self._fingerprint:
            return self._fingerprint
        probe = [
            Message("system", "s"),
            Message("user", "u\n{}"),
            Message("assistant", '{"a":"é 12\\n"}'),
            Message("user", "x"),
        ]
        self._fingerprint = digest([self.prompt_ids(probe), len(self.tokenizer)])
        return self._fingerprint

    def _places(self, hidden: Sequence[Message], wanted: Sequence[int]) -> list[tuple[int, int, int]] | None:
        """(message, begin, end) in the whole text of each target, its end-of-turn token included; None where the
        template does not print every prompt as a beginning of the whole.

        The generation prompt holds a special token, which no message can spell here, so it is found just where
        assistant turns begin. That each prompt is a beginning is looked at for the last target, the one half way to
        it, and so on: a template that reaches back changes the whole, or its first half, or its first quarter.
        """
        last = wanted[-1]
        whole, opening = self._text(hidden, False), self._text(hidden[:last], True)
        mark = opening[len(self._text(hidden[:last], False)) :]
        starts = [found.end() for found in re.finditer(re.escape(mark), whole)] if self.control_tokens(mark) else []
        speakers = [index for index, message in enumerate(hidden) if message.role == "assistant"]
        if len(starts) != len(speakers):
            return None
        begin = dict(zip(speakers, starts, strict=True))
        turns = []
        for index in wanted:
            end = whole.find(self._control.eos, begin.get(index, len(whole)))
            if end < 0 or not self._is_said(hidden[index], whole[begin[index] : end]):
                return None
            turns.append((index, begin[index], end + len(self._control.eos)))
        looked_at = {len(turns) - 1 >> shift for shift in range(len(turns).bit_length())}
        prompts = ((turns[place][0], turns[place][1]) for place in looked_at)
        same = all(self._text(hidden[:index], True) == whole[:start] for index, start in prompts)
        return turns if same else None

    def _assembled(self, text: str, turns: Sequence[tuple[int, int, int]]) -> list[Tokens]:
        """Rows of a whole text with its turns' places.

        A prompt ends, and what a model then says begins, inside a stretch of text. Where the two tokenise otherwise
        together than apart, the next prompt does not continue this turn as it was said: the row ends.
        """
        pieces = self._control.pieces(text)
        cuts = _cuts(pieces, [start for _, start, _ in turns])
        halves = (half for piece, cut in zip(pieces, cuts, strict=True) if cut is not None for half in _cut(piece, cut))
        encode = self._control.encoder([*(piece.text for piece in pieces), *halves])
        done: list[Tokens] = []
        ids: list[int] = []
        spans: list[Span] = []
        whole: tuple[int, list[int], int] | None = None
        waiting = iter(turns)
        for piece, cut in zip(pieces, cuts, strict=True):
            said = encode(piece.text)
            if cut is not None:
                index, _, end = next(waiting)
                head, tail = (encode(half) if half else [] for half in _cut(piece, cut))
                whole = (len(ids), said, len(head) + len(tail)) if [*head, *tail] != said else None
                spans.append(Span(index, len(ids) + len(head), -1))
                said = [*head, *tail]
            ids += said
            if spans and spans[-1].end < 0 and piece.begin + len(piece.text) >= end:
                spans[-1] = spans[-1]._replace(end=len(ids))
                if whole:
                    done.append(Tokens(ids, tuple(spans)))
                    place, together, length = whole
                    ids, spans = [*ids[:place], *together, *ids[place + length :]], []
        return [*done, Tokens(ids, tuple(spans))] if spans else done

    def _check_pieces(self, text: str) -> None:
        """That ids come apart at special tokens is looked at for the first row, the second, the fourth and so on, long
        ones left out."""
        if len(text) > _CHECKED_CHARS or self._control.shown(text) is not text:
            return
        self._rows += 1
        if self._rows & (self._rows - 1):
            return
        pieces = [piece.text for piece in self._control.pieces(text)]
        encode = self._control.encoder(pieces)
        if [token for piece in pieces for token in encode(piece)] != self._control.ids(text):
            remedy = "Use the tokenizer of a model such as Qwen2.5"
            raise UserError("its ids do not come apart at its special tokens", self._name(), remedy)

    def _turn(self, hidden: Sequence[Message], index: int, prompt: str) -> str:
        """What the assistant says as message `index`, the last one, behind its prompt."""
        whole, eos = self._text(hidden, False), self._control.eos
        end = whole.rfind(eos)
        if (
            not whole.startswith(prompt)
            or end < len(prompt)
            or not self._is_said(hidden[index], whole[len(prompt) : end])
        ):
            raise UserError(
                f"the chat template does not print assistant turn {index} as it was said",
                self._name(),
                "Train with a model whose template keeps turns unchanged, such as Qwen2.5",
            )
        return whole[len(prompt) : end] + eos

    def _is_said(self, message: Message, printed: str) -> bool:
        calls = message.tool_calls
        return all(call.name in printed for call in calls) if calls else printed == message.content

    def _rows_one_by_one(self, hidden: Sequence[Message], wanted: Sequence[int]) -> list[Tokens]:
        """The rows of a template that reaches back: each prompt printed by itself."""
        done: list[Tokens] = []
        ids: list[int] = []
        spans: list[Span] = []
        for index in wanted:
            opening = self._text(hidden[:index], True)
            prompt = self._control.ids(opening)
            turn = self._control.ids(self._turn(hidden[: index + 1], index, opening))
            if prompt[: len(ids)] != ids:
                done.append(Tokens(ids, tuple(spans)))
                spans = []
            spans.append(Span(index, len(prompt), len(prompt) + len(turn)))
            ids = prompt + turn
        return [*done, Tokens(ids, tuple(spans))]

    def _hidden(self, messages: Sequence[Message]) -> list[Message]:
        return self._control.hide(messages)

    def _name(self) -> str:
        return str(getattr(self.tokenizer, "name_or_path", "tokenizer"))

    def _text(self, hidden: Sequence[Message], generate: bool) -> str:
        """What the template prints. Raises UserError in its own words where it refuses, with the message's index."""
        import jinja2

        try:
            return self._printed(hidden, generate)
        except jinja2.TemplateError as error:
            index = bisect.bisect_left(range(1, len(hidden)), True, key=lambda count: self._is_refused(hidden[:count]))
            what = f"its chat template refuses message {index} (role {hidden[index].role}): {error}"
            remedy = "Use a model whose template takes such conversations, or leave this one out"
            raise UserError(what, self._name(), remedy) from error

    def _is_refused(self, hidden: Sequence[Message]) -> bool:
        import jinja2

        try:
            self._printed(hidden, False)
        except jinja2.TemplateError:
            return True
        return False

    def _printed(self, hidden: Sequence[Message], generate: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [message.to_dict() for message in hidden],
            tools=self._hidden_tools,
            tokenize=False,
            add_generation_prompt=generate,
        )
        return text


def _cuts(pieces: Sequence[Piece], starts: Sequence[int]) -> list[int | None]:
    """For each piece where in it a turn starts, None where none does. A start between two pieces falls to a stretch of
    text, the one before rather than the one behind."""
    cuts: list[int | None] = [None] * len(pieces)
    place = 0
    for start in starts:
        while pieces[place].begin + len(pieces[place].text) < start or (
            pieces[place].special and pieces[place].begin < start
        ):
            place += 1
        cuts[place] = start - pieces[place].begin
        place += 1
    return cuts


def _cut(piece: Piece, at: int) -> tuple[str, str]:
    return piece.text[:at], piece.text[at:]
