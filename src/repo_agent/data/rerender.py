"""Another agent's conversation in our own JSON protocol: what `build --rerender` makes of it.

The goal is the first user message; calls, finals and results are put into our words, and what the other agent's driver
said is left out. Such rows are marked as reconstructed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from repo_agent.messages import Message, ToolCall, read_spoken
from repo_agent.protocols import protocol_named
from repo_agent.secrets import home_folders
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Verdict
from repo_agent.traces.trace import Trace, Turn

RERENDERED = "json"
"""The protocol that another agent's traces are put into."""
_MARKS = re.compile(r"\A(\[tool_result\]|<tool_response>\n)|\n</tool_response>\Z")
"""What other protocols put around a result."""
_BEFORE = r"(?:(?<![\w.~-])(?<!:/)|(?<=\\[nrt]))"
"""Where an absolute path may begin: not inside a name or after a URL's //, but after an escaped newline or tab."""


def rerendered(trace: Trace, registry: Registry, verdicts: Sequence[Verdict]) -> tuple[list[Turn], list[Verdict]]:
    """The trace's turns in one conversation of our protocol, and their verdicts. Parallel calls become as many turns,
    each with the result that is its own."""
    protocol = protocol_named(RERENDERED)
    messages = [Message("system", protocol.describe(registry)), Message("user", f"GOAL:\n{_goal(trace)}")]
    turns, judged = [], []
    for turn, following, verdict in zip(trace.turns, [*trace.turns[1:], None], verdicts, strict=True):
        added = following.messages[turn.at : following.at] if following is not None else ()
        for one, own, answers in _apart(turn, verdict, added):
            said = Message("assistant", _said(one, registry))
            turns.append(replace(one, messages=messages, at=len(messages), reply=said, prompt_ids=None))
            judged.append(own)
            messages.append(said)
            if following is not None:
                messages += protocol.observe(said, _observed(answers))
    return turns, judged


def _apart(turn: Turn, verdict: Verdict, added: Sequence[Message]) -> Iterator[tuple[Turn, Verdict, Sequence[Message]]]:
    """Each call of a turn with what answers it; what answers none goes with the last."""
    calls = turn.calls
    if len(calls) < 2:
        yield turn, verdict, added
        return
    ids = [call.id for message in added[:1] for call in message.tool_calls]
    results = [message for message in added if message.role == "tool"]
    paired = {one.tool_call_id: one for one in results} if ids and all(ids) else {}
    for place, call in enumerate(calls):
        own = paired.get(ids[place]) if place < len(ids) and paired else None
        if own is None and place < len(results):
            own = results[place]
        rest = [message for message in added if message.role != "tool"] if place == len(calls) - 1 else []
        alone = Verdict(verdict.turn_class, call, None, verdict.error, verdict.unchecked)
        yield replace(turn, call=call, more=()), alone, [*([own] if own else []), *rest]


def without_homes(text: str) -> str:
    """`text` with this user's home folder, wherever it is, and those of others written as ~."""
    own = os.path.expanduser("~").rstrip("/")
    if own.startswith("/") and own in text:
        text = re.sub(_BEFORE + re.escape(own) + r"(?![\w-]|\.\w)", "~", text)
    for found in reversed(home_folders(text)):
        text = f"{text[: found.start]}~{text[found.end :]}"
    return text


def names_home(text: str) -> bool:
    """Whether `without_homes` would change a text."""
    return without_homes(text) != text


def homeless(message: Message) -> Message:
    """A message in which no home folder is named."""
    calls = tuple(ToolCall(call.name, _homeless_value(call.args), id=call.id) for call in message.tool_calls)
    return Message(message.role, without_homes(message.content), calls, message.tool_call_id)


def _homeless_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _homeless_value(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_homeless_value(entry) for entry in value]
    return without_homes(value) if isinstance(value, str) else value


def _goal(trace: Trace) -> str:
    opening = trace.turns[0].context if trace.turns else ()
    first = next((message.content for message in opening if message.role == "user"), "")
    return first.removeprefix("GOAL:").strip()


def _said(turn: Turn, registry: Registry) -> str:
    protocol = protocol_named(RERENDERED)
    if turn.call:
        spec = registry.specs.get(turn.call.name)
        order = list(spec.parameters.get("properties", {})) if spec else []
        args = dict(sorted(turn.call.args.items(), key=lambda item: _place(item[0], order)))
        return protocol.render_call(ToolCall(turn.call.name, args))
    if turn.final:
        return protocol.render_final(str(turn.final.get("summary", "")))
    return turn.reply.content if turn.text is None or turn.raw_unknown else read_spoken(turn.text)[0]


def _place(name: str, order: list[str]) -> int:
    return order.index(name) if name in order else len(order)


def _observed(added: Sequence[Message]) -> str:
    """What the driver answered, without the other protocol's mark."""
    answers = [message.content for message in added if message.role in ("user", "tool")]
    return "\n".join(_MARKS.sub("", answer).lstrip("\n ") for answer in answers)
