"""Where a training run happens: each backend is a function and a line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import OnStep, RunRecord

Backend = Callable[..., RunRecord]
"""`(dataset, out, config, on_step, *, resume, say, ask, probe, environment)`: trains on a dataset directory and writes
the adapter directory `out`. `say` tells what goes on, a line at a time; `ask` puts a question to the user, None where
nobody is there; `probe` replays recorded contexts through the model in training (`measure.Probe`); `environment` holds
the contexts and rewards of the method grpo."""


def local(
    dataset: Path, out: Path, config: TrainConfig, on_step: OnStep | None = None, *, ask: Any = None, **more: Any
) -> RunRecord:
    """TRL and PEFT on this machine."""
    from repo_agent.train.local import train

    return train(dataset, out, config, on_step, **more)


def together(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    on_step: OnStep | None = None,
    *,
    probe: Any = None,
    environment: Any = None,
    **more: Any,
) -> RunRecord:
    """A fine-tuning job at Together."""
    from repo_agent.train.together.backend import train_together

    return train_together(dataset, out, config, on_step, **more)


BACKENDS: dict[str, Backend] = {"local": local, "together": together}


def backend_named(name: str) -> Backend:
    """The backend of that name. Raises UserError."""
    if name not in BACKENDS:
        raise UserError(f"no backend {name!r}", "--backend", f"Choose from: {', '.join(BACKENDS)}")
    return BACKENDS[name]
