"""Which process this is of how many, as `accelerate launch` and `torchrun` say it. One process uses one GPU, always."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    sharded: bool = False
    """Whether weights are divided over the processes (FSDP)."""

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def device(self) -> str | None:
        """Where this process loads its weights; None: as ever. Sharded ones go to the CPU first."""
        import torch

        if self.sharded:
            return "cpu"
        return f"cuda:{self.local_rank}" if self.size > 1 and torch.cuda.is_available() else None

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def world() -> World:
    """From the launcher's environment."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")
    return World(number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), sharded)


def unused_gpus(here: World) -> int:
    """GPUs that this machine has and this run leaves alone."""
    import torch

    return max(0, torch.cuda.device_count() - here.size) if here.size == 1 else 0


def one_gpu_only(arguments: Any) -> None:
    """Keep transformers from `nn.DataParallel`, which it would take for several visible GPUs in one process."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
