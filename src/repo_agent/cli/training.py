"""The commands `train` and `adapter`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent.cli.options import Json, output, shown
from repo_agent.errors import InfraError, Stopped, UserError

_NO_SETTINGS = frozenset("dataset out backend config resume cancel dry_run usd_per_hour as_json".split())
"""Options of the command that are no fields of a TrainConfig."""


adapter = typer.Typer(no_args_is_help=True, help="Adapters: merge one into its base.")


@adapter.command("merge", short_help="Write base and adapter as one model.")
def merge(
    adapter: Annotated[Path, typer.Argument(help="A directory that `train` wrote.")],
    out: Annotated[Path, typer.Option(help="New directory for the merged model.")],
    dtype: Annotated[str, typer.Option(help="Precision of its weights.")] = "bfloat16",
    as_json: Json = False,
) -> None:
    """Add an adapter to its base in float32, cast once, and print the largest difference of a log-probability.

    For servers that take no adapter. Where one does, serve the adapter: it is what was measured.

    repo-agent adapter merge adapters/first --out merged/first
    """
    from repo_agent.train.merge import merge as run

    difference = run(adapter, out, dtype)
    measured = "not measured: no canary.json" if difference is None else f"{difference:.3g} nats"
    lines = [f"largest difference of a log-probability: {measured}", f"merged model: {out}"]
    output(as_json, {"out": str(out), "largest_difference": difference}, lambda show: show.lines(lines))


def train(
    dataset: Annotated[Path, typer.Argument(help="A directory that `build` made, or `pairs`.")],
    out: Annotated[Path | None, typer.Option(help="New adapter directory; needed unless --dry-run.")] = None,
    backend: Annotated[str, typer.Option(help="Where to train: local, or together (a job at Together).")] = "local",
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings; flags go before it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what an earlier command of this --out began.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the job at Together that this --out began.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the run will take; train nothing.")] = False,
    usd_per_hour: Annotated[float | None, typer.Option(help="What this machine costs, for --dry-run.", min=0)] = None,
    base: Annotated[str | None, typer.Option(help="tiny, smollm2, a folder, or a hub name.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="An adapter that `train` wrote, to go on from. Default: a new one.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="sft (default); dpo, which learns from a folder that `pairs` made; grpo, by reward."),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Of dpo: how dearly it pays for a distance from where it began (0.1).")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="What sets rate, epochs and step size: recommended (default) or plan.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows (3).")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (by the base's size).")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="How it falls: linear (default), cosine, constant_with_warmup.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which it rises (0.05).")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank (16).")] = None,
    alpha: Annotated[int | None, typer.Option(help="LoRA alpha (32).")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout (0).")] = None,
    target: Annotated[
        str | None, typer.Option(help="Layers with an adapter, as PEFT's target_modules (all-linear).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the rows, first weights, held-back tasks (0).")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest row, in tokens (8192); it ends after the last turn that fits.")
    ] = None,
    step_tokens: Annotated[int | None, typer.Option(help="Trained tokens that an optimizer step aims at.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of an optimizer step, instead.")] = None,
    pass_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of one forward pass; changes memory and speed alone.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto (bf16 where the device is fast in it), bf16, fp32.")
    ] = None,
    checkpointing: Annotated[
        str | None, typer.Option(help="Gradient checkpointing: auto (where memory needs it), on, off.")
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="How packed rows are kept apart: auto, varlen, segments, alone.")
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="none (default), 4bit: a QLoRA, with bitsandbytes.")] = None,
    evals: Annotated[int | None, typer.Option(help="Evaluations over the run (4); 0: none.")] = None,
    eval_share: Annotated[float | None, typer.Option(help="Share of train tasks held back for them (0.1).")] = None,
    replays: Annotated[int | None, typer.Option(help="Contexts replayed at each of them (16).")] = None,
    early_stop: Annotated[
        int | None, typer.Option(help="Evaluations without a lower eval_nll that end the run (2); 0: never.")
    ] = None,
    checkpoints: Annotated[int | None, typer.Option(help="Checkpoints over the run (10).")] = None,
    report_to: Annotated[
        list[str] | None, typer.Option(help="A tracker: tensorboard, wandb, mlflow … Repeatable.")
    ] = None,
    contexts: Annotated[
        list[str] | None,
        typer.Option(help="Of grpo, as the six that follow: runs in whose contexts replies are drawn. Repeatable."),
    ] = None,
    per_task: Annotated[int | None, typer.Option(help="Contexts of a task, at most (20).")] = None,
    generations: Annotated[int | None, typer.Option(help="Replies to a context (8).")] = None,
    reply_tokens: Annotated[int | None, typer.Option(help="The most that a reply may have (512).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the draws (1).")] = None,
    kl: Annotated[float | None, typer.Option(help="What a distance from where it began costs (0.02).")] = None,
    reward: Annotated[
        str | None, typer.Option(help="ladder (default); constant, shuffled: placebos, to compare with.")
    ] = None,
    together_model: Annotated[
        str | None, typer.Option(help="The base's name at Together, where it is not --base.")
    ] = None,
    together_batch_size: Annotated[
        str | None,
        typer.Option(help="Packed rows of a step there: a number, or max. Default: by the step's size, as allowed."),
    ] = None,
    together_packing: Annotated[
        bool | None, typer.Option(help="Whether Together joins short rows (yes); without, it costs more.")
    ] = None,
    together_checkpoints: Annotated[int | None, typer.Option(help="Checkpoints that Together keeps (1).")] = None,
    together_suffix: Annotated[str | None, typer.Option(help="Beginning of the tuned model's name there.")] = None,
    together_accept_labels: Annotated[
        bool | None,
        typer.Option("--together-accept-labels", help="Train though the preview puts the loss on other tokens."),
    ] = None,
    together_accept_unchecked: Annotated[
        bool | None,
        typer.Option(
            "--together-accept-unchecked",
            help="Start dpo there, though its tokens can be compared only once the job is billed.",
        ),
    ] = None,
    together_poll_seconds: Annotated[
        float | None, typer.Option(help="Seconds between two looks at the job (15).")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(help="Create no job that Together estimates to cost more.")
    ] = None,
    yes: Annotated[
        bool | None, typer.Option("--yes", help="Create the job without asking, where its price is known.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter on a dataset: on this machine with TRL and PEFT, or as a job at Together.

    Killed or stopped, the same command with --resume continues it.

    repo-agent train datasets/first --base Qwen/Qwen2.5-7B-Instruct --out adapters/first

    repo-agent train pairs/first --method dpo --adapter adapters/first --out adapters/second

    repo-agent train datasets/first --method grpo --adapter adapters/first --contexts runs/own --out adapters/second
    """
    options = dict(locals())
    from repo_agent.cli.probe import replay
    from repo_agent.train.backends import backend_named

    train_on, settings = backend_named(backend), settings_of(options)
    found = None
    if settings.method == "grpo":
        from repo_agent.cli.environment import recordings

        found = recordings(dataset, settings)
    if dry_run:
        from repo_agent.train.plan import plan
        from repo_agent.train.prepare import prepare

        planned = plan(prepare(dataset, settings, found), usd_per_hour)
        output(as_json, planned.to_json(), lambda show: _show_plan(show, planned))
        return
    if out is None:
        raise UserError("no directory to write to", "--out", "Give --out, or --dry-run to see what the run will take")
    if cancel:
        shown(as_json).line(_cancel(backend, out))
        return
    main = _is_main()
    show = shown(as_json or not main)
    with _how_to_go_on(resume), show.bar("training") as bar:
        more = {"resume": resume, "ask": show.asking(), "say": show.line, "probe": replay, "environment": found}
        record = train_on(dataset, out, settings, bar.step, **more)
    if main:
        output(as_json, record.model_dump(mode="json"), lambda show: show.lines(_told(out, record)))


def settings_of(options: Mapping[str, Any]) -> Any:
    """What `train` makes of its options, before it runs. Raises UserError that lists everything that is wrong."""
    from repo_agent.train.config import make_config

    given = {name: value for name, value in options.items() if name not in _NO_SETTINGS and value != ()}
    if options["adapter"] is not None and options["base"] is None and options["config"] is None:
        from repo_agent.train.record import read_record

        given["base"] = str(Path(read_record(Path(options["adapter"])).base).expanduser())
    return make_config(given, options["config"])


@contextmanager
def _how_to_go_on(resumed: bool) -> Iterator[None]:
    again = f"the same command{'' if resumed else ' with --resume'} continues"
    try:
        yield
    except InfraError as error:
        error.resume = error.resume or again
        raise
    except KeyboardInterrupt:
        raise Stopped("stopped", 130, again) from None


def _cancel(backend: str, out: Path) -> str:
    from repo_agent.train.together.backend import cancel_together

    if backend != "together":
        raise UserError("ends a job at Together", "--cancel", "Give --backend together too")
    return cancel_together(out)


def _show_plan(show: Any, plan: Any) -> None:
    """What a training run will take."""
    from repo_agent.cli.progress import clock, short

    config, took = plan.config, plan.memory
    size = "unknown size" if plan.parameters is None else f"{short(plan.parameters)} parameters"
    held = ", ".join(plan.eval_tasks[:3]) + (" …" if len(plan.eval_tasks) > 3 else "")
    lost, again = sum(plan.lost_tokens.values()), ", activations computed again" if plan.checkpointing else ""
    drawn = config.method == "grpo"
    what = {"dpo": "pairs", "grpo": "contexts"}.get(config.method, "rows")
    most = "at most " if drawn else ""
    passes = "one pair each" if config.method == "dpo" else f"at most {plan.pass_tokens:,} tokens"
    a_step = f"{plan.step_rows:g} {what} and {most}{plan.step_trained_tokens:g} trained tokens each"
    replies = plan.rows * plan.epochs * config.generations
    rows = {
        "base": f"{config.base}, {size}",
        what: f"{plan.rows} of {plan.tasks} tasks, {plan.dropped_too_long} too long",
        **({"replies": f"{replies:,}, of at most {config.reply_tokens} tokens each"} if drawn else {}),
        "held back": f"{plan.eval_rows} {'rows' if drawn else what} of {len(plan.eval_tasks)} tasks: {held or 'none'}",
        "tokens": f"{most}{plan.tokens:,}, {plan.trained_tokens:,} trained, {lost:,} lost to --max-length",
        "rate": f"{config.lr:g}, {config.schedule}, rank {config.rank}, alpha {config.alpha}",
        "steps": f"{plan.steps} in {plan.epochs} epochs, of {a_step}",
        "passes": f"{plan.passes}, of {passes}{again}",
        "memory": "unknown" if took is None else f"about {_gb(took.total)}, {_gb(plan.free_memory)} free",
        "read": f"{most}{plan.read_tokens:,} tokens in all epochs",
        "time": "unknown" if plan.seconds is None else f"about {clock(plan.seconds)} on this machine",
        "cost": "--usd-per-hour prices this machine" if plan.usd is None else f"about {plan.usd:.2f} USD",
    }
    show.pairs(rows.items())
    show.lines(f"! {line}" for line in plan.warnings)


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def _told(out: Path, record: Any) -> list[str]:
    """How training went, and how to serve what it made."""
    from repo_agent.train.card import serving_line

    losses, evals = record.losses, [one for one in record.evals if one.eval_nll is not None]
    found = [f"loss {losses[0].loss:.3f} → {losses[-1].loss:.3f} in {len(losses)} steps"] if losses else []
    if record.silent_groups:
        silent, groups = record.silent_groups
        found = [f"{silent} of {groups} groups had equal rewards and taught nothing, in {len(losses)} steps"]
    if evals:
        best = next((one for one in evals if one.step == record.best_step), evals[-1])
        replay = "" if best.validity is None else f", {best.validity:.0%} of {best.replayed} replayed calls valid"
        if best.reward is not None:
            found.append(f"held-back mean reward {evals[0].reward:.3f} → {best.reward:.3f}")
        found.append(f"eval_nll {evals[0].eval_nll:.3f} → {best.eval_nll:.3f}{replay}, after step {best.step}")
    return [*found, f"adapter: {out}", f"serve: {serving_line(record, str(out))}"]


def _is_main() -> bool:
    from repo_agent.train.world import world

    return world().main
