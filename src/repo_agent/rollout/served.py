"""What is asked of a server before a run: which base it has, whether it runs the adapter, what holds it to a schema."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.models import Completion, Constrainable, Model, Request, Sampling
from repo_agent.models.calls import taken_apart
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.rollout.meter import Meter, Metered
from repo_agent.rollout.record import Played, adapter_record, is_base
from repo_agent.traces import events
from repo_agent.train.canary import read_canary

_Ask = Callable[[Request], Awaitable[Completion]]


async def prove_served(
    options: Played, model: Model | None, schema: dict[str, Any] | None, meter: Meter
) -> tuple[str | None, list[events.LlmAction]]:
    """How the model's replies are constrained to the schema, None where they are free; and the replies that proved it.

    Raises UserError where the server runs another base or another adapter, or nothing holds its replies; Stopped where
    the budget does not hold the proof.
    """
    replies: list[events.LlmAction] = []
    if model is None:
        return None, replies
    ask = _recorded(model, meter, replies)
    if options.adapter and isinstance(model, OpenAIChat):
        await _check_base(options, model)
        await _check_adapter(options.adapter, options.model, ask)
    if schema is None or not isinstance(model, Constrainable):
        return None, replies
    return await model.constraint(schema, ask), replies


async def _check_base(options: Played, model: OpenAIChat) -> None:
    trained, served = adapter_record(options), await model.bases()
    if trained and served and not any(is_base(trained, base) for base in served):
        what = f"was trained on {trained.base}, and the server runs {options.model} on {' = '.join(served)}"
        raise UserError(what, str(options.adapter), f"Serve it on {trained.base}, under that name")


async def _check_adapter(folder: Path, model: str, ask: _Ask) -> None:
    """Ask the contexts of canary.json: some servers answer as the base where they could not load the adapter.

    Greedy replies differ between processors, so one reply that is the adapter's, and not the base's, is enough.
    """
    canary = read_canary(folder)
    telling = [one for one in canary.contexts if one.base != one.tuned] if canary else []
    if not canary or not telling:
        return
    sampling, tools = Sampling(0.0, canary.max_tokens), canary.tools
    said = [(await ask(Request(one.messages, sampling, 0, tools=tools))).text for one in telling]
    as_read = taken_apart if tools is not None else lambda text: (text, False)
    if any(text == as_read(one.tuned)[0] for text, one in zip(said, telling, strict=True)):
        return
    base = sum(text == as_read(one.base)[0] for text, one in zip(said, telling, strict=True))
    what = f"is not what {model} runs: of {len(said)} replies none is the adapter's, and {base} are the base's"
    raise UserError(what, str(folder), "Look into the server's log: was the adapter loaded under this name?")


def _recorded(model: Model, meter: Meter, replies: list[events.LlmAction]) -> _Ask:
    """The model's `complete`, metered, each reply kept."""

    async def ask(request: Request) -> Completion:
        completion = await Metered(model, meter).complete(request)
        reply = events.LlmAction(
            text=completion.text,
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            seconds=None,
            turn_class="unjudged",
            lenient_ok=False,
        )
        replies.append(reply)
        return completion

    return ask
