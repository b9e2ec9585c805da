"""An arm: one run directory as evidence. What it ran, its whole rollouts, and the rollouts that it still owes."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.messages import tilde
from repo_agent.traces.store import INDEX, RECORD, RunDir

SAME_IN_ALL_ARMS = ("suite_hash", "tasks", "rollouts", "seed", "protocol", "limits", "sampling", "isolated_io")
_NEEDED = (
    *SAME_IN_ALL_ARMS[:-1],
    "arm",
    "model",
    "constrain",
    "suite",
    "split",
    "held_out",
    "held_out_groups",
    "train",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One whole rollout, as the index has it."""

    task: str
    rollout: int
    trace: str
    """Path of its trace, relative to the run directory."""
    ended: str
    passed: bool
    steps: int
    calls: int
    """Turns in which a call was parsed."""
    classes: Mapping[str, int]
    """Turn class → number of turns."""
    lenient_ok: int
    raw_unknown: int
    """Turns imported without their raw text."""
    verbatim: bool | None = None
    """Whether the fix is the reference's, word for word; None where that is not known, as in older indexes."""


@dataclass(frozen=True)
class Arm:
    """A run directory read: `record` is its run.json, `rows` its whole rollouts that the record asks for."""

    name: str
    path: Path
    record: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.record["tasks"])

    @cached_property
    def by_task(self) -> dict[str, tuple[Row, ...]]:
        """Every task of the run, in suite order, with its whole rollouts, by number."""
        found: dict[str, list[Row]] = {task: [] for task in self.tasks}
        for row in self.rows:
            found[row.task].append(row)
        return {task: tuple(sorted(rows, key=lambda row: row.rollout)) for task, rows in found.items()}

    @cached_property
    def owed(self) -> tuple[tuple[str, int], ...]:
        """(task, rollout number) pairs without a whole trace."""
        done = {(row.task, row.rollout) for row in self.rows}
        return tuple((t, k) for t in self.tasks for k in range(self.record["rollouts"]) if (t, k) not in done)

    @cached_property
    def owed_by_task(self) -> Counter[str]:
        return Counter(task for task, _ in self.owed)

    @property
    def classes(self) -> dict[str, int]:
        """Turn class → number of turns over all rollouts, most frequent first."""
        total: Counter[str] = Counter()
        for row in self.rows:
            total.update(row.classes)
        return dict(total.most_common())

    @property
    def verbatim(self) -> tuple[int, int] | None:
        """(passed rollouts whose fix is the reference's word for word, passed rollouts of which that is known); None
        where it is known of none."""
        known = [row.verbatim for row in self.rows if row.passed and row.verbatim is not None]
        return (sum(known), len(known)) if known else None

    @property
    def adapted(self) -> bool:
        """Whether the model carries an adapter: `local:NAME+ADAPTER`."""
        model = self.record["model"]
        return model.startswith("local:") and "+" in model

    @property
    def leaked_tasks(self) -> tuple[str, ...]:
        """Tasks of this run that its adapter was trained on, as far as run.json says."""
        trained = set((self.record.get("adapter") or {}).get("train_tasks") or ())
        return tuple(task for task in self.tasks if task in trained)

    @property
    def cost_rank(self) -> int:
        """Cheapest first: base, constrained base, tuned, constrained tuned, then models that are not ours to tune."""
        if not self.record["model"].startswith("local:"):
            return 4
        return 2 * self.adapted + bool(self.record["constrain"])


def load_arms(run_dirs: Sequence[Path]) -> tuple[Arm, ...]:
    """Read the runs to compare, in the order given, under names that differ.

    Raises UserError for fewer than two runs, the same run twice, an unreadable run, or runs that are not comparable.
    """
    if len(run_dirs) < 2:
        raise UserError("a comparison needs at least two runs", "compare", "Give two run directories or more")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise UserError("the same run directory is given twice", "compare", "Give each run once")
    arms = [load_arm(path) for path in run_dirs]
    comparable(arms)
    count = Counter(arm.name for arm in arms)
    arms = [replace(arm, name=f"{arm.name} ({arm.path.name})") if count[arm.name] > 1 else arm for arm in arms]
    count = Counter(arm.name for arm in arms)
    return tuple(replace(arm, name=f"{arm.name} in {shown(arm.path)}") if count[arm.name] > 1 else arm for arm in arms)


def load_arm(run_dir: Path) -> Arm:
    """Read one run directory; its index is rebuilt first where it does not list just the whole traces.

    Raises UserError for a folder that is no run, and for a run.json or an index that lacks what a comparison needs.
    """
    run = RunDir(run_dir)
    record = run.record
    missing = [key for key in _NEEDED if key not in record]
    if missing:
        raise UserError(f"lacks {', '.join(missing)}", str(run_dir / RECORD), "Run `repo-agent eval` again")
    wanted = {(task, k) for task in record["tasks"] for k in range(record["rollouts"])}
    rows = [_row(raw, run_dir) for raw in run.rows()]
    return Arm(record["arm"], run_dir, record, tuple(row for row in rows if (row.task, row.rollout) in wanted))


def _row(raw: Mapping[str, Any], run_dir: Path) -> Row:
    try:
        known = [field.name for field in fields(Row) if field.name in raw or field.default is MISSING]
        return Row(**{name: raw[name] for name in known})
    except KeyError as error:
        remedy = "Delete it; it is rebuilt from the traces"
        raise UserError(f"a row lacks {error}", str(run_dir / INDEX), remedy) from error


def comparable(arms: Sequence[Arm]) -> None:
    """Raise a UserError that names what differs, where arms did not do the same work under the same settings.

    Model, constraint and prompt are what arms may differ in.
    """
    first = arms[0]
    for arm in arms[1:]:
        differing = [
            line for key in SAME_IN_ALL_ARMS for line in _differences(key, first.record.get(key), arm.record.get(key))
        ]
        if differing:
            remedy = "Run both arms with the same settings"
            raise UserError(f"not comparable: {'; '.join(differing)}", f"{first.path}, {arm.path}", remedy)


def _differences(key: str, left: Any, right: Any) -> list[str]:
    """What differs under `key`, a line each, down to the setting."""
    if key == "tasks":
        left, right = sorted(left), sorted(right)
    if left == right:
        return []
    if isinstance(left, dict) and isinstance(right, dict):
        inner = sorted({*left, *right})
        return [line for name in inner for line in _differences(f"{key}.{name}", left.get(name), right.get(name))]
    if isinstance(left, list):
        return [f"{key} ({len(set(left) - set(right))} only in the first, {len(set(right) - set(left))} in the second)"]
    return [f"{key} ({json.dumps(left)} and {json.dumps(right)})"]


def eval_command(arm: Arm) -> str:
    """The command that plays the rollouts that an arm owes: the one that made its run, rebuilt from run.json."""
    record, limits, sampling = arm.record, arm.record["limits"], arm.record["sampling"]
    options: dict[str, Any] = {"suite": record["suite"], "split": record["split"], "model": record["model"]}
    options["out"] = shown(arm.path)
    options["held-out"] = record["held_out_groups"]
    options |= {"protocol": record["protocol"], "rollouts": record["rollouts"], "seed": record["seed"]}
    options |= {key.replace("_", "-"): sampling[key] for key in ("temperature", "max_tokens") if key in sampling}
    options |= {key.replace("_", "-"): limits[key] for key in ("max_steps", "max_bad_turns", "tests") if key in limits}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    if record.get("tools"):
        words += ["--tools", record["tools"]["module"]]
    switches = {"--constrain": record["constrain"], "--stop-on-pass": limits.get("stop_on_pass")}
    switches["--unsafe-local"] = record.get("isolation") == "unsafe-local"
    switches["--isolated-io"] = bool(record.get("isolated_io"))
    words += [flag for flag, on in switches.items() if on]
    return " ".join(["repo-agent", "eval", *map(_quoted, words)])


def shown(path: Path) -> str:
    """A path for others to read: relative where it lies in the current directory, else absolute with ~ for home."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else tilde(str(whole))


def _quoted(word: str) -> str:
    """A word for the shell; a ~/ at its start stays bare, since quoted it would not be the home folder."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)
