"""From a completed job at Together to an adapter directory like the one that local training writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.data.dataset import Dataset
from repo_agent.data.pair_set import PairSet
from repo_agent.files import new_directory
from repo_agent.messages import tilde
from repo_agent.train.config import TrainConfig
from repo_agent.train.prepare import origin, trained_tasks
from repo_agent.train.record import RECORD, Hosted, RunRecord
from repo_agent.train.start import Start
from repo_agent.train.together.adapter import unpack
from repo_agent.train.together.client import Client
from repo_agent.train.together.follow import EVENTS, Follower
from repo_agent.train.together.job import Job, JobFolder
from repo_agent.train.together.rows import Upload

ARCHIVE = "adapter.archive"
JOB = "together.json"
"""Of an adapter directory: the job as it was asked for and told, its events and checkpoints."""
_DOLLAR = 1e9
"""Together counts a job's price in billionths of a dollar."""


@dataclass(frozen=True)
class Source:
    """What was trained on, and how."""

    dataset: Dataset | PairSet
    renderer: Renderer
    upload: Upload[Any]
    config: TrainConfig
    start: Start | None
    model: str
    """At Together."""


def fetch(
    client: Client, folder: JobFolder, job: Job, source: Source, follower: Follower, last: Any, out: Path
) -> RunRecord:
    """Download the adapter and put it into `out` with its record; then the job's folder is no longer needed."""
    name, path = str(job.job_id), folder.path / ARCHIVE
    pause, config = source.config.together.poll_seconds, source.config
    listed = client.patiently("checkpoints", lambda: client.api.fine_tuning.list_checkpoints(name), pause)
    client.patiently("download", lambda: _download(client, name, path), pause)
    price = getattr(last, "total_price", None)
    record = _record(source, follower, job, None if price is None else price / _DOLLAR)
    kept = job.model_dump(mode="json") | {
        "checkpoints": [one.to_dict(mode="json") for one in listed.data or []],
        "events": folder.lines(EVENTS),
    }
    with new_directory(out) as made:
        unpack(path, made, {"r": config.rank, "lora_alpha": config.alpha}, tilde(config.base))
        (made / JOB).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        (made / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    folder.remove()
    return record


def is_of(out: Path, job: Job) -> bool:
    """Whether an adapter directory is what this job made."""
    path = out / JOB
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("suffix") == job.suffix


def _download(client: Client, name: str, path: Path) -> None:
    streaming = client.api.fine_tuning.with_streaming_response
    with streaming.content(ft_id=name, checkpoint="adapter") as answer, path.open("wb") as file:
        for chunk in answer.iter_bytes(2**20):
            file.write(chunk)


def _record(source: Source, follower: Follower, job: Job, price: float | None) -> RunRecord:
    upload = source.upload
    return RunRecord(
        **origin(source.dataset, source.config, source.renderer, source.start),
        device="together",
        versions={name: version(name) for name in ("repo-agent", "together", "transformers")},
        train_tasks=trained_tasks(upload.tasks, source.start),
        rows=len(upload.rows),
        dropped_too_long=upload.too_long,
        lost_tokens=dict(upload.lost),
        prompts=upload.prompts,
        tokens=upload.tokens,
        trained_tokens=upload.trained,
        losses=follower.steps(),
        seconds=follower.seconds(),
        hosted=Hosted(
            job=str(job.job_id),
            model=source.model,
            price_usd=price,
            estimate_usd=(job.estimate or {}).get("estimated_total_price"),
            left_out=upload.inexact,
            preview=job.preview or {},
            tokenised=job.tokenised,
        ),
    )
