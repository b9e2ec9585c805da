"""The run directory: one trace a rollout, claimed under a lock, renamed when whole, indexed from the whole ones.

    run.json                      what was run; the same command resumes
    traces/<task>/<k>.jsonl       whole rollouts; `.part` while one is being written, `.jsonl.gz` where it is large
    errors/<task>/<k>-<n>.jsonl   rollouts that our own error, a stop or a kill ended: will be rerun
    labels.jsonl                  outcomes that came later, of rollouts that nobody graded
    results.jsonl                 an index, rebuilt from the whole traces

A `.part` belongs to whoever holds its lock. The lock dies with its process, so a `.part` without one is abandoned; what
was spent on it counts, so one with replies in it goes to errors/ when its rollout is claimed again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from repo_agent.errors import UserError
from repo_agent.messages import text_hash, total
from repo_agent.traces import events
from repo_agent.traces.files import create, lock, same_file, written
from repo_agent.traces.labels import Labels, Rollout
from repo_agent.traces.read import read_events, read_first, read_lines, record_of
from repo_agent.traces.writer import TraceWriter

RECORD, INDEX, TRACES, ERRORS = "run.json", "results.jsonl", "traces", "errors"
FREE_KEYS = frozenset({"versions", "isolation", "suite", "adapter_dir", "intro"})
"""Keys of run.json that may differ when a run is resumed: hashes tell of suite, adapter and prompt."""
TOOLS, PROMPT, TRAINED_PROMPTS = "tool_hashes", "prompt_hash", "trained_prompts"
"""Keys of run.json: what decides whether a call is valid, the system prompt, and those of the adapter's rows."""
LATER_KEYS = frozenset({"base_hash", TOOLS, PROMPT, TRAINED_PROMPTS})
"""Keys that older runs lack, or that a machine may not be able to tell: they may be missing on one side."""
CANARY = "canary.jsonl"
"""The replies by which a server proved that it obeys a schema: they cost tokens too."""
PROBES = "probes.jsonl"
"""The answers to the probes (see `repo_agent.probes`), `.part` while they are written: they cost tokens too."""
_LONGEST_NAME = 200
_REPLY, _ANSWER = b'"kind":"llm_action"', b'"kind":"probe"'
"""Stand in a trace, and in the answers to probes, only where a reply does: inside of texts the quotes are escaped."""


class RunDir:
    """One run directory; opens lazily, so a missing one is noticed when something is asked of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, record: dict[str, Any]) -> RunDir:
        """Make the directory with `record` as its run.json, or resume one of the same record.

        Raises UserError that names the differing keys, or for a folder that holds something else.
        """
        run = cls(path)
        if not (path / RECORD).exists() and path.exists() and (not path.is_dir() or any(_visible(path))):
            raise UserError("exists and is no run directory", str(path), "Choose another --out")
        with written(path):
            path.mkdir(parents=True, exist_ok=True)
            created = create(path / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        if created:
            return run
        before, now = run.record, json.loads(json.dumps(record))
        keys = sorted(key for key in {*before, *now} - FREE_KEYS if not _same(key, before.get(key), now.get(key)))
        if keys:
            what = f"was run with other settings (differing: {', '.join(keys)}){_changed_tasks(before, now)}"
            raise UserError(what, str(path), "Give the same settings to resume it, or another --out")
        return run

    @property
    def record(self) -> dict[str, Any]:
        """run.json. Raises UserError where it is missing or no JSON object."""
        try:
            record = json.loads((self.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "Give the --out of `eval`, `replay`, `record` or `import`"
            raise UserError(f"has no readable {RECORD} ({error})", str(self.path), remedy) from error
        if not isinstance(record, dict):
            raise UserError(f"its {RECORD} holds no object", str(self.path), "Run `repo-agent eval` again")
        return record

    def pending(self, wanted: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Those of the `wanted` (task id, rollout number) that have no whole trace yet, in the same order."""
        return [(task, k) for task, k in wanted if not _is_there(self._whole(task, k))]

    def claim(self, task: str, k: int) -> TraceWriter | None:
        """The right to write rollout `k` of `task`; None where it is whole or another process is at it.

        Raises StoreError where the directory cannot be written.
        """
        whole = self._whole(task, k)
        part = whole.with_suffix(".jsonl.part")
        with written(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not lock(fd) or not same_file(fd, part):
            os.close(fd)
            return None
        if _is_there(whole):
            part.unlink()
            os.close(fd)
            return None
        writer = TraceWriter(fd, part, whole, self.path / ERRORS / folder_name(task))
        if _REPLY in os.pread(fd, os.fstat(fd).st_size, 0):
            writer.fail()
            return self.claim(task, k)
        os.ftruncate(fd, 0)
        return writer

    def spent(self) -> tuple[int, int] | None:
        """Prompt and completion tokens of all replies so far, also of rollouts that will be rerun; None where one has
        no count."""
        files = [
            *(self.path / name for name in (CANARY, PROBES, f"{PROBES}.part")),
            *self.traces(),
            *(self.path / ERRORS).glob("*/*.jsonl"),
            *(self.path / TRACES).glob("*/*.part"),
        ]
        counts = [count for path in files for count in _tokens(path)]
        prompt, completion = (total(count[side] for count in counts) for side in (0, 1))
        return None if prompt is None or completion is None else (prompt, completion)

    def add_canary(self, replies: Sequence[events.LlmAction]) -> None:
        """Record replies that belong to no rollout, so that what they cost counts."""
        with written(self.path / CANARY), (self.path / CANARY).open("ab") as file:
            file.write(b"".join(reply.line() for reply in replies))

    def traces(self) -> list[Path]:
        """The whole traces, by task folder, then by rollout number."""
        found = (path for path in (self.path / TRACES).glob("*/*.jsonl*") if path.suffix != ".part")
        return sorted(found, key=lambda path: (path.parent.name, len(path.name.partition(".")[0]), path.name))

    def rows(self) -> list[dict[str, Any]]:
        """The index: results.jsonl where it lists just the whole traces, else rebuilt from them; with the outcomes that
        labels.jsonl gives.

        Raises UserError where there is no run directory.
        """
        if not (self.path / RECORD).is_file():
            raise UserError("no run directory", str(self.path), "Give the --out of `eval`, `record` or `import`")
        try:
            rows = [record_of(line) or {} for _, line in read_lines(self.path / INDEX)[0]]
            in_step = [row["trace"] for row in rows] == [self._relative(path) for path in self.traces()]
        except (UserError, KeyError):
            in_step = False
        labels, found = Labels(self.path), rows if in_step else self.write_index()
        return [{**row, "passed": labels.passed(row["task"], row["rollout"], row["passed"])} for row in found]

    def rollouts(self) -> list[Rollout]:
        """The whole rollouts, each with who ran it."""
        self.rows()  # refuses a folder that is no run
        starts = (read_first(path) for path in self.traces())
        return [Rollout(start.task, start.rollout, start.source) for start in starts]

    def write_index(self) -> list[dict[str, Any]]:
        """Rebuild results.jsonl from the whole traces. Raises UserError for one without an end."""
        rows = [{**index_row(path), "trace": self._relative(path)} for path in self.traces()]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary = self.path / f".{INDEX}.{os.getpid()}"
        try:
            with written(self.path / INDEX):
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(self.path / INDEX)
        finally:
            temporary.unlink(missing_ok=True)
        return rows

    def _whole(self, task: str, k: int) -> Path:
        return self.path / TRACES / folder_name(task) / f"{k}.jsonl"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def _same(key: str, before: Any, now: Any) -> bool:
    if key == "limits" and isinstance(before, dict):  # older runs name a clock, which ends no rollout any more
        before = {name: value for name, value in before.items() if name != "max_seconds"}
    return bool(before == now) or (key in LATER_KEYS and None in (before, now))


def _changed_tasks(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Names a few of the tasks that are no longer what they were."""
    then, hashes = before.get("task_hashes") or {}, now.get("task_hashes") or {}
    changed = [task for task, known in hashes.items() if then.get(task, known) != known]
    return f"; changed since: {', '.join(changed[:5])}{', …' if len(changed) > 5 else ''}" if changed else ""


def tool_hashes(schemas: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tool name → hash of its schema, of an OpenAI `tools` list."""
    return {entry["function"]["name"]: text_hash(json.dumps(entry, sort_keys=True)) for entry in schemas}


def folder_name(task: str) -> str:
    """A file name for any task id, different for different ids: percent-encoded; very long ones end in a hash."""
    name = quote(task, safe="") or "%"
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}%~{hashlib.sha256(task.encode()).hexdigest()[:32]}"
    return name


def index_row(path: Path) -> dict[str, Any]:
    """What the index says about one whole trace (all but its place). Raises UserError for one without an end."""
    log, _ = read_events(path)
    start, end = log[0] if log else None, log[-1] if log else None
    if not isinstance(start, events.RunStart) or not isinstance(end, events.RunEnd):
        raise UserError("a whole trace starts with run_start and ends with run_end", str(path), "Delete it, run again")
    actions = [event for event in log if isinstance(event, events.LlmAction)]
    return {
        "task": start.task,
        "rollout": start.rollout,
        "trace": path.name,
        "ended": end.ended,
        "passed": end.passed,
        "steps": end.steps,
        "calls": sum(len(action.calls) for action in actions),
        "classes": dict(Counter(action.turn_class for action in actions)),
        "lenient_ok": sum(action.lenient_ok for action in actions),
        "raw_unknown": sum(action.raw_unknown for action in actions),
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "seconds": end.seconds,
        "verbatim": end.verbatim,
        "cost_usd": end.cost_usd,
        "isolation": start.isolation,
    }


def _is_there(whole: Path) -> bool:
    return whole.exists() or whole.with_name(f"{whole.name}.gz").exists()


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _tokens(path: Path) -> list[tuple[int | None, int | None]]:
    """Prompt and completion tokens of each reply in a trace, whole or not."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = [json.loads(line) for line in data.split(b"\n")[:-1] if _REPLY in line or _ANSWER in line]
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return []  # another process has just renamed it; or no trace of ours
    return [(line.get("prompt_tokens"), line.get("completion_tokens")) for line in lines]
