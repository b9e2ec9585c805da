"""The file of a model's answers, `probes.jsonl` in its run's folder: a line that says what was asked how, then a line
a probe. It is there whole or not at all; `.part` while it is written, and a killed probe goes on from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from repo_agent.errors import UserError
from repo_agent.probes import CHAT, PLAIN, TEXT, WITH_TOOLS, Probe, all_probes
from repo_agent.traces.files import lock, written
from repo_agent.traces.store import PROBES

_FREE = frozenset({"versions", "kind"})
_REMEDY = "Give the same settings, or remove the file to probe anew"


@dataclass(frozen=True)
class Answers:
    """What a model made of the probes."""

    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]

    def values(self, metric: str) -> dict[str, float]:
        """Probe → what it counts, of the probes that are measured: 1 for a good answer, else 0; of a text the nats a
        token."""
        if metric == "nats":
            found = {row["id"]: (row["nats"], row["tokens"]) for row in self.rows if row["group"] == TEXT}
            return {name: nats / tokens for name, (nats, tokens) in found.items() if nats is not None and tokens}
        if metric == "whole":
            known = {f"{row['group']}/{row['id']}": row["whole"] for row in self.rows if row["group"] in (PLAIN, CHAT)}
        else:
            known = {row["id"]: row["passed"] for row in self.rows if row["group"] == metric}
        return {name: float(value) for name, value in known.items() if value is not None}

    @property
    def tokens(self) -> dict[str, int | None]:
        """Text → how many of its tokens were read: other tokenizers make other counts."""
        return {row["id"]: row["tokens"] for row in self.rows if row["group"] == TEXT}

    def mean(self, metric: str) -> float | None:
        """None where nothing is measured."""
        found = self.values(metric)
        return sum(found.values()) / len(found) if found else None


METRICS: Mapping[str, str] = {
    WITH_TOOLS: "no call, tools",
    PLAIN: "no call, no tools",
    CHAT: "plain chat",
    "whole": "whole replies",
    "nats": "nats a token",
}
"""What is measured, as tables name it. All but the last are shares of prompts, more being better; of nats, fewer."""


def read_answers(run: Path) -> Answers | None:
    """The answers in a run's folder; None where there are none. Raises UserError for a file that is damaged."""
    path = run / PROBES
    if not path.is_file():
        return None
    settings, rows = _read(path)
    # They stand in the file as they came in, and a comparison must not depend on that.
    places = {(probe.group, probe.id): place for place, probe in enumerate(all_probes())}
    last = len(places)
    return Answers(settings, tuple(sorted(rows, key=lambda row: places.get((row["group"], row["id"]), last))))


def _read(path: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    try:
        with path.open("rb") as file:  # a torn last line has no end
            lines = [json.loads(line) for line in file if line.endswith(b"\n")]
        return (lines[0], tuple(lines[1:])) if lines else ({}, ())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Remove it, and probe again") from error


class AnswerFile:
    """A file of answers being written, by one process at a time; a context manager."""

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        self._whole, self._part = run / PROBES, run / f"{PROBES}.part"
        self._settings = {"kind": "probes", **json.loads(json.dumps(settings))}
        self.rows: list[dict[str, Any]] = []
        self._fd = -1

    def __enter__(self) -> Self:
        """Raises UserError where other settings were probed there, or another process is at it."""
        try:
            return self._opened()
        except UserError:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def pending(self) -> list[Probe]:
        done = {(row["group"], row["id"]) for row in self.rows}
        return [probe for probe in all_probes() if (probe.group, probe.id) not in done]

    def _opened(self) -> Self:
        if self._whole.is_file():
            self._take(self._whole)
            return self
        with written(self._part):
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if not lock(self._fd):
            raise UserError("another process is probing this run", str(self._part), "Let it finish")
        if self._whole.is_file():  # made whole by another process, just now
            self._part.unlink(missing_ok=True)
            self.__exit__()
            self._take(self._whole)
        elif not self._take(self._part):
            os.ftruncate(self._fd, 0)  # a first line that a kill tore
            self._write(self._settings)
        return self

    def add(self, probe: Probe, answer: Mapping[str, Any]) -> None:
        """Record an answer; it is in the file when this returns. The last one makes the file whole."""
        row = {"kind": "probe", "group": probe.group, "id": probe.id, "prompt": probe.text, **answer}
        self._write(row)
        self.rows.append(row)
        if not self.pending:
            with written(self._whole):
                os.fsync(self._fd)
                self._part.rename(self._whole)

    def _take(self, path: Path) -> bool:
        """Go on from what is in a file; False where there is nothing."""
        settings, rows = _read(path)
        if not settings:
            return False
        keys = sorted(
            key for key in {*settings, *self._settings} - _FREE if settings.get(key) != self._settings.get(key)
        )
        if keys:
            raise UserError(f"was probed with other settings (differing: {', '.join(keys)})", str(path), _REMEDY)
        self.rows = list(rows)
        if self._fd >= 0:
            with written(path), path.open("rb") as file:
                os.ftruncate(self._fd, sum(len(line) for line in file if line.endswith(b"\n")))
        return True

    def _write(self, row: Mapping[str, Any]) -> None:
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
        with written(self._part):
            os.write(self._fd, text.encode(errors="replace"))
