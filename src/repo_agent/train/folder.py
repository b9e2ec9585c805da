"""`OUT.run`: what an unfinished run leaves, so that it can be resumed after any end. It goes when OUT is there.

run.json        what the run is: its settings, and hashes of dataset, base and tokenizer
log.jsonl       one line a step and an evaluation, in order
checkpoint-N/   weights, optimizer, schedule, random state after step N; whole where it holds the file `whole`
best-N/         the adapter with the lowest eval_nll so far
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from repo_agent.errors import UserError
from repo_agent.train.record import Evaluation, StepLoss

RUN, LOG, WHOLE = "run.json", "log.jsonl", "whole"
_PART = ".part"
_FREE = frozenset({"report_to", "pass_tokens", "checkpoints", "checkpointing"})
"""Settings that may change when a run is resumed: they do not decide what is learned."""


class RunFolder:
    """The folder of one unfinished run."""

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".run")
        self._lock: IO[str] | None = None

    def open(self, what: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or take up the one that is there; no second process gets it.

        Raises UserError for one that is in use, there without `resume`, of another run, or somebody's own.
        """
        self._lock = hold(self.path, RUN)
        try:
            there = self._read()
            if there is not None:
                self._check(there, what, resume)
        except UserError:
            self._release()
            raise
        if there is None:
            write_whole(self.path / RUN, json.dumps(what, indent=1) + "\n")

    def _check(self, there: Mapping[str, Any], what: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            remedy = "Give --resume to continue it, or remove the folder"
            raise UserError("an unfinished run is there", str(self.path), remedy)
        if odd := _differing(there, json.loads(json.dumps(what))):
            remedy = "Give the same settings and data, or remove the folder to start anew"
            raise UserError(f"the unfinished run differs in {', '.join(odd)}", str(self.path), remedy)

    def checkpoint(self) -> Path | None:
        """The newest whole checkpoint."""
        found = [(step_of(path), path) for path in self.path.glob("checkpoint-*") if (path / WHOLE).is_file()]
        return max(found, default=(0, None))[1]

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is on its way to the disk when this returns."""
        with (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Forget what the log says of later steps, and that the run was interrupted here."""
        kept = [line for line in self.lines() if line.get("step", 0) <= step]
        write_whole(self.path / LOG, "".join(json.dumps(line) + "\n" for line in [*kept, {"resumed_at": step}]))

    def lines(self) -> Iterator[dict[str, Any]]:
        """The log's lines; a last one that was cut off is left out."""
        path = self.path / LOG
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                yield json.loads(line)
            except ValueError:
                return

    def steps(self) -> list[StepLoss]:
        return [StepLoss(**line) for line in self.lines() if "loss" in line]

    def evals(self) -> list[Evaluation]:
        return [Evaluation(**line) for line in self.lines() if "eval_nll" in line]

    def resumed_at(self) -> list[int]:
        return [line["resumed_at"] for line in self.lines() if "resumed_at" in line]

    def close(self, *, finished: bool) -> None:
        """Let others have the folder; a finished run's is removed, and one in which nothing was kept."""
        if finished or not (self.checkpoint() or list(self.lines())):
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _read(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.path / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"cannot be read ({error})", str(self.path / RUN), "Remove the folder") from error
        return record


def step_of(path: Path) -> int:
    """The step in a folder's name, 0 without one."""
    found = re.search(r"-(\d+)$", path.name)
    return int(found[1]) if found else 0


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    odd = [name for name in here if name != "config" and there.get(name) != here[name]]
    before, now = there.get("config", {}), here.get("config", {})
    return odd + [f"--{name.replace('_', '-')}" for name in now if name not in _FREE and before.get(name) != now[name]]


def hold(folder: Path, record: str, *before: str) -> IO[str]:
    """Make the folder of an unfinished run, or take up the one that is there; returns its lock, which goes with the
    process.

    Raises UserError where it cannot be made, another process has it, or it holds other files than the lock and those
    that are written `before` the record, and no record: it is removed at the end, so it must be ours.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(folder), "Choose another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError("another process trains in it", str(folder), "Wait for it, or stop it") from error
    known = {"lock", record, record + _PART, *before}
    names = {path.name for path in folder.iterdir()}
    if record not in names and not names <= known:
        (folder / "lock").unlink()
        lock.close()
        raise UserError("is no folder of an unfinished run", str(folder), "Choose another --out, or move it away")
    return lock


def write_whole(path: Path, text: str) -> None:
    """Put a whole file there in one stroke; it is on the disk when this returns."""
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
