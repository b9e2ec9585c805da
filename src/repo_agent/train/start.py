"""The adapter that a run begins with, where it goes on from one (`--adapter`)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from repo_agent.chat.base import base_hash
from repo_agent.errors import UserError
from repo_agent.messages import tilde
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import RunRecord, adapter_hash, read_record

_SHAPE = ("rank", "alpha", "target")
"""Settings that an adapter has from its beginning."""


@dataclass(frozen=True)
class Start:
    """An adapter and what is on record of it."""

    path: Path
    record: RunRecord
    hash: str


def start_of(config: TrainConfig, contract: str, tasks: Collection[str]) -> Start | None:
    """The adapter of a config, None where a new one is made.

    Raises UserError for one that is not there, of another base or contract, or that holds out a task that is to be
    trained on.
    """
    if config.adapter is None:
        return None
    path = Path(config.adapter).expanduser()
    record = read_record(path)
    where = str(path)
    if record.contract != contract:
        what = f"was made for other tools or another protocol ({record.contract}, the data have {contract})"
        raise UserError(what, where, "Give data of the same tools and protocol")
    if record.base_hash is not None and record.base_hash != base_hash(config.base):
        raise UserError(f"was made on another base ({record.base})", where, "Give --base as it was made")
    if both := sorted({*(record.held_out or ())} & {*tasks}):
        what = f"holds out {len(both)} tasks that the data train on, {both[0]} among them"
        raise UserError(what, where, "Make the data with the split of the adapter's own dataset")
    odd = [name for name in _SHAPE if name in config.model_fields_set and _differs(config, record, name)]
    if odd:
        flags = " and ".join(f"--{name}" for name in odd)
        raise UserError(f"has its own {flags.replace('--', '')}", where, f"Leave out {flags}")
    return Start(path, record, adapter_hash(path))


def begun(config: TrainConfig, start: Start | None) -> TrainConfig:
    """The config with the shape of the adapter that it begins with."""
    if start is None:
        return config
    shape = {name: getattr(start.record.config, name) for name in _SHAPE}
    return config.model_copy(update={"adapter": tilde(str(start.path.absolute())), **shape})


def _differs(config: TrainConfig, record: RunRecord, name: str) -> bool:
    return bool(getattr(config, name) != getattr(record.config, name))
