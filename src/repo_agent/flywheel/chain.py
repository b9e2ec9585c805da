"""A chain of plain commands in one folder: each is printed, run, and written into a journal, so that none runs twice.

`commands.jsonl` of the folder holds a line when a command starts and one when it is done. The same chain again passes
over what is done and resumes what is not; `eval`, `replay` and `train --resume` take up their own unfinished folders.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from glob import escape
from pathlib import Path
from typing import IO, Any

from repo_agent.errors import Stopped, UserError
from repo_agent.evaluate.arms import load_arm

JOURNAL = "commands.jsonl"
Commands = list[tuple[list[str], Path]]
"""Commands as words, with the folder that each makes."""
Run = Callable[[Sequence[str]], int | None]
"""Runs a command's words; returns its exit code, or None."""
Say = Callable[[str], None]
RESUME = "the same command again resumes; nothing that is finished is done twice"
_PLAYS = ("eval", "replay")


class Chain:
    """The commands of one folder; no second process gets it."""

    def __init__(self, out: Path, run: Run, say: Say) -> None:
        self.out, self._run, self._say = out, run, say
        self._file: IO[str] | None = None
        self._commands: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Chain:
        """Raises UserError for a folder of something else, or one that another process has."""
        path = self.out / JOURNAL
        if not path.is_file() and self.out.exists() and (self.out.is_file() or any(self.out.iterdir())):
            raise UserError(f"exists, and holds no {JOURNAL}", str(self.out), "Choose another --out, or remove it")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("another process works in it", str(self.out), "Wait for it, or stop it") from error
        except OSError as error:
            raise UserError(f"cannot be made ({error.strerror})", str(self.out), "Choose another place") from error
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def seconds(self) -> dict[str, float]:
        """Folder → seconds that went into it, over all attempts."""
        return dict(self._seconds)

    def do(self, words: Sequence[str], made: Path, more: Sequence[str] = ()) -> None:
        """Run a command that makes a folder, unless it is done. `more` are words that may be others the next time.

        Raises UserError where another command made the folder, and whatever the command raises.
        """
        name, words = self._name(made), list(words)
        self._say(f"\n$ {shlex.join(['repo-agent', *words, *more])}")
        if made.exists() and self._commands.get(name) != words:
            self._refuse(made, self._commands.get(name))
        if is_done(words, made):
            self._say(f"{made} is there already")
            return
        for left in made.parent.glob(f".{escape(made.name)}.*"):  # of a command that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._write({"start": name, "command": words, "at": time.time()})
        self._commands[name], began = words, time.monotonic()
        try:
            code = self._run([*words, *more])
        finally:
            self._spent(name, time.monotonic() - began)
            _free_memory()
        if code:
            raise Stopped(f"repo-agent {words[0]} ended with exit code {code}", code, RESUME)

    def _spent(self, name: str, seconds: float) -> None:
        seconds = round(seconds, 3)
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._write({"end": name, "seconds": seconds})

    def _refuse(self, made: Path, other: list[str] | None) -> None:
        by = f"was made by another command: {shlex.join(['repo-agent', *other])}" if other else "was made by hand"
        raise UserError(by, str(made), "Remove it to have it made anew, or choose another --out")

    def _name(self, made: Path) -> str:
        return made.relative_to(self.out).as_posix()

    def _read(self) -> None:
        """What earlier processes did. One that was killed wrote no end: its last attempt took as long as its files
        tell."""
        assert self._file
        self._file.seek(0)
        open_since: dict[str, float] = {}
        for line in self._file:
            try:
                entry = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if "start" in entry:
                self._commands[entry["start"]] = entry["command"]
                open_since[entry["start"]] = entry["at"]
            else:
                self._seconds[entry["end"]] = self._seconds.get(entry["end"], 0.0) + entry["seconds"]
                open_since.pop(entry["end"], None)
        for name, since in open_since.items():
            last = max(_changed(self.out / name), default=since)
            self._spent(name, max(0.0, last - since))

    def _write(self, entry: dict[str, Any]) -> None:
        assert self._file
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() and not _ends_in_newline(Path(self._file.name)):
            self._file.write("\n")
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def run_commands(commands: Commands, out: Path, run: Run, say: Say) -> dict[str, float]:
    """Run commands in order, each unless it is done; returns seconds by folder."""
    with Chain(out, run, say) as chain:
        for words, made in commands:
            chain.do(words, made)
        say(f"\nThe whole chain took {sum(chain.seconds.values()):.0f} s.")
        return chain.seconds


def is_done(words: Sequence[str], made: Path) -> bool:
    """Whether a command's folder is finished: a run without pending rollouts; all others are there whole or not at
    all."""
    if words[0] not in _PLAYS or not (made / "run.json").is_file():
        return words[0] not in _PLAYS and made.exists()
    return not load_arm(made).pending


def _changed(made: Path) -> Iterable[float]:
    """When the files of a folder were last written, and of what an unfinished training left beside it."""
    for folder in (made, made.with_name(made.name + ".run")):
        for path in folder.rglob("*"):
            try:
                yield path.stat().st_mtime
            except OSError:
                continue


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _free_memory() -> None:
    """A command's weights are gone before the next one looks at how much memory is free."""
    torch = sys.modules.get("torch")
    if torch is not None:
        gc.collect()
        torch.cuda.empty_cache()  # does nothing where no GPU was used
