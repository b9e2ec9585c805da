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
    backend: Annotated[str, typer.Option(help="Where to train: local, or together (a job at Together).")] = "local",
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what an earlier command of this --out began.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the job at Together that this --out began.")] = False,
    together_model: Annotated[
        str | None, typer.Option(help="The base's name at Together, where it is not --base.")
    ] = None,
    together_batch_size: Annotated[
        str | None,
        typer.Option(help="Packed rows of a step there: a number, or max. Default: --batch-size, as allowed."),
    ] = None,
    together_packing: Annotated[
        bool, typer.Option(help="Whether Together joins short rows; without, it costs more.")
    ] = True,
    together_checkpoints: Annotated[int, typer.Option(help="Checkpoints that Together keeps.")] = 1,
    together_suffix: Annotated[str, typer.Option(help="Beginning of the tuned model's name at Together.")] = "",
    together_accept_labels: Annotated[
        bool, typer.Option("--together-accept-labels", help="Train though the preview puts the loss on other tokens.")
    ] = False,
    together_poll_seconds: Annotated[float, typer.Option(help="Seconds between two looks at the job.")] = 15.0,
    budget_usd: Annotated[
        float | None, typer.Option(help="Create no job that Together estimates to cost more.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Create the job without asking, where its price is known.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter on a dataset: on this machine with TRL and PEFT, or as a job at Together.

    repo-agent train datasets/first --base Qwen/Qwen2.5-7B-Instruct --out adapters/first
    """
    given = dict(locals())
    from repo_agent.train.backends import backend_named
    from repo_agent.train.config import TrainConfig, make_config

    train_on = backend_named(backend)
    show = shown(as_json)
    if cancel:
        show.line(_cancel(backend, out))
        return
    hosted = {name.removeprefix("together_"): given[name] for name in given if name.startswith("together_")}
    hosted |= {"budget_usd": budget_usd, "yes": yes}
    config = make_config(
        **{name: given[name] for name in TrainConfig.model_fields if name != "together"}, together=hosted
    )
    with show.bar("training") as bar:
        record = train_on(dataset, out, config, bar.step, resume=resume, ask=show.asking(), say=show.line)
    output(as_json, record.model_dump(mode="json"), lambda show: show.adapter(out, record))


def _cancel(backend: str, out: Path) -> str:
    from repo_agent.train.together import cancel_together

    if backend != "together":
        raise UserError("ends a job at Together", "--cancel", "Give --backend together too")
    return cancel_together(out)
