"""Messages to text, token ids and loss mask, by the tokenizer's own chat template.

A running model is prompted with `prompt_ids(messages)`; a training row is that same prompt followed by `turn_ids` of
the target. A row of several targets is built from the same pieces and only where each prompt is a prefix of the next,
so what is trained is, id for id, what runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import Message, digest

IGNORE = -100
"""The label of a token without loss."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training row: `input_ids` and `labels`, lists of equal length; a label is the id itself or IGNORE."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(label != IGNORE for label in self.labels)


@dataclass
class Renderer:
    """Renders with one tokenizer; `tools` are OpenAI schemas for templates that print them, or None."""

    tokenizer: Any
    tools: list[dict[str, Any]] | None = None

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The conversation up to the place where the assistant's next turn begins."""
        return self._text(messages, True)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return self._ids(self.prompt_text(messages))

    def turn_text(self, messages: Sequence[Message], index: int) -> str:
        """The text that the assistant says as message `index`: its content and the end-of-turn token.

        Raises UserError where the template rewrites the turn or what stands before it.
        """
        prompt = self.prompt_text(messages[:index])
        whole = self._text(messages[: index + 1], False)
        eos = str(self.tokenizer.eos_token)
        end = whole.rfind(eos)
        said = whole[len(prompt) : end] + eos
        calls = messages[index].tool_calls
        kept = all(call.name in said for call in calls) if calls else said == messages[index].content + eos
        if not whole.startswith(prompt) or end < len(prompt) or not kept:
            raise UserError(
                f"the chat template does not print assistant turn {index} as it was said",
                str(getattr(self.tokenizer, "name_or_path", "tokenizer")),
                "Train with a model whose template keeps turns unchanged, such as Qwen2.5",
            )
        return said

    def turn_ids(self, messages: Sequence[Message], index: int) -> list[int]:
        return self._ids(self.turn_text(messages, index))

    def rows(self, messages: Sequence[Message], targets: Iterable[int]) -> list[Tokens]:
        """Training rows of one trajectory: loss on the `targets` (indices of assistant messages) alone.

        One row where every prompt is a token prefix of the next; a new row starts where that breaks.
        """
        done: list[Tokens] = []
        ids: list[int] = []
        labels: list[int] = []
        for index in sorted(targets):
            prompt, turn = self.prompt_ids(messages[:index]), self.turn_ids(messages, index)
            if prompt[: len(ids)] != ids:
                done.append(Tokens(ids, labels))
                ids, labels = [], []
            masked = len(prompt) - len(ids)
            labels = labels + [IGNORE] * masked + turn
            ids = prompt + turn
        return [*done, Tokens(ids, labels)] if ids else done

    def fingerprint(self) -> str:
        """Hash of what decides the token ids: a probe conversation's ids and the vocabulary's size."""
        probe = [
            Message("system", "s"),
            Message("user", "u\n{}"),
            Message("assistant", '{"a":"é 12\\n"}'),
            Message("user", "x"),
        ]
        return digest([self.prompt_ids(probe), len(self.tokenizer)])

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, messages: Sequence[Message], generate: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [message.to_dict() for message in messages],
            tools=self.tools,
            tokenize=False,
            add_generation_prompt=generate,
        )
        return text
