"""Calls that are valid and stay so: a frozen set of replies."""

from __future__ import annotations

import json
from pathlib import Path

from repo_agent.messages import ToolCall, spoken
from repo_agent.protocols import protocol_named
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import judge, lenient_ok

FROZEN = [
    json.loads(line) for line in (Path(__file__).parent / "fixtures" / "valid_calls.jsonl").open(encoding="utf-8")
]


def test_a_frozen_set_of_valid_calls_stays_valid() -> None:
    head, *rows = FROZEN
    registry = Registry.from_openai(head["tools"])
    for row in rows:
        reply = row["reply"]
        text = reply if isinstance(reply, str) else spoken(reply["content"], reply["tool_calls"])
        parsed = protocol_named(row["protocol"]).parse(text, registry.specs)
        verdict = judge(parsed, registry, truncated=False, any_call=False)
        assert (verdict.turn_class, verdict.call) == (None, ToolCall(row["name"], row["args"])), row
        assert lenient_ok(parsed, registry), row
