"""Create a job at Together, once.

The SDK posts again after a 500 or a time-out, and Together makes a job of each: so it is told not to, the intent is on
record first, and where nobody knows what came of a request the list of jobs is searched for the unique suffix. Where it
is not listed either, nothing is posted again in this run: a job may be listed late.
"""

from __future__ import annotations

import time
from typing import Any

from repo_agent.errors import InfraError, UserError
from repo_agent.train.config import TrainConfig
from repo_agent.train.presets import warnings
from repo_agent.train.record import Say
from repo_agent.train.together.client import Busy, Client, Unsure
from repo_agent.train.together.job import Job, JobFolder
from repo_agent.train.together.rows import Upload

_TRIES = 3
"""Posts of one run, where Together answers that it is too busy to take any."""
_TURNS = {"training_method": "sft", "train_on_inputs": False}
_LOOKS = 4
"""Lists of jobs that are searched before it is called missing."""


def request_of(
    config: TrainConfig, upload: Upload[Any], limits: Any, parameters: int | None, say: Say
) -> dict[str, Any]:
    """What `fine_tuning.create` is given beside model or checkpoint, file and suffix, of a resolved config.

    Raises UserError that lists all that Together does not take.
    """
    lora, pairs = limits.lora_training, config.method == "dpo"
    # Both turns of a pair may have to share the length: upload.longest is room for two.
    most_rows = lora.max_batch_size_dpo if pairs else lora.max_batch_size
    most_length = limits.max_seq_length_dpo if pairs else limits.max_seq_length_sft
    length = max(upload.longest, limits.min_max_seq_length)
    packed = -(-upload.tokens // length) if config.together.packing else len(upload.rows)
    batch = config.together.batch_size
    if batch is None:
        wanted = config.batch_size or round((config.step_tokens or 0) * packed / upload.trained)
        batch = min(max(wanted, lora.min_batch_size), most_rows)
    rate, epochs = config.lr or 0.0, config.epochs or 1
    numbers = [
        ("--rank", config.rank, 1, lora.max_rank),
        ("--lr", rate, limits.min_learning_rate, limits.max_learning_rate),
        ("--epochs", epochs, 1, limits.max_num_epochs),
        ("--max-length, for both turns of a pair," if pairs else "--max-length", length, 1, most_length),
        ("--together-checkpoints", config.together.checkpoints, 1, limits.max_num_checkpoints),
    ]
    if batch != "max":
        numbers.append(("--together-batch-size", batch, lora.min_batch_size, most_rows))
    wrong = [f"{flag} {value}: from {low} to {high}" for flag, value, low, high in numbers if not low <= value <= high]
    if config.schedule not in ("linear", "cosine"):
        wrong.append(f"--schedule {config.schedule}: linear or cosine")
    if wrong:
        raise UserError("; ".join(wrong), "what Together takes for this model", "Change these settings")
    rows = most_rows if batch == "max" else batch
    steps = -(-packed // rows) * epochs
    say(f"about {steps} optimizer steps of {rows} rows of {length} tokens, at a peak rate of {rate:g}")
    for line in warnings(config, parameters, steps):
        say(line)
    return {
        "n_epochs": epochs,
        "n_checkpoints": config.together.checkpoints,
        "n_evals": 0,
        "batch_size": batch,
        "packing": config.together.packing,
        "max_seq_length": length,
        "learning_rate": rate,
        "lr_scheduler_type": config.schedule,
        "warmup_ratio": config.warmup,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "random_seed": config.seed,
        "lora": True,  # None would leave out every LoRA setting
        "lora_r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "lora_trainable_modules": config.target,
        **({"training_method": "dpo", "dpo_beta": config.beta} if pairs else _TURNS),
    }


def create(client: Client, folder: JobFolder, job: Job, request: dict[str, Any], limits: Any, pause: float) -> str:
    """The id of the job: the one that an earlier request has made, else a new one.

    Raises InfraError where nobody knows whether there is one: the next run looks again before it posts.
    """
    found = _search(client, job, pause) if job.stage == "creating" else None
    for left in range(_TRIES - 1, -1, -1):
        if found is not None:
            break
        job.stage = "creating"
        folder.save(job)
        try:
            found = _post(client, job, request, limits)
        except UserError:
            _refused(folder, job)
            raise
        except Busy:
            if not left:
                _refused(folder, job)
                raise
            time.sleep(pause)
        except Unsure as error:
            found = _search(client, job, pause)
            if found is None:
                what = f"{error.cause}; no job {job.suffix} is listed, and one may still appear"
                raise InfraError("create", f"{what}. --resume looks again before it posts again") from None
    job.job_id, job.stage = found, "created"
    folder.save(job)
    return str(found)


def _refused(folder: JobFolder, job: Job) -> None:
    """Together has taken no job."""
    job.stage = "approved"
    folder.save(job)


def find(client: Client, job: Job) -> str | None:
    """The id of the job with this job's suffix, None where Together lists none."""
    listed = client.patiently("look-up", lambda: client.api.fine_tuning.list(), 1.0)
    for entry in listed.data or []:
        name = entry.x_model_output_name or ""
        if entry.suffix == job.suffix or job.suffix in name:
            return str(entry.id)
    return None


def _search(client: Client, job: Job, pause: float) -> str | None:
    for look in range(_LOOKS):
        if found := find(client, job):
            return found
        if look < _LOOKS - 1:
            time.sleep(pause)
    return None


def _post(client: Client, job: Job, request: dict[str, Any], limits: Any) -> str:
    with client.asking("create"):
        made = client.once.fine_tuning.create(
            model=job.settings.get("model"),
            from_checkpoint=job.settings.get("from_checkpoint"),
            training_file=str(job.file_id),
            suffix=job.suffix,
            model_limits=limits,
            **request,
        )
    kind = getattr(made, "training_type", None)
    asked = (request["lora_r"], request["lora_alpha"])
    if kind is not None and (getattr(kind, "lora_r", None), getattr(kind, "lora_alpha", None)) != asked:
        job.job_id = made.id
        client.patiently("cancel", lambda: client.api.fine_tuning.cancel(made.id), 1.0)
        raise InfraError("create", f"job {made.id} is no LoRA of rank and alpha {asked}: {kind}; it was cancelled")
    return str(made.id)
