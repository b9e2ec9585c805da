"""Logs of other agents as traces. What a log does not say is None: nobody's guess becomes a record.

openai    JSONL of chat completions: {"request", "response"} a line, threaded like live traffic, or a whole
          conversation a line, {"messages", "tools"}
sweagent  `.traj` files of SWE-agent, with tool calls or with commands in the text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.files import new_directory
from repo_agent.messages import digest
from repo_agent.record.conversation import Conversation
from repo_agent.record.conversations import Conversations
from repo_agent.record.verdict import Judged
from repo_agent.record.wire import ChatRequest, Reply, read_reply, read_request
from repo_agent.tools.own import load_tools
from repo_agent.traces.store import RunDir

_EACH = 'Each line is {"request", "response"}, or {"messages", "tools"}'
_COMMAND = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "One command line, as SWE-agent read it from the reply.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
            "additionalProperties": False,
        },
    },
}


def import_logs(
    kind: str, path: Path, out: Path, tools: Path | None = None, passed: bool | None = None
) -> dict[str, Any]:
    """Write the run directory `out` from the logs under `path`; returns its counts. `passed` is the outcome of all.

    Raises UserError for bad input, with file and line; then nothing is written.
    """
    if kind not in IMPORTERS:
        raise UserError(f"no importer {kind!r}", "import", f"Choose from: {', '.join(IMPORTERS)}")
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    suffix, read = IMPORTERS[kind]
    files = _files(path, suffix)
    registry = load_tools(str(tools)) if tools else None
    record = {"kind": f"import:{kind}", "tools": digest(registry.schemas()) if registry else None}
    with new_directory(out) as folder:
        conversations = Conversations(
            RunDir.open(folder, record), source=f"import:{kind}", tools=registry, clock=None, passed=passed
        )
        for file in files:
            read(conversations, file)
            conversations.end(list(conversations.open), "stopped")
        if not conversations.rollouts:
            raise UserError("holds no reply of a model", str(path), "Give logs with assistant messages")
    return {
        "files": len(files),
        "rollouts": conversations.rollouts,
        "errors": conversations.errors,
        "turns": conversations.tally.counts(),
        "problems": _problems(conversations),
    }


def _problems(conversations: Conversations) -> list[str]:
    unjudged = conversations.tally.counts().get("unjudged", 0)
    odd = conversations.tally.unjudged
    said = [f"calls of {name} are not judged: {why}" for name, why in odd.items()]
    if unjudged and not odd:
        said.append(f"{unjudged} turns were not judged: the logs hold no tool schemas; give --tools")
    return said + (
        [f"{conversations.errors} requests without any reply are in errors/"] if conversations.errors else []
    )


def _files(path: Path, suffix: str) -> list[Path]:
    if not path.exists():
        raise UserError("not there", str(path), f"Give a {suffix} file, or a folder of them")
    files = [path] if path.is_file() else sorted(path.rglob(f"*{suffix}"))
    if not files:
        raise UserError(f"no {suffix} file in it", str(path), "Give the folder that holds them")
    return files


def _openai(conversations: Conversations, path: Path) -> None:
    """One JSONL file. Requests of one conversation may stand anywhere in it, in their order."""
    for where, line in _lines(path):
        request, response = line.get("request", line), line.get("response")
        said = read_request(request.get("body", request)) if isinstance(request, dict) else None
        if said is None:
            raise UserError("no list of messages in it", where, _EACH)
        if response is None and "request" not in line:
            _conversation(conversations, said, where)
        else:
            _exchange(conversations, said, response, where)


def _exchange(conversations: Conversations, said: ChatRequest, response: Any, where: str) -> None:
    body = response.get("body", response) if isinstance(response, dict) else None
    conversation = conversations.take(said)
    if isinstance(body, dict) and body.get("choices"):
        try:
            conversation.exchange(said, read_reply(body), None)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"a response that cannot be read ({error})", where, _EACH) from error
    else:
        answer = body.get("error") if isinstance(body, dict) else body
        conversation.fail(said, f"the log holds no completion: {json.dumps(answer)[:10_000]}", None)
    conversation.busy = False


def _conversation(conversations: Conversations, said: ChatRequest, where: str) -> None:
    """A whole conversation: every assistant message is a turn; its request is all that stands before it."""
    if not any(message.role == "assistant" for message in said.messages):
        raise UserError("a conversation without an assistant message", where, _EACH)
    conversation = conversations.begin(said)
    for place, message in enumerate(said.messages):
        if message.role == "assistant":
            functions = [{**call["function"], "id": call.get("id")} for call in message.tool_calls]
            conversation.exchange(said.until(place), Reply(str(message.content), functions), None)
    conversations.end([conversation], "stopped")


def _sweagent(conversations: Conversations, path: Path) -> None:
    """One trajectory: each of its agents is a rollout of its own. Demonstrations are context, not turns."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        history, info = record["history"], record.get("info") or {}
        agents = list(dict.fromkeys(entry.get("agent") for entry in history if entry["role"] == "assistant"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no SWE-agent trajectory ({type(error).__name__}: {error})"
        raise UserError(what, str(path), 'A .traj is a JSON object with a "history"') from error
    for agent in agents:
        spoken = [entry for entry in history if entry.get("content") or entry["role"] != "system"]
        entries = [entry for entry in spoken if entry.get("agent") in (agent, None)]
        if any(_is_turn(entry) for entry in entries):
            conversation = _played(conversations, path, entries)
            conversations.end([conversation], str(info.get("exit_status") or "stopped"))


def _is_turn(entry: dict[str, Any]) -> bool:
    return bool(entry["role"] == "assistant" and not entry.get("is_demo"))


def _played(conversations: Conversations, path: Path, entries: list[dict[str, Any]]) -> Conversation:
    native = any(entry.get("tool_calls") for entry in entries)
    body = {"messages": entries, **({} if native else {"tools": [_COMMAND]})}
    said = read_request(body)
    if said is None or len(said.messages) != len(entries):
        raise UserError("a message that cannot be read", str(path), "Each entry of the history is an object")
    conversation = conversations.begin(said, task=path.stem, protocol="native" if native else "sweagent")
    for place, (entry, message) in enumerate(zip(entries, said.messages, strict=True)):
        if _is_turn(entry):
            functions = [{**call["function"], "id": call.get("id")} for call in message.tool_calls]
            reply = Reply(str(message.content), functions)
            conversation.exchange(said.until(place), reply, None, None if native else _command(entry))
    return conversation


def _command(entry: dict[str, Any]) -> Judged:
    """The command that SWE-agent itself read from a reply."""
    action = entry.get("action")
    if not isinstance(action, str) or not action.strip():
        return Judged("no_call", error="SWE-agent read no command from it")
    return Judged("ok", {"name": "bash", "args": {"command": action}}, True)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"not JSON ({error})", f"{path}:{number}", _EACH) from error
                if not isinstance(record, dict):
                    raise UserError("not a JSON object", f"{path}:{number}", _EACH)
                yield f"{path}:{number}", record


IMPORTERS: dict[str, tuple[str, Callable[[Conversations, Path], None]]] = {
    "openai": (".jsonl", _openai),
    "sweagent": (".traj", _sweagent),
}
"""Kind to the files' suffix and their reader."""
