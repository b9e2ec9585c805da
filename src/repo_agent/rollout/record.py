"""What run.json says of a run, and the adapter that it ties it to."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from repo_agent.chat.base import base_hash
from repo_agent.errors import UserError
from repo_agent.messages import text_hash, tilde
from repo_agent.models.resolve import parts
from repo_agent.rollout.episode import Setting
from repo_agent.rollout.options import EvalOptions
from repo_agent.tasks.task import Suite, Task
from repo_agent.tools.own import source_hash
from repo_agent.traces.store import PROMPT, TOOLS, TRAINED_PROMPTS, tool_hashes
from repo_agent.train.record import RunRecord, adapter_hash, read_record


class Played(Protocol):
    """Which model plays, and on which side of a split."""

    @property
    def model(self) -> str: ...

    @property
    def adapter(self) -> Path | None:
        """Of a model on a server: the directory of the adapter that it runs."""

    @property
    def split(self) -> str: ...


def run_record(options: EvalOptions, suite: Suite, tasks: list[Task], setting: Setting) -> dict[str, Any]:
    """run.json. Raises UserError where the adapter does not belong to this run."""
    split = suite.split(options.held_out)
    contract = setting.spec.contract.hash
    trained = adapter_record(options)
    if trained:
        check_adapter(options, trained, contract, [task.id for task in tasks])
    return {
        "format": 1,
        "arm": setting.arm,
        "model": setting.model,
        "constrain": options.constrain,
        "suite": setting.suite,
        "suite_hash": suite.hash,
        "split": options.split,
        "tasks": [task.id for task in tasks],
        "task_hashes": {task.id: task.hash for task in tasks},
        "train": list(split.train),
        "held_out": list(split.held_out),
        "held_out_groups": len({suite.by_id[task].split_group for task in split.held_out}),
        "rollouts": options.rollouts,
        "seed": options.seed,
        "protocol": setting.spec.protocol.name,
        "sampling": asdict(setting.sampling),
        "limits": asdict(setting.spec.limits),
        "contract": contract,
        TOOLS: tool_hashes(setting.spec.registry.schemas()),
        PROMPT: text_hash(setting.spec.system),
        "tools": {"module": tilde(options.tools), "hash": source_hash(options.tools)} if options.tools else None,
        **adapter_keys(options, trained),
        "isolation": setting.isolation.name,
        "isolated_io": options.isolated_io or None,
        "intro": tilde(str(options.intro)) if options.intro else None,
        "versions": {"python": platform.python_version(), "repo-agent": version("repo-agent")},
    }


def adapter_keys(options: Played, trained: RunRecord | None) -> dict[str, Any]:
    """The keys of run.json about adapter and base."""
    return {
        "adapter": _adapter(options, trained),
        TRAINED_PROMPTS: trained.system_prompts or None if trained else None,
        "adapter_dir": tilde(str(options.adapter)) if options.adapter else None,
        "base_hash": _base_hash(options, trained),
    }


def served_adapter(folder: Path) -> dict[str, Any]:
    """The same keys for an adapter that somebody else's agent is served with, and the contract that it is for."""
    trained = read_record(folder)
    known = {"hash": adapter_hash(folder), "train_tasks": trained.seen_tasks, "base": trained.base}
    return {
        "adapter": {**known, "contract": trained.contract, "held_out": trained.held_out},
        TRAINED_PROMPTS: trained.system_prompts or None,
        "adapter_dir": tilde(str(folder)),
        "base_hash": trained.base_hash,
    }


def adapter_record(options: Played) -> RunRecord | None:
    """What is on record of the adapter that plays; None where none does, or none is known."""
    folder = _folder(options)
    return read_record(folder) if folder else None


def _folder(options: Played) -> Path | None:
    written = options.adapter or parts(options.model)[2]
    return Path(written).expanduser() if written else None


def _adapter(options: Played, trained: RunRecord | None) -> dict[str, Any] | None:
    """A hash of the adapter's weights, the tasks that it was trained on, and of one on a server its base."""
    folder = _folder(options)
    if trained is None or folder is None:
        return None
    known: dict[str, Any] = {"hash": adapter_hash(folder), "train_tasks": trained.seen_tasks}
    return known | ({"base": trained.base} if options.adapter else {})


def _base_hash(options: Played, trained: RunRecord | None) -> str | None:
    kind, base, _ = parts(options.model)
    if kind == "local" and base:
        return base_hash(base)
    return trained.base_hash if trained else None


def check_adapter(options: Played, trained: RunRecord, contract: str, tasks: list[str]) -> None:
    """Raise UserError for an adapter of another contract or base, or, on held-out tasks, one trained on them."""
    kind, base, _ = parts(options.model)
    folder = str(options.adapter or parts(options.model)[2])
    leaked = sorted({*trained.seen_tasks} & {*tasks}) if options.split == "held-out" else []
    if trained.contract != contract:
        what = f"was trained for contract {trained.contract}, this loop has {contract}"
        raise UserError(what, folder, "Use the tools and protocol it was made for, or build and train again")
    if kind == "local" and not is_base(trained, base):
        raise UserError(f"was trained on {trained.base}, not on {base}", folder, f"Use local:{trained.base}+{folder}")
    if leaked:
        more = " …" if len(leaked) > 3 else ""
        what = f"was trained on {len(leaked)} of these held-out tasks ({', '.join(leaked[:3])}{more})"
        raise UserError(what, folder, "Build without --no-split, and with the same --held-out")


def is_base(trained: RunRecord, base: str) -> bool:
    """Whether an adapter was trained on `base`: the same weights, or where their hash is unknown the same name."""
    try:
        found = base_hash(base) if trained.base_hash else None
    except UserError:
        found = None
    return trained.base == tilde(base) if found is None else trained.base_hash == found
