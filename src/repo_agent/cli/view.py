"""One rollout for the terminal: each turn under its class, writes as unified diffs, test results in their colour."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.rule import Rule
from rich.text import Text

from repo_agent.escape import visible
from repo_agent.messages import Message, ToolCall, read_spoken
from repo_agent.traces.trace import Trace, Turn

SHOWN_LINES = 30
_SHOWN_VALUE = 80
_STYLES = {"ok": "green", "final": "cyan", "exec_error": "yellow", "infra_error": "magenta", "unjudged": "blue"}
_DIFF = {"+": "green", "-": "red", "@": "cyan"}
_OUTCOMES = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[yellow]not graded[/]"}
_PATHS = ("rel_path", "path", "file_path", "filename", "file_name", "file")
_TEXTS = ("content", "file_text", "new_content", "contents")
_EDITS = (("old_str", "new_str"), ("old_string", "new_string"), ("old_text", "new_text"), ("search", "replace"))
_READS = re.compile(r"(read|view|open|cat|show|get)(_|$)")
_CUT = re.compile(r"\[\.\.\. \d+ characters cut \.\.\.\]")
_GOOD = re.compile(r"\bpassed\b")
_BAD = re.compile(r"\b(failed|error|errors|timed out|no tests)\b", re.IGNORECASE)


def view(trace: Trace) -> Iterator[RenderableType]:
    """The rollout from its goal to its end."""
    named = f"{trace.task}  rollout {trace.rollout}  {trace.arm or ''}  {trace.model or ''}"
    yield Rule(escape(" ".join(named.split())))
    opening = trace.turns[0].context if trace.turns else ()
    for message in opening:
        if message.role == "system":
            yield Text(f"system prompt, {len(message.content):,} characters", style="dim")
        else:
            yield Text(_head(message.content), style="" if message.role == "user" else "dim")
    known: dict[str, str] = {}
    for turn, following in zip_longest(trace.turns, trace.turns[1:]):
        yield from _turn(turn, known)
        seen = _answers(turn, following)
        yield from _observed(turn, seen)
        _learn(turn, seen, known)
    yield Rule(f"{escape(trace.ended or 'no end')}: {_OUTCOMES[trace.passed]}")
    for problem in trace.problems:
        yield f"[yellow]![/] {escape(problem)}"


def _turn(turn: Turn, known: Mapping[str, str]) -> Iterator[RenderableType]:
    name = turn.turn_class or "?"
    style = _STYLES.get(name, "red")
    called = _signature(turn.call) if turn.call else ""
    yield Text.assemble("\n", (f"{turn.t:>2} ", "bold"), (name, style), " ", called)
    spoken, calls = read_spoken(turn.text) if turn.text is not None else (turn.reply.content, [])
    if turn.call is None:
        spoken = "\n".join([spoken, *(f"{call.get('name')}({call.get('arguments')})" for call in calls)]).strip()
    if spoken and (turn.call is None or calls):
        yield Text(_head(spoken), style="italic")
    if turn.call:
        yield from (Text(line, style=_DIFF.get(line[:1], "")) for line in _changes(turn.call, known))
    for call in turn.more:
        yield Text.assemble("   + ", _signature(call))
        yield from (Text(line, style=_DIFF.get(line[:1], "")) for line in _changes(call, known))
    if turn.error and turn.ok is not False:
        yield Text(f"-> {turn.error}", style=style)


def _signature(call: ToolCall) -> str:
    """The call as it would be written, long values cut and those left out that a diff shows."""
    diffed = {*_TEXTS, *(key for pair in _EDITS for key in pair)} if _path(call) else set()
    shown = [f"{key}={_value(value)}" for key, value in call.args.items() if key not in diffed]
    return f"{call.name}({', '.join(shown)})"


def _value(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE else f"{text[:_SHOWN_VALUE]}…"


def _diff(call: ToolCall, known: Mapping[str, str]) -> str:
    """What a write or an edit changes, as a unified diff; "" for any other call."""
    path = _path(call)
    if path is None:
        return ""
    for before, after in _EDITS:
        if isinstance(call.args.get(before), str) and isinstance(call.args.get(after), str):
            return _unified(path, call.args[before], call.args[after])
    new = _written(call)
    if new is None:
        return ""
    if path not in known:
        return _unified(f"{path} (what it held before is not in the trace)", "", new)
    return _unified(path, known[path], new) or " (no change)"


def _changes(call: ToolCall, known: Mapping[str, str]) -> list[str]:
    diff = _diff(call, known)
    return _head(diff, 2 * SHOWN_LINES).split("\n") if diff else []


def _unified(path: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(old.split("\n"), new.split("\n"), path, path, lineterm="", n=2)
    return "\n".join(list(lines)[1:])


def _learn(turn: Turn, seen: tuple[Message, ...], known: dict[str, str]) -> None:
    """Remember what files hold: what a write put there, what a read of the whole file showed."""
    path = _path(turn.call) if turn.call else None
    if turn.call is None or path is None or turn.turn_class not in ("ok", "unjudged"):
        return
    new = _written(turn.call)
    read = turn.output if turn.output is not None else "\n".join(message.content for message in seen)
    if new is not None:
        known[path] = new
    elif _READS.match(turn.call.name) and not _CUT.search(read):
        known[path] = read
    else:
        known.pop(path, None)


def _path(call: ToolCall) -> str | None:
    return next((call.args[key] for key in _PATHS if isinstance(call.args.get(key), str)), None)


def _written(call: ToolCall) -> str | None:
    return next((call.args[key] for key in _TEXTS if isinstance(call.args.get(key), str)), None)


def _answers(turn: Turn, following: Turn | None) -> tuple[Message, ...]:
    """What came back before the next turn, as the model was shown it."""
    if following is None:
        return (Message("tool", turn.output),) if turn.output else ()
    after = following.context[len(turn.context) :]
    return after[1:] if after[:1] == (turn.reply,) else after


def _observed(turn: Turn, seen: tuple[Message, ...]) -> Iterator[RenderableType]:
    shows_tests = turn.call is None or _written(turn.call) is not None
    for message in seen:
        text, mark, tests = ("\n" + message.content).rpartition("\n[tests] ") if shows_tests else ("", "", "")
        text_shown = (text if mark else message.content).strip().removeprefix("[tool_result] ")
        if text_shown and message.role == "tool" and turn.more:
            yield Text(f"   = {_answers_what(turn, message)}", style="dim")
        if text_shown:
            yield Text(_head(text_shown), style="dim")
        if mark:
            yield _tests(tests)


def _answers_what(turn: Turn, message: Message) -> str:
    """Of parallel calls, the one that a result answers, by its id."""
    said = [
        call
        for one in turn.messages[turn.at : turn.at + 1]
        for call in one.tool_calls
        if call.id and call.id == message.tool_call_id
    ]
    return _signature(said[0]) if said else "result"


def _tests(output: str) -> Text:
    first, *rest = _head(output).split("\n")
    style = "green" if _GOOD.search(first) and not _BAD.search(first) else "red"
    lines = [(f"\n{line}", _line_style(line)) for line in rest]
    return Text.assemble((f"tests: {first}", f"bold {style}"), *lines)


def _line_style(line: str) -> str:
    return "red" if line.startswith(("E ", "FAILED", "ERROR")) else "dim"


def _head(text: str, most: int = SHOWN_LINES) -> str:
    """The first lines, what a terminal would obey made visible: Rich drops some of it without a trace."""
    lines = [visible(line) for line in text.removesuffix("\n").split("\n")]
    more = [f"… {len(lines) - most} more lines"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)
