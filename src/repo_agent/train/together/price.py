"""What a job at Together costs, by Together's own estimate, and whether that may be spent.

The SDK's `create` asks for the estimate too, and posts the job whatever it says: so this stands before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repo_agent.errors import Stopped, UserError
from repo_agent.train.record import Say
from repo_agent.train.together.client import Client
from repo_agent.train.together.config import TogetherConfig
from repo_agent.train.together.job import Job, JobFolder

Ask = Callable[[str], bool]
"""Put a question to the user; whether the answer is yes."""
_WHERE = "--backend together"
_AGAIN = "the file is uploaded: the same command with --resume continues"


def approve(client: Client, folder: JobFolder, job: Job, settings: TogetherConfig, ask: Ask | None, say: Say) -> None:
    """Returns where the price may be spent. Raises UserError where it is not allowed, unknown, over the budget, or
    nobody is there to agree; Stopped where the answer is no."""
    told = client.patiently("price", lambda: _estimate(client, job), settings.poll_seconds)
    job.estimate = told.to_dict(mode="json")
    folder.save(job)
    price = getattr(told, "estimated_total_price", None)
    if getattr(told, "allowed_to_proceed", None) is False:
        what = f"Together does not allow the job: it costs about {_usd(price)}, the account's limit is "
        raise UserError(what + _usd(getattr(told, "user_limit", None)), _WHERE, f"Top up; {_AGAIN}")
    if price is None:
        why = getattr(told, "unavailable_reason", None) or "no reason given"
        if settings.yes or settings.budget_usd or not ask:
            what = f"Together gives no price ({why}), so nothing says what the job costs"
            raise UserError(what, _WHERE, "Try again later with --resume, or leave out --yes and --budget-usd")
        question = f"Together gives no price ({why}): it is unknown what this job costs. Create it?"
    else:
        if settings.budget_usd is not None and price > settings.budget_usd:
            what = f"Together estimates {_usd(price)}, the budget is {_usd(settings.budget_usd)}"
            raise UserError(what, "--budget-usd", f"Raise it, or train on less; {_AGAIN}")
        say(f"Together estimates {_usd(price)}")
        question = f"Create the job at Together for about {_usd(price)}?"
    if not settings.yes:
        if ask is None:
            raise UserError("nobody is there to agree to the price", _WHERE, f"Add --yes; {_AGAIN}")
        if not ask(question):
            raise Stopped("no job was created", 3, _AGAIN)


def _estimate(client: Client, job: Job) -> Any:
    asked = job.settings
    kind = {key: asked[key] for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_trainable_modules")}
    method = {key: asked[key] for key in ("train_on_inputs", "dpo_beta") if key in asked}
    start = {"from_checkpoint": asked["from_checkpoint"]} if "from_checkpoint" in asked else {}
    return client.api.fine_tuning.estimate_price(
        training_file=str(job.file_id),
        model=asked.get("model", ""),  # as the SDK's own `create` asks, where a checkpoint names the model
        **start,
        n_epochs=asked["n_epochs"],
        n_evals=asked["n_evals"],
        training_method={"method": asked["training_method"], **method},  # type: ignore[misc, arg-type]
        training_type={"type": "Lora", **kind},  # type: ignore[arg-type]
    )


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:,.2f}"
