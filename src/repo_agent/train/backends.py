"""Where a training run happens: each backend is a function and a line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import RunRecord

OnStep = Callable[[int, int, float], None]
"""Told after each optimizer step: the step, how many there are, and its loss."""
Backend = Callable[..., RunRecord]
"""`(dataset, out, config, on_step, *, resume, say, ask)`: trains on a dataset directory and writes the adapter
directory `out`. `say` tells what goes on, a line at a time; `ask` puts a question to the user, None where nobody is
there."""


def local(
    dataset: Path, out: Path, config: TrainConfig, on_step: OnStep | None = None, *, resume: bool = False, **_: Any
) -> RunRecord:
    """TRL and PEFT on this machine."""
    from repo_agent.train.local import train_sft

    if resume:
        raise UserError("local training is not resumed", "--resume", "Leave it out")
    return train_sft(dataset, out, config, on_step)


def together(dataset: Path, out: Path, config: TrainConfig, on_step: OnStep | None = None, **more: Any) -> RunRecord:
    """A fine-tuning job at Together; see its options `resume`, `ask` and `say`."""
    from repo_agent.train.together import train_together

    return train_together(dataset, out, config, on_step, **more)


BACKENDS: dict[str, Backend] = {"local": local, "together": together}


def backend_named(name: str) -> Backend:
    """The backend of that name. Raises UserError."""
    if name not in BACKENDS:
        raise UserError(f"no backend {name!r}", "--backend", f"Choose from: {', '.join(BACKENDS)}")
    return BACKENDS[name]
