"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_agent.cli.options import Json, output, shown
from repo_agent.errors import UserError


def train(
    dataset: Annotated[Path, typer.Argument(help="A directory that `build` made.")],
    base: Annotated[str, typer.Option(help="tiny, a folder, or a hub name such as Qwen/Qwen2.5-7B-Instruct.")],
    out: Annotated[Path, typer.Option(help="New adapter directory.")],
    backend: Annotated[str, typer.Option(help="Where to train: local.")] = "local",
    method: Annotated[str, typer.Option(help="sft.")] = "sft",
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 3,
    lr: Annotated[float, typer.Option(help="Peak learning rate; a tiny model wants far more than a 7B.")] = 1e-5,
    schedule: Annotated[str, typer.Option(help="How it falls: linear, cosine, constant_with_warmup.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the steps in which it rises.")] = 0.05,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 16,
    alpha: Annotated[int, typer.Option(help="LoRA alpha.")] = 32,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = 0.0,
    target: Annotated[str, typer.Option(help="Layers with an adapter, as PEFT's target_modules.")] = "all-linear",
    seed: Annotated[int, typer.Option(help="Order of the rows, first weights.")] = 0,
    max_length: Annotated[int, typer.Option(help="Longest row, in tokens; longer ones are dropped, not cut.")] = 8192,
    batch_size: Annotated[int, typer.Option(help="Rows of an optimizer step.")] = 8,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one forward pass (8192 on a GPU, 1024 on a CPU).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter on a dataset, with TRL and PEFT.

    repo-agent train datasets/first --base Qwen/Qwen2.5-7B-Instruct --out adapters/first
    """
    given = {name: value for name, value in locals().items() if name not in ("dataset", "out", "backend", "as_json")}
    from repo_agent.train.config import make_config

    config = make_config(**given)
    if backend != "local":
        raise UserError(f"no backend {backend!r}", "--backend", "Use local")
    from repo_agent.train.local import train_sft

    with shown(as_json).bar("training") as bar:
        record = train_sft(dataset, out, config, bar.step)
    output(as_json, record.model_dump(mode="json"), lambda show: show.adapter(out, record))
