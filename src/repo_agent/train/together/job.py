"""What is on record of a job at Together while it is under way, so that any later process can resume it.

`<out>.together/` lies beside the adapter directory until that is whole:

job.json       this run's settings, its stage, and what Together has answered so far
train.jsonl    what is uploaded
events.jsonl, metrics.jsonl, tokenised.archive, adapter.archive
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pydantic

from repo_agent.errors import UserError
from repo_agent.train.folder import hold, write_whole

Stage = Literal["prepared", "uploaded", "validated", "previewed", "approved", "creating", "created", "completed"]
STAGES: tuple[Stage, ...] = Stage.__args__  # type: ignore[attr-defined]
_FILE = "job.json"
UPLOAD = "train.jsonl"
SUFFIX_CHARS = 40
"""Together takes no longer suffix."""


class Job(pydantic.BaseModel):
    """job.json."""

    model_config = pydantic.ConfigDict(validate_assignment=True)

    format: int = 1
    stage: Stage = "prepared"
    """The last one that is done; `creating`: the request may or may not have reached Together."""
    settings: dict[str, Any]
    """What a resumed run must share."""
    suffix: str
    """Unique: the job is found by it whatever else is lost."""
    upload: dict[str, Any]
    """Of train.jsonl: sha256, rows, tokens."""
    file_id: str | None = None
    preview: dict[str, Any] | None = None
    tokenised: dict[str, Any] | None = None
    """Of preference pairs: what was compared after the start; see `tokenised`."""
    estimate: dict[str, Any] | None = None
    job_id: str | None = None
    status: str | None = None
    """As Together last said it."""

    def reached(self, stage: Stage) -> bool:
        return STAGES.index(self.stage) >= STAGES.index(stage)


class JobFolder:
    """The folder of one job."""

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.together")

    @property
    def exists(self) -> bool:
        return (self.path / _FILE).is_file()

    def read(self) -> Job:
        """Raises UserError for a job.json that is none."""
        path = self.path / _FILE
        try:
            return Job.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError) as error:
            remedy = "Look at Together whether a job is running, then remove the folder"
            raise UserError(f"is no record of a job ({str(error).splitlines()[0]})", str(path), remedy) from error

    def save(self, job: Job) -> None:
        """Write job.json; it is on the disk when this returns."""
        write_whole(self.path / _FILE, job.model_dump_json(indent=1) + "\n")

    def add(self, name: str, records: list[dict[str, Any]]) -> None:
        """Append lines to events.jsonl or metrics.jsonl."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, default=str) + "\n" for record in records)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of such a file: a kill may have cut the last."""
        path = self.path / name
        found = []
        for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def remove(self) -> None:
        shutil.rmtree(self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Two processes would create two jobs: the second gets a UserError."""
        with hold(self.path, _FILE, UPLOAD):
            yield


def new_suffix(wanted: str, out: Path) -> str:
    """A name's end that nobody else has: the wanted beginning, or the adapter's name, and ten random digits."""
    words = wanted or "".join(char if char.isascii() and char.isalnum() else "-" for char in out.name).strip("-")
    return f"{words[:28] or 'repo-agent'}-{secrets.token_hex(5)}"


def differing(job: Job, settings: dict[str, Any]) -> list[str]:
    """The names of settings that are not those that the job was started with."""
    return sorted(name for name in {*job.settings, *settings} if job.settings.get(name) != settings.get(name))
