"""Backend `local`: TRL's SFTTrainer and a PEFT LoRA on this machine, on rows that our own renderer has tokenised.

The loss is a token mean over all trained tokens of an optimizer step (TRL divides the summed loss by their count over
all of the step's forward passes), so one row a trajectory gives the gradient of its step rows.
Not covered: more than one GPU, and resuming from a checkpoint.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repo_agent.chat.base import base_hash
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.chat.weights import SMALL, load_weights
from repo_agent.data.dataset import read_dataset
from repo_agent.data.tokens import training_rows
from repo_agent.errors import UserError, boundary
from repo_agent.files import new_directory
from repo_agent.messages import digest, tilde
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import RECORD, RunRecord, StepLoss, versions

OnStep = Callable[[int, int, float], None]
"""Told after each optimizer step: the step, how many there are, and its loss."""


def train_sft(dataset_dir: Path, out: Path, config: TrainConfig, on_step: OnStep | None = None) -> RunRecord:
    """Train a LoRA on a dataset's trajectories; writes `out`: adapter, run_record.json, loss.svg.

    Raises UserError for an `out` that exists, a dataset or base that is not there, and rows that are all too long;
    then, and on Ctrl-C, nothing is left behind.
    """
    if out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    dataset = read_dataset(dataset_dir)
    tokenizer = load_tokenizer(config.base)
    renderer = Renderer(tokenizer, dataset.contract.printed_tools)
    made = training_rows(dataset, renderer, config.max_length)
    rows = made.rows
    if not rows:
        raise UserError(f"all {made.too_long} rows are too long", str(dataset_dir), "Raise --max-length")
    from transformers import set_seed

    with _quiet(), boundary("train"), new_directory(out) as folder:
        set_seed(config.seed)
        model = load_weights(config.base)
        model.name_or_path = model.config._name_or_path = tilde(config.base)  # PEFT writes it into the adapter
        losses: list[StepLoss] = []
        trainer = _trainer(model, tokenizer, rows, config, folder, losses, on_step)
        with _threads(model):
            started = time.monotonic()
            trainer.train()
            seconds = time.monotonic() - started
        record = RunRecord(
            config=config.model_copy(update={"base": tilde(config.base)}),
            dataset=digest(dataset.record),
            contract=dataset.record["contract"],
            protocol=dataset.record["protocol"],
            base=tilde(config.base),
            base_hash=base_hash(config.base),
            tokenizer=renderer.fingerprint(),
            seed=config.seed,
            device=str(model.device),
            versions=versions(),
            train_tasks=dataset.tasks,
            held_out=(dataset.record.get("split") or {}).get("held_out"),
            rows=len(rows),
            dropped_too_long=made.too_long,
            lost_tokens=dict(made.lost),
            system_prompts=[one["hash"] for one in dataset.record.get("prompts", ())],
            prompts=made.proof.to_dict(),
            tokens=sum(len(row.input_ids) for row in rows),
            trained_tokens=sum(row.trained for row in rows),
            losses=losses,
            seconds=round(seconds, 2),
        )
        trainer.model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's, an empty form
        (folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _plot(losses, folder / "loss.svg")
    return record


def _trainer(
    model: Any,
    tokenizer: Any,
    rows: list[Tokens],
    config: TrainConfig,
    folder: Path,
    losses: list[StepLoss],
    on_step: OnStep | None,
) -> Any:
    """An SFTTrainer over pre-tokenised rows, silent but for `losses` and `on_step`."""
    import datasets
    import peft
    from transformers import PrinterCallback
    from trl import SFTTrainer

    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target,
        task_type="CAUSAL_LM",
    )
    table: dict[str, Any] = {
        "input_ids": [row.input_ids for row in rows],
        "labels": [row.labels for row in rows],
        "length": [len(row.input_ids) for row in rows],
    }
    trainer = SFTTrainer(
        model=model,
        args=_arguments(model, max(table["length"]), len(rows), config, folder),
        train_dataset=datasets.Dataset.from_dict(table),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[_reporter(losses, on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(model: Any, longest: int, rows: int, config: TrainConfig, folder: Path) -> Any:
    """TRL's configuration. Nothing is cut or packed; forward passes hold `batch_tokens`, steps `batch_size` rows."""
    from trl import SFTConfig

    gpu = model.device.type == "cuda"
    most = config.batch_tokens or (8192 if gpu else 1024)
    fit = max(1, min(config.batch_size, most // longest))
    per_pass = next(size for size in range(fit, 0, -1) if config.batch_size % size == 0)
    steps = math.ceil(rows / config.batch_size) * config.epochs
    return SFTConfig(
        output_dir=str(folder),
        max_length=None,
        packing=False,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=config.batch_size // per_pass,
        train_sampling_strategy="group_by_length",
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        # The first step of a warm-up has rate 0: of few steps it would be a large part, of one step all.
        warmup_steps=math.ceil(config.warmup * steps) if steps >= 20 else 0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=config.seed,
        data_seed=config.seed,
        bf16=gpu,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        gradient_checkpointing=gpu and _short_of_memory(model, per_pass * longest),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _short_of_memory(model: Any, tokens: int) -> bool:
    """Whether a pass's activations would not fit, so that recomputing them (a third of the speed) is worth it.

    Counts what a decoder layer in bfloat16 keeps for its backward pass: about 16 vectors of the hidden size and 6 of
    the feed-forward size a token.
    """
    import torch

    config = model.config
    values = 16 * config.hidden_size + 6 * config.intermediate_size
    free, _ = torch.cuda.mem_get_info(model.device)
    return bool(2 * values * config.num_hidden_layers * tokens > 0.7 * free)


def _reporter(losses: list[StepLoss], on_step: OnStep | None) -> Any:
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                losses.append(StepLoss(step=state.global_step, loss=logs["loss"]))
                if on_step:
                    on_step(state.global_step, state.max_steps, logs["loss"])

    return Reporter()


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
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings and bars off the terminal: progress goes through `on_step`."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _plot(losses: list[StepLoss], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([entry.step for entry in losses], [entry.loss for entry in losses])
    axes.set(xlabel="optimizer step", ylabel="loss (nats a trained token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(path)
