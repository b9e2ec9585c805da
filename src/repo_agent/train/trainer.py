"""TRL's trainers over our own steps: they drive optimizer, schedule, checkpoints, processes and trackers.

Their dataset is the numbers of the steps; the rows of these come from `step.Passes`, which also has them read and
their loss taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.train.config import TrainConfig
from repo_agent.train.folder import WHOLE, RunFolder, step_of
from repo_agent.train.record import Evaluation, OnStep, StepLoss
from repo_agent.train.step import Passes
from repo_agent.train.world import World, one_gpu_only

Measure = Callable[[int], tuple[Evaluation, bool]]
"""Evaluate after a step; and whether the run should end here."""


def make_trainer(
    model: Any,
    tokenizer: Any,
    config: TrainConfig,
    passes: Passes[Any],
    folder: RunFolder,
    world: World,
    on_step: OnStep | None,
    measure: Measure | None,
    again: bool,
) -> Any:
    """A trainer with a fresh LoRA on `model`, or with the one that it has; silent but for `on_step`. Its `schedule` may
    be told to stop."""
    import datasets
    import peft
    from transformers import PrinterCallback

    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target,
        task_type="CAUSAL_LM",
    )
    evals = places(config.evals, len(passes.steps)) if measure else set()
    schedule = _schedule(config, passes, evals, folder, world, on_step)
    numbers = [number for number in range(len(passes.steps)) for _ in range(world.size)]
    trainer = _trainer_class(config.method)(
        passes,
        measure,
        model=model,
        args=_arguments(model, config, passes, folder.path, again),
        train_dataset=datasets.Dataset.from_dict({"step": numbers}),
        data_collator=lambda items: {"step": items[0]["step"]},
        processing_class=tokenizer,
        peft_config=None if isinstance(model, peft.PeftModel) else lora,
        callbacks=[schedule],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.schedule = schedule
    for parameter in trainer.model.parameters():  # TRL makes a QLoRA's bfloat16, which loses small updates
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def _trainer_class(method: str) -> Any:
    import trl

    parent: Any = getattr(trl, {"sft": "SFTTrainer", "dpo": "DPOTrainer"}[method])  # either takes a while to load

    class StepTrainer(parent):  # type: ignore[misc]
        def __init__(self, passes: Passes[Any], measure: Measure | None, **more: Any) -> None:
            super().__init__(**more)
            self.passes, self.measure = passes, measure

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            model.train()
            return self.passes.gradient(self, model, int(inputs["step"]))

        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            assert self.measure is not None
            found, enough = self.measure(self.state.global_step)
            figures = {
                "eval_nll": found.eval_nll,
                "eval_validity": found.validity,
                "eval_preference_loss": found.preference_loss,
                "eval_margin": found.margin,
            }
            logs = {name: figure for name, figure in figures.items() if figure is not None}
            self.log(dict(logs))
            control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
            control.should_training_stop |= enough
            self.control: Any = control
            return logs

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

        def _issue_warnings_after_load(self, load_result: Any) -> None:
            """A checkpoint holds the adapter alone."""

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Ours is written at the end."""

    return StepTrainer


def _arguments(model: Any, config: TrainConfig, passes: Passes[Any], folder: Path, again: bool) -> Any:
    """TRL's configuration: one item of the dataset is one optimizer step."""
    import torch
    import trl

    steps = len(passes.steps)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "sft": ("SFTConfig", {"packing": False}),
        "dpo": ("DPOConfig", {"beta": config.beta, "loss_type": ["sigmoid"]}),
    }
    kind, own = kinds[config.method]
    made = getattr(trl, kind)(
        output_dir=str(folder),
        max_length=None,
        remove_unused_columns=False,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        max_steps=steps,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        # The first step of a warm-up has rate 0: of few steps it would be a large part, of one step all.
        warmup_steps=math.ceil(config.warmup * steps) if steps >= 20 else 0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=config.seed,
        data_seed=config.seed,
        bf16=str(model.dtype) == "torch.bfloat16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        gradient_checkpointing=again,
        gradient_checkpointing_kwargs={"use_reentrant": False} if again else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        **own,
    )
    one_gpu_only(made)
    return made


def places(count: int, steps: int) -> set[int]:
    """`count` steps at even distances, the last one among them."""
    return {math.ceil(steps * (one + 1) / count) for one in range(count)} if count else set()


def _schedule(
    config: TrainConfig, passes: Passes[Any], evals: set[int], folder: RunFolder, world: World, on_step: OnStep | None
) -> Any:
    """The callback that says when to evaluate and save, and writes the log."""
    from transformers import TrainerCallback

    total = len(passes.steps)
    saves = places(config.checkpoints, total) | evals

    class Schedule(TrainerCallback):  # type: ignore[misc]
        stop = False
        """Whether to save and end after the step under way."""
        began = time.monotonic()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_evaluate = state.global_step in evals
            control.should_save = self.stop or state.global_step in saves
            control.should_training_stop |= self.stop

        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" not in logs:
                return
            _check(logs, state.global_step, config)
            step, seconds = passes.steps[state.global_step - 1], time.monotonic() - self.began
            line = StepLoss(
                step=state.global_step,
                loss=logs["loss"],
                lr=logs.get("learning_rate"),
                grad_norm=logs.get("grad_norm"),
                margin=logs.get("rewards/margins"),
                tokens=step.tokens,
                seconds=round(seconds, 4),
            )
            if world.main:
                folder.log(line.model_dump())
                if on_step:
                    on_step(line.step, total, line.loss, step.tokens / seconds if seconds else None)

        def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if world.main:
                (folder.path / f"checkpoint-{state.global_step}" / WHOLE).touch()

    return Schedule()


def _check(logs: dict[str, float], step: int, config: TrainConfig) -> None:
    """A gradient that is no number has made the weights none, also where the loss before it was one."""
    for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
        if not math.isfinite(logs.get(name, 0.0)):
            remedy = f"Lower --lr, which is {config.lr:g}"
            raise UserError(f"the {what} is {logs[name]} at step {step}", "train", remedy)


def newest(folder: RunFolder, world: World) -> tuple[str | None, int]:
    """The checkpoint to resume from, as transformers takes it, and its step; the log goes back to it."""
    found = folder.checkpoint()
    step = step_of(found) if found else 0
    if world.main and (found or list(folder.lines())):
        folder.rewind(step)
    world.wait()
    return (str(found) if found else None), step
