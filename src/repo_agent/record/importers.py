"""Logs of other agents as traces. What a log does not say is None: nobody's guess becomes a record.

openai    chat completions, JSONL or a JSON array: {"request", "response"} each, threaded like live traffic, or a whole
          conversation, {"messages", "tools", "passed"}
sweagent  `.traj` files of SWE-agent, with tool calls or with commands in the text
mini      `.traj.json` files of mini-swe-agent, the same
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.files import new_directory
from repo_agent.messages import digest
from repo_agent.record.chat_logs import read_chats
from repo_agent.record.conversations import Conversations
from repo_agent.record.trajectories import read_mini, read_sweagent
from repo_agent.tools.own import load_tools
from repo_agent.traces.store import RunDir

MOST_LISTED = 20
"""Problems that are listed one by one."""
Reader = Callable[[Conversations, Path], list[UserError]]
"""Reads one file; returns what of it could not be read. Raises UserError where that is all of it."""


def import_logs(
    kind: str, path: Path, out: Path, tools: Path | None = None, passed: bool | None = None
) -> dict[str, Any]:
    """Write the run directory `out` from the logs under `path`; returns its counts. `passed` is the outcome of those
    that say none. What cannot be read is listed with its file and place, the rest comes in.

    Raises UserError for bad input, and where nothing comes in; then nothing is written.
    """
    if kind not in IMPORTERS:
        raise UserError(f"no importer {kind!r}", "import", f"Choose from: {', '.join(IMPORTERS)}")
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    suffix, read = IMPORTERS[kind]
    files = _files(path, suffix)
    registry = load_tools(str(tools)) if tools else None
    record = {"kind": f"import:{kind}", "tools": digest(registry.schemas()) if registry else None}
    faults: list[UserError] = []
    with new_directory(out) as folder:
        conversations = Conversations(
            RunDir.open(folder, record), source=f"import:{kind}", tools=registry, clock=None, passed=passed
        )
        for file in files:
            faults += _faults(read, conversations, file)
            conversations.end(list(conversations.open), "stopped")
        if not conversations.rollouts:
            nothing = UserError("holds no reply of a model", str(path), "Give logs with assistant messages")
            raise faults[0] if faults else nothing
    return {
        "files": len(files),
        "rollouts": conversations.rollouts,
        "passed": conversations.passed,
        "errors": conversations.errors,
        "turns": conversations.tally.counts(),
        "problems": [*_listed(faults), *_problems(conversations)],
    }


def _faults(read: Reader, conversations: Conversations, file: Path) -> list[UserError]:
    try:
        with file.open("rb") as opened:
            head = opened.read(1024)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError("is UTF-16", str(file), f"Write it as UTF-8: iconv -f utf-16 -t utf-8 {file.name}")
        if not head.strip():
            raise UserError("is empty", str(file), "Remove it, or write the log again")
        return read(conversations, file)
    except OSError as error:
        return [UserError(f"cannot be read ({error.strerror})", str(file), "Is the path right?")]
    except UserError as error:
        return [error]


def _listed(faults: Sequence[UserError]) -> list[str]:
    more = [f"{len(faults) - MOST_LISTED} more lines or files cannot be read"] if len(faults) > MOST_LISTED else []
    return [str(fault) for fault in faults[:MOST_LISTED]] + more


def _problems(conversations: Conversations) -> list[str]:
    unjudged = conversations.tally.counts().get("unjudged", 0)
    odd = conversations.tally.unjudged
    said = [f"calls of {name} are not judged: {why}" for name, why in odd.items()]
    if unjudged and not odd:
        said.append(f"{unjudged} turns were not judged: the logs hold no tool schemas; give --tools")
    unknown = conversations.rollouts - conversations.marked
    if unknown:
        said.append(f"{unknown} rollouts have no outcome, so none is trained on: give --passed, or `mark` them")
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


IMPORTERS: dict[str, tuple[str, Reader]] = {
    "openai": (".jsonl", read_chats),
    "sweagent": (".traj", read_sweagent),
    "mini": (".traj.json", read_mini),
}
"""Kind to the files' suffix and their reader."""
