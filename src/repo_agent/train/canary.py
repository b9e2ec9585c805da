"""What base and adapter say to a few contexts of their training: `eval` asks a server, which may serve the base.

The contexts are the first turns of train tasks: system prompt and goals are then in the adapter's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from repo_agent.errors import UserError
from repo_agent.messages import Message
from repo_agent.train.prepare import Prepared

CANARY = "canary.json"
CONTEXTS, TOKENS = 3, 32


class Context(NamedTuple):
    """A conversation, and the first tokens that both say to it, drawn greedily."""

    messages: tuple[Message, ...]
    base: str
    tuned: str


class Canary(NamedTuple):
    """The contexts of an adapter."""

    tools: list[dict[str, Any]] | None
    """What was shown beside the messages; a server makes and reads the calls then."""
    max_tokens: int
    contexts: list[Context]


def make_canary(tuned: Any, prepared: Prepared[Any]) -> str:
    """canary.json of a PEFT model in evaluation mode."""
    contexts = []
    for messages in _some(prepared):
        ids = prepared.renderer.prompt_ids(messages)
        after = greedy(tuned, prepared, ids)
        with tuned.disable_adapter():
            before = greedy(tuned, prepared, ids)
        contexts.append({"messages": [one.to_dict() for one in messages], "base": before, "tuned": after})
    record = {"tools": prepared.renderer.tools, "max_tokens": TOKENS, "contexts": contexts}
    return json.dumps(record, indent=1, ensure_ascii=True) + "\n"


def read_canary(adapter: Path) -> Canary | None:
    """The canary of an adapter directory; None where none was made. Raises UserError for one that cannot be read."""
    path = adapter / CANARY
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        contexts = [
            Context(tuple(map(Message.from_dict, one["messages"])), str(one["base"]), str(one["tuned"]))
            for one in record["contexts"]
        ]
        return Canary(record["tools"], int(record["max_tokens"]), contexts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Train again, or remove the file") from error


def greedy(model: Any, prepared: Prepared[Any], ids: list[int]) -> str:
    """The first tokens of a greedy reply, as text, without the one that ends the turn."""
    import torch

    tokenizer = prepared.renderer.tokenizer
    with torch.no_grad():
        made = model.generate(
            input_ids=torch.tensor([ids], device=model.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    reply = made[0, len(ids) :].tolist()
    end = reply.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in reply else len(reply)
    return str(tokenizer.decode(reply[:end], clean_up_tokenization_spaces=False))


def _some(prepared: Prepared[Any]) -> Iterator[Sequence[Message]]:
    """The opening of a trajectory of each of a few train tasks, those with the shortest ones."""
    seen: dict[str, Sequence[Message]] = {}
    for task, opening in prepared.openings():
        seen.setdefault(task, opening)
    order = sorted(seen.items(), key=lambda one: (sum(len(message.content) for message in one[1]), one[0]))
    yield from (opening for _, opening in order[:CONTEXTS])
