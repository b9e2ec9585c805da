"""The renderer: what is trained is, id for id, what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import SHARED

from repo_agent.chat.render import IGNORE, Renderer
from repo_agent.chat.tokenizer import load_tokenizer, locate
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall

TALK = [
    Message("system", "be brief"),
    Message("user", "GOAL:\nfix"),
    Message("assistant", '{"a":1}'),
    Message("user", "[tool_result] x\n"),
    Message("assistant", "  odd \n"),
    Message("user", "[tool_result] y"),
    Message("assistant", '{"b":"é"}'),
]


@pytest.fixture(scope="module", params=["tiny", "qwen"])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    if request.param == "tiny":
        return Renderer(load_tokenizer("tiny"))
    folder = SHARED / "qwen2.5-7b-instruct"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return Renderer(load_tokenizer(str(folder)))


def test_labels_spell_out_the_kept_turns_with_their_end(renderer: Renderer) -> None:
    rows = renderer.rows(TALK, [2, 6])
    assert len(rows) == 1
    row, tokenizer = rows[0], renderer.tokenizer
    trained = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != IGNORE]
    assert tokenizer.decode(trained) == '{"a":1}<|im_end|>{"b":"é"}<|im_end|>'
    assert all(label in (IGNORE, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    assert row.trained == len(trained)


def test_a_row_is_the_running_prompt_and_the_turn(renderer: Renderer) -> None:
    for target in (2, 4, 6):
        (row,) = renderer.rows(TALK[: target + 1], [target])
        prompt, turn = renderer.prompt_ids(TALK[:target]), renderer.turn_ids(TALK, target)
        assert row.input_ids == prompt + turn and row.labels == [IGNORE] * len(prompt) + turn
        assert turn[-1] == renderer.tokenizer.eos_token_id


def test_the_text_is_the_templates_own(renderer: Renderer) -> None:
    (row,) = renderer.rows(TALK, [2, 4, 6])
    whole = renderer.tokenizer.apply_chat_template([m.to_dict() for m in TALK], tokenize=False)
    assert renderer.tokenizer.decode(row.input_ids) + "\n" == whole


def test_qwen_trains_calls_beside_the_text_with_dict_arguments() -> None:
    folder = SHARED / "qwen2.5-7b-instruct"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    renderer = Renderer(load_tokenizer(str(folder)), [{"type": "function", "function": {"name": "f"}}])
    talk = [Message("system", "s"), Message("user", "u"), Message("assistant", "", (ToolCall("f", {"x": 1}),))]
    said = renderer.turn_text(talk, 2)
    assert said == '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>'


class Rewriting:
    """A tokenizer whose template strips turns, or changes what stands before; the rest is a real one's."""

    def __init__(self, real: Any, template: str) -> None:
        self._real, self._template = real, template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real(*args, **options)

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self._real.apply_chat_template(messages, chat_template=self._template, **options)


@pytest.mark.parametrize("change", ["strips", "no_end"])
def test_a_template_that_rewrites_turns_is_refused(change: str) -> None:
    content = "(message.content | trim)" if change == "strips" else "message.content"
    end = "" if change == "no_end" else "<|im_end|>"
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ " + content + " }}" + end + "\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer(Rewriting(load_tokenizer("tiny"), template))
    with pytest.raises(UserError, match="as it was said"):
        renderer.rows(TALK, [4])


def test_a_row_starts_anew_where_a_prompt_is_no_prefix() -> None:
    template = (
        "{{ messages | length }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer(Rewriting(load_tokenizer("tiny"), template))
    with pytest.raises(UserError, match="as it was said"):
        renderer.rows(TALK, [2])
    users = "{{ messages | selectattr('role', 'eq', 'user') | list | length }}"
    keyed = template.replace("{{ messages | length }}", users)
    rows = Renderer(Rewriting(load_tokenizer("tiny"), keyed)).rows(TALK, [2, 6])
    assert len(rows) == 2 and [row.trained > 0 for row in rows] == [True, True]


@pytest.mark.parametrize("base", ["nothing-here", "./nothing/here", "/no/such/model"])
def test_a_base_that_is_not_there_is_refused(base: str) -> None:
    with pytest.raises(UserError, match="no model there"):
        locate(base)


def test_a_hub_name_stays_a_hub_name(tmp_path: Path) -> None:
    assert locate("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    assert locate(str(tmp_path)) == str(tmp_path)
