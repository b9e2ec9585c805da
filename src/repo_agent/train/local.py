"""Backend `local`: TRL's trainer and a PEFT LoRA on this machine, on rows that our own renderer has tokenised.

The rows of a step are packed by us, nothing is cut, and the loss is a mean over all trained tokens of the step: one row
a trajectory gives the gradient of its step rows, on one process or several.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repo_agent.chat.base import base_hash
from repo_agent.chat.weights import SMALL, load_weights, with_adapter
from repo_agent.errors import Stopped, UserError, boundary
from repo_agent.messages import digest, tilde
from repo_agent.train.batches import Step, steps_of
from repo_agent.train.config import TrainConfig
from repo_agent.train.dpo import PairPasses, Reference, check_reference
from repo_agent.train.environment import Environment
from repo_agent.train.finish import finish
from repo_agent.train.folder import RunFolder
from repo_agent.train.grpo import GroupPasses, HeldBack, Practice, silent_line
from repo_agent.train.measure import Evaluations, Probe
from repo_agent.train.passes import add_head, choose_attention
from repo_agent.train.plan import again_needed, pass_tokens
from repo_agent.train.prepare import Prepared, PreparedContexts, prepare
from repo_agent.train.record import OnStep, RunRecord, Say
from repo_agent.train.run import Run
from repo_agent.train.step import Passes
from repo_agent.train.trainer import make_trainer, newest
from repo_agent.train.world import World, unused_gpus, world


def train(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    on_step: OnStep | None = None,
    *,
    resume: bool = False,
    say: Say = lambda line: None,
    probe: Probe | None = None,
    environment: Environment | None = None,
) -> RunRecord:
    """Train a LoRA on a dataset's trajectories, or as `config.method` says; writes `out`: adapter, run_record.json,
    model card, canary, plots.

    Until then `OUT.run` holds checkpoints; `resume` takes up what is there. Raises UserError for an `out` that exists,
    a dataset or base that is not there, rows that are all too long, an unfinished run of other settings; Stopped after
    Ctrl-C, when a checkpoint is written.
    """
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    here, folder = world(), RunFolder(out)
    prepared = prepare(dataset, config, environment)
    if prepared.config.method == "grpo" and here.size > 1:
        raise UserError("draws its replies in one process", "--method grpo", "Leave accelerate launch out")
    if here.main:
        folder.open(identity(prepared), resume)
    finished = False
    try:
        with quiet(), boundary("train"):
            run = _start(prepared, folder, here, on_step, probe, say)
            with _threads(run.model):
                _go(run)
                record = finish(run, out)
        finished = True
    finally:
        if here.main:
            folder.close(finished=finished)
    return record


def identity(prepared: Prepared[Any]) -> dict[str, Any]:
    """What a run is: where this is equal, its checkpoints may be taken up."""
    config = prepared.config
    found = {
        "config": config.model_copy(update={"base": tilde(config.base)}).model_dump(mode="json"),
        "dataset": prepared.dataset.hash,
        "base": base_hash(config.base),
        "adapter": prepared.start.hash if prepared.start else None,
        "tokenizer": prepared.renderer.fingerprint(),
        "rows": [len(prepared.rows), prepared.size.trained],
    }
    if isinstance(prepared, PreparedContexts):
        found["contexts"] = digest([one.key for one in prepared.environment.contexts])
    return found


def _start(
    prepared: Prepared[Any], folder: RunFolder, here: World, on_step: OnStep | None, probe: Probe | None, say: Say
) -> Run:
    """Load the base, prove the packing, and put the trainer together."""
    from transformers import set_seed

    config = prepared.config
    here.wait()
    set_seed(config.seed)
    steps = steps_of(prepared.rows, config)
    if here.main:
        for line in prepared.warnings(len(steps)):
            say(line)
    most, again = pass_tokens(prepared), again_needed(prepared)  # by the memory that is free before the weights come
    model = load_weights(config.base, here.device(), _dtype(config), quantized=config.quantize == "4bit")
    model.name_or_path = model.config._name_or_path = tilde(config.base)  # PEFT writes it into the adapter
    add_head(model)
    sft = config.method == "sft"
    kind, why = choose_attention(model, prepared.rows, config.attention) if sft else ("alone", "")
    if why and here.main:
        say(f"attention: {kind} ({why})")
    if left := unused_gpus(here):
        say(f"{left} GPUs are left alone; accelerate launch uses them (docs/training.md)")
    passes = _passes(prepared, steps, 1 if kind == "alone" and config.method != "grpo" else most, here, say)
    run = Run(prepared, folder, here, model, passes, kind, Evaluations([], config.early_stop), probe, say)
    measure = run.measure if prepared.held else None
    start = prepared.start
    begun = with_adapter(model, start.path, config.base, trainable=True) if start else model
    run.trainer = make_trainer(
        begun, prepared.renderer.tokenizer, config, passes, folder, here, on_step, measure, again
    )
    if config.method == "dpo":
        check_reference(run.trainer, [prepared.rows[index] for index in steps[0].rows])
        run.reference = Reference(run.trainer.model, prepared.held_rows, config.beta) if prepared.held else None
    elif isinstance(passes, GroupPasses):
        numbers = [row.number for rows in prepared.held_rows.values() for row in rows]
        run.reference = HeldBack(passes.practice, numbers, config.replays)
    return run


def _passes(prepared: Prepared[Any], steps: Sequence[Step], most: int, here: World, say: Say) -> Passes[Any]:
    """How the steps of the config's method are taken."""
    if not isinstance(prepared, PreparedContexts):
        return (PairPasses if prepared.config.method == "dpo" else Passes)(prepared.rows, steps, most, here, say)
    prompts = {row.number: row.input_ids for row in prepared.made.rows}
    practice = Practice(prepared.environment, prepared.renderer, prompts, prepared.config)
    return GroupPasses(practice, prepared.rows, steps, most, here, say)


def _go(run: Run) -> None:
    """All steps that are left. Raises Stopped after Ctrl-C."""
    checkpoint, step = newest(run.folder, run.world)
    run.evaluations.all[:] = run.folder.evals()
    if step:
        run.say(f"resumed after step {step} of {len(run.passes.steps)}")
    if run.prepared.held and not run.evaluations.all:
        run.measure(0)
    if not run.evaluations.enough:  # a run that was killed after its early stop has nothing left to do
        with _interrupted(run):
            run.trainer.train(resume_from_checkpoint=checkpoint)
    if run.trainer.schedule.stop and run.trainer.state.global_step < len(run.passes.steps):
        done = f"stopped after step {run.trainer.state.global_step} of {len(run.passes.steps)}"
        raise Stopped(done, 130, "the same command with --resume continues")
    steps = run.folder.steps()
    if line := silent_line(sum(one.silent or 0 for one in steps), sum(one.groups or 0 for one in steps)):
        run.say(line)


@contextmanager
def _interrupted(run: Run) -> Iterator[None]:
    """The first Ctrl-C saves a checkpoint after the step under way; the next one ends the process as ever."""
    if run.world.size > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def once(*_: Any) -> None:
        run.trainer.schedule.stop = True
        signal.signal(signal.SIGINT, before)
        run.say("stopping: the step under way is finished and saved; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _dtype(config: TrainConfig) -> str | None:
    return {"auto": None, "bf16": "bfloat16", "fp32": "float32"}[config.precision]


@contextmanager
def _threads(model: Any) -> Iterator[None]:
    """One CPU thread for a small model, while the block runs."""
    import torch

    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and bars off the terminal: progress goes through `on_step` and `say`."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
