"""Trajectories that SWE-agent and mini-swe-agent write, with tool calls or with commands in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.record.chat_logs import reply_of
from repo_agent.record.conversation import Conversation
from repo_agent.record.conversations import Conversations
from repo_agent.record.verdict import Judged
from repo_agent.record.wire import read_request

_COMMAND = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "One command line, as the agent read it from the reply.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    },
}
_FENCE = re.compile(r"```(?:mswea_bash_command|bash)[ \t]*\n(.*?)\n```", re.DOTALL)
"""How mini-swe-agent asks for its command."""
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def read_sweagent(conversations: Conversations, path: Path) -> list[UserError]:
    """One trajectory: each of its agents is a rollout of its own. Demonstrations are context, not turns."""
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
        history, info = record["history"], record.get("info") or {}
        agents = list(dict.fromkeys(entry.get("agent") for entry in history if entry["role"] == "assistant"))
        ended = str(info.get("exit_status") or "stopped")
    except _BROKEN as error:
        what = f"no SWE-agent trajectory ({type(error).__name__}: {error})"
        raise UserError(what, str(path), 'A .traj is a JSON object with a "history"') from error
    played = 0
    for agent in agents:
        spoken = [entry for entry in history if entry.get("content") or entry["role"] != "system"]
        entries = [entry for entry in spoken if entry.get("agent") in (agent, None)]
        if any(map(_is_turn, entries)):
            commands = [_action(entry) if _is_turn(entry) else None for entry in entries]
            _played(conversations, path, path.stem, "sweagent", entries, commands, ended)
            played += 1
    if not played:
        raise UserError("a trajectory without a turn of its agent", str(path), "Remove it, or play its task again")
    return []


def read_mini(conversations: Conversations, path: Path) -> list[UserError]:
    """One trajectory of mini-swe-agent. Replies that it could not read are not in it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
        entries = [entry for entry in record["messages"] if entry["role"] != "exit"]
        info = record.get("info") or {}
        ended, model = str(info.get("exit_status") or "stopped"), (info.get("config") or {}).get("model") or {}
        named = record.get("instance_id")
        task = named if isinstance(named, str) and named else path.name.removesuffix(".json").removesuffix(".traj")
        commands = [_fenced(entry) if entry["role"] == "assistant" else None for entry in entries]
        name = model.get("model_name")
    except _BROKEN as error:
        what = f"no mini-swe-agent trajectory ({type(error).__name__}: {error})"
        raise UserError(what, str(path), 'A .traj.json is a JSON object with "messages"') from error
    if not any(commands):
        raise UserError("a trajectory without a turn of its agent", str(path), "Remove it, or play its task again")
    _played(conversations, path, task, "mini-swe-agent", entries, commands, ended, name)
    return []


def _is_turn(entry: dict[str, Any]) -> bool:
    return bool(entry["role"] == "assistant" and not entry.get("is_demo"))


def _played(
    conversations: Conversations,
    path: Path,
    task: str,
    agent: str,
    entries: Sequence[dict[str, Any]],
    commands: Sequence[Judged | None],
    ended: str,
    model: Any = None,
) -> Conversation:
    """The rollout of some messages; `commands` says which of them are turns, and what their agent read in the text."""
    native = any(entry.get("tool_calls") for entry in entries)
    tools = {} if native and agent == "sweagent" else {"tools": [_COMMAND]}
    said = read_request({"messages": list(entries), "model": model, **tools})
    if said is None or len(said.messages) != len(entries):
        raise UserError("a message that cannot be read", str(path), "Each entry is an object with a role")
    turns = [place for place, command in enumerate(commands) if command]
    conversation = conversations.begin(said.until(turns[0]), task=task, protocol="native" if native else agent)
    for place in turns:
        conversation.exchange(said.until(place), reply_of(said, place), None, None if native else commands[place])
    conversations.end([conversation], ended)
    return conversation


def _action(entry: dict[str, Any]) -> Judged:
    """The command that SWE-agent itself read from a reply."""
    action = entry.get("action")
    if not isinstance(action, str) or not action.strip():
        return Judged("no_call", error="SWE-agent read no command from it")
    return _bash(action)


def _fenced(entry: dict[str, Any]) -> Judged:
    """The command that mini-swe-agent read from a reply, else the one fence of its text."""
    extra, content = entry.get("extra"), entry.get("content")
    actions = extra.get("actions") if isinstance(extra, dict) else None
    found = [one.get("command") if isinstance(one, dict) else one for one in actions] if actions else None
    if not found or not all(isinstance(one, str) for one in found):
        found = [one.strip() for one in _FENCE.findall(content)] if isinstance(content, str) else []
    if len(found) != 1:
        return Judged("multiple_calls" if found else "no_call", error=f"it holds {len(found)} commands, not one")
    return _bash(str(found[0]))


def _bash(command: str) -> Judged:
    return Judged("ok", [{"name": "bash", "args": {"command": command}}], True)
