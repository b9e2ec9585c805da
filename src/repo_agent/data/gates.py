"""The gates, in order: each decides for one turn, says why it drops it, and nothing is dropped uncounted.

A gate takes a turn, its trajectory and the context of the build, and returns why the turn is dropped, or "" to keep it.
`DEFAULTS` says which are on; `build --gate NAME=off` leaves one out, `--gate NAME` adds one, `--gate NAME=NUMBER` sets
its limit.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from repo_agent.data.texts import Texts
from repo_agent.data.trajectories import Dropped, Label, Trajectory
from repo_agent.errors import UserError

MAX_LENGTH = 32_768
"""Tokens of a row: the context of Qwen2.5. Generous, since a small tokenizer counts several times what a 7B's does."""


@dataclass(frozen=True)
class GateContext:
    """What the gates decide by."""

    train: frozenset[str] | None
    """Tasks that may be trained on; None where the split is off."""
    texts: Texts
    """Looks for what no row may hold."""
    limit: int = 0
    """The gate's own number."""


Gate = Callable[[Label, Trajectory, GateContext], str]
"""Why the turn is dropped; "" keeps it."""
_VALID = frozenset({"ok", "final", "exec_error"})


def split(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """Only tasks of the train side."""
    held_out = context.train is not None and trajectory.task not in context.train
    return f"the task {trajectory.task} is not on the train side" if held_out else ""


def strict_valid(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """Only turns that the strict verdict takes for a call or a final."""
    return "" if turn.turn_class in _VALID else f"{turn.turn_class}: {turn.error}".rstrip(": ")


def executed_ok(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """Only calls that ran well, and the final that ended the rollout: one that the tests answered teaches to stop too
    soon."""
    if turn.turn_class == "ok" or (turn.turn_class == "final" and turn.last):
        return ""
    return "the rollout went on after this final" if turn.turn_class == "final" else f"its call failed: {turn.error}"


def run_passed(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """Only rollouts that passed."""
    if trajectory.passed is None:
        return "unknown whether the rollout passed"
    return "" if trajectory.passed else "the rollout did not pass"


def no_repeat(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No call that was made before in this rollout, with no write between."""
    return "the same call was made before, with no write between" if turn.repeats else ""


def no_recovery(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No turn right after a bad one, so that rows never show how to recover from an error."""
    return "the turn before was a bad one" if turn.after_bad else ""


def no_final(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No final, so that rows never teach to stop."""
    return "a final" if turn.turn_class == "final" else ""


def final_passed(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No final of a rollout that failed: where such rollouts are kept, it would teach to stop too soon."""
    return "the final of a rollout that failed" if turn.turn_class == "final" and trajectory.passed is False else ""


def max_turns(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """Only the first turns of a rollout."""
    return f"turn {turn.t} is past the first {context.limit}" if turn.t >= context.limit else ""


def unseen(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No write that kept or took away lines of the file which the model was never shown."""
    return f"written unseen: {turn.unseen[0][:120]!r}" if turn.unseen else ""


def broken_context(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No turn of another agent after a call whose arguments are not a JSON object, or a result without a call: no
    server takes such a context back as it was."""
    return "what was said before holds a call that is not a JSON object" if turn.broken_context else ""


def secret(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No turn at or after a text in which a credential is found, or was replaced when it was recorded."""
    return context.texts.secret(trajectory, turn)


def control_token(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No turn of a served model at or after a text that spells a special token: to the server it was one."""
    return context.texts.control_token(trajectory, turn) if trajectory.served else ""


def encodable(turn: Label, trajectory: Trajectory, context: GateContext) -> str:
    """No turn at or after a text that UTF-8 cannot carry: no tokenizer takes it."""
    return context.texts.unencodable(trajectory, turn)


GATES: dict[str, Gate] = {
    "split": split,
    "strict_valid": strict_valid,
    "executed_ok": executed_ok,
    "run_passed": run_passed,
    "no_repeat": no_repeat,
    "no_recovery": no_recovery,
    "no_final": no_final,
    "final_passed": final_passed,
    "max_turns": max_turns,
    "unseen": unseen,
    "broken_context": broken_context,
    "secret": secret,
    "encodable": encodable,
    "control_token": control_token,
}
"""In order: a turn counts at the first gate that drops it. Before them `contract`, decided over the whole pile, and
after them `within_length`, decided on the finished row."""
FIRST, LAST = "contract", "within_length"
READ_TEXTS = frozenset({"secret", "encodable", "control_token"})
"""Gates that look through every text."""
OPTIONAL = frozenset({"no_recovery", "no_final", "final_passed", "max_turns"})
"""Gates that are off unless they are asked for."""
DEFAULTS = tuple(name for name in GATES if name not in OPTIONAL)
NUMBERED = frozenset({"max_turns", LAST})
"""Gates with a number of their own."""


@dataclass(frozen=True)
class GateSettings:
    """Which gates are on, with their numbers."""

    on: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DEFAULTS, 0) | {LAST: MAX_LENGTH})
    allowed_secrets: frozenset[str] = frozenset()
    """Hashes of findings that are no secrets; see `texts.hash_of`."""

    @property
    def max_length(self) -> int | None:
        """Tokens; None where rows may be of any length."""
        return self.on.get(LAST)

    def without(self, names: Iterable[str]) -> GateSettings:
        gone = set(names)
        return GateSettings({name: value for name, value in self.on.items() if name not in gone}, self.allowed_secrets)

    def to_dict(self) -> dict[str, Any]:
        """As dataset.json keeps it."""
        return {name: self.on[name] or True for name in (*GATES, LAST) if name in self.on}


def gate_settings(
    words: Sequence[str] = (), file: Path | None = None, allow: Sequence[str] = (), max_length: int | None = None
) -> GateSettings:
    """The settings of a TOML file (`[gates]` NAME = true, false or a number; `[allow]` secrets = ["HASH"]), then of the
    command line's `NAME`, `NAME=off`, `NAME=NUMBER`. Raises UserError that names the place."""
    on, allowed = dict(GateSettings().on), set(allow)
    if max_length is not None:
        on[LAST] = max_length
    if file is not None:
        record = _read(file)
        allowed |= set(map(str, record.get("allow", {}).get("secrets", ())))
        for name, value in record.get("gates", {}).items():
            _set(on, str(name), value, f"{file}: gates")
    for word in words:
        name, _, value = word.partition("=")
        _set(on, name, {"": True, "on": True, "off": False}.get(value, value), "--gate")
    return GateSettings(on, frozenset(allowed))


def _set(on: dict[str, int], name: str, value: Any, where: str) -> None:
    if name not in {*GATES, LAST}:
        raise UserError(f"there is no gate {name!r}", where, f"Known: {', '.join((*GATES, LAST))}")
    if value is False:
        on.pop(name, None)
        return
    number = 0 if value is True else _number(value)
    if number is None or (name in NUMBERED) != (number > 0):
        remedy = f"Write {name}=NUMBER" if name in NUMBERED else f"Write {name}, or {name}=off"
        raise UserError(f"{name} does not take {value!r}", where, remedy)
    on[name] = number


def _number(value: Any) -> int | None:
    return int(value) if str(value).isdecimal() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        record = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as TOML ({error})", str(file), "Write [gates] and NAME = true") from error
    odd = sorted(set(record) - {"gates", "allow"})
    if odd or not all(isinstance(table, dict) for table in record.values()):
        raise UserError(f"holds {', '.join(odd) or 'no table'}", str(file), "Its tables are [gates] and [allow]")
    return record


@dataclass(frozen=True)
class Funnel:
    """How many turns came in, which gate dropped how many of which task, and how many are left."""

    candidates: int
    dropped: Mapping[str, Mapping[str, int]]
    """Gate to task to count, in the order of the gates."""
    rows: int

    def totals(self) -> dict[str, int]:
        """Turns dropped by each gate; with `rows` they add up to `candidates`."""
        return {gate: sum(tasks.values()) for gate, tasks in self.dropped.items()}

    def to_dict(self) -> dict[str, Any]:
        gates = [
            {"gate": gate, "dropped": sum(tasks.values()), "tasks": dict(tasks)} for gate, tasks in self.dropped.items()
        ]
        return {"candidates": self.candidates, "gates": gates, "rows": self.rows}

    def line(self) -> str:
        """The funnel in one line."""
        drops = ", ".join(f"{gate} -{count}" for gate, count in self.totals().items())
        return f"{self.candidates} candidates, {drops}, {self.rows} rows"


def funnel_of(counts: Mapping[tuple[str, str], int], settings: GateSettings) -> Funnel:
    """The funnel of (gate, task) → turns, gate "" for those that are kept."""
    names = [FIRST, *(name for name in GATES if name in settings.on), *([LAST] if LAST in settings.on else [])]
    dropped: dict[str, Counter[str]] = {name: Counter() for name in names}
    for (gate, task), count in counts.items():
        if gate:
            dropped[gate][task] += count
    kept = sum(count for (gate, _), count in counts.items() if not gate)
    return Funnel(sum(counts.values()), {gate: dict(tasks) for gate, tasks in dropped.items()}, kept)


def apply_gates(trajectory: Trajectory, context: GateContext, settings: GateSettings) -> Trajectory:
    """The trajectory with every turn kept, or dropped by the first gate that says why."""
    gates = [
        (name, gate, GateContext(context.train, context.texts, settings.on[name]))
        for name, gate in GATES.items()
        if name in settings.on
    ]

    def decided(turn: Label) -> Label:
        for name, gate, own in gates:
            why = gate(turn, trajectory, own)
            if why:
                return replace(turn, dropped=Dropped(name, why))
        return turn

    return trajectory.with_turns(map(decided, trajectory.turns))
