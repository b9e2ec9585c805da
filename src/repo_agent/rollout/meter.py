"""What a run spends, and its brake: looked at before each request, never in the middle of one.

A request is let through only where the budget holds what is spent, what is under way and this request, each at its
cap: a token for each byte of the prompt (no token covers less) and `max_tokens` for the reply. Where that does not fit
the request waits for those under way, which mostly cost less than their caps; with none under way the run stops. So a
budget is never exceeded, as long as the server keeps to `max_tokens` and charges for nothing but its replies.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from repo_agent.errors import Stopped, UserError
from repo_agent.messages import Usage
from repo_agent.models import Completion, Model, Request
from repo_agent.models.prices import Prices

SPENT, INTERRUPTED = 3, 130
"""Exit codes."""
MESSAGE_TOKENS = 16
"""More than a chat template puts around a message."""
TEMPLATE_TOKENS = 64
"""More than it puts around all of them."""


@dataclass(frozen=True)
class Budget:
    """Hard limits of a run; None: no limit. `tokens` are prompt and completion tokens together."""

    usd: float | None = None
    tokens: int | None = None

    @property
    def limited(self) -> bool:
        return self.usd is not None or self.tokens is not None


class Meter:
    """Counts tokens, and says stop. `earlier` is what the run has spent before, as (prompt, completion) tokens; None:
    unknown.

    Raises UserError for a budget that cannot be kept.
    """

    def __init__(
        self, budget: Budget | None = None, prices: Prices | None = None, earlier: tuple[int, int] | None = (0, 0)
    ) -> None:
        self.prices: Prices | None = prices
        self.stopped: Stopped | None = None
        self._budget = budget or Budget()
        self._known = earlier is not None
        self._prompt, self._completion = earlier or (0, 0)
        _refuse(self._budget, prices)
        self._count_known()
        self._reserved_prompt = self._reserved_completion = self._under_way = 0
        self._changed = asyncio.Event()

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens; None once a reply came without a count."""
        return self._prompt + self._completion if self._known else None

    @property
    def usd(self) -> float | None:
        """None where prices or tokens are unknown."""
        return self.prices.cost(self._prompt, self._completion) if self.prices and self._known else None

    def stop(self, reason: str, code: int) -> None:
        """Let no more requests through. Replies under way are waited for."""
        self.stopped = self.stopped or Stopped(reason, code)
        self._wake()

    async def reserve(self, prompt: int, completion: int) -> None:
        """Wait until a request of at most so many tokens fits. Raises Stopped where none will."""
        while not (self.stopped or self._fits(prompt, completion)) and self._under_way:
            await self._changed.wait()
        if not self.stopped and not self._fits(prompt, completion):
            self.stop(f"the budget of {self._limit()} is spent: the next request may not fit into what is left", SPENT)
        if self.stopped:
            raise Stopped(self.stopped.reason, self.stopped.code)
        self._book(prompt, completion, 1)

    def settle(self, prompt: int, completion: int, usage: Usage | None) -> None:
        """Put what a request has cost in place of what was reserved for it; None: it brought no reply.

        Raises UserError under a budget where the server gives no count.
        """
        self._book(-prompt, -completion, -1)
        if usage:
            self._prompt += usage.prompt_tokens or 0
            self._completion += usage.completion_tokens or 0
            self._known = self._known and None not in (usage.prompt_tokens, usage.completion_tokens)
        self._wake()
        self._count_known()

    def _count_known(self) -> None:
        if self._budget.limited and not self._known:
            remedy = "Leave the budget out, or take a model that reports its usage"
            raise UserError("replies came without a count of tokens, so no budget can be kept", "--budget", remedy)

    def _fits(self, prompt: int, completion: int) -> bool:
        prompt += self._prompt + self._reserved_prompt
        completion += self._completion + self._reserved_completion
        if self._budget.tokens is not None and prompt + completion > self._budget.tokens:
            return False
        return self._budget.usd is None or not self.prices or self.prices.cost(prompt, completion) <= self._budget.usd

    def _limit(self) -> str:
        usd = f"{self._budget.usd:g} USD" if self._budget.usd is not None else ""
        tokens = f"{self._budget.tokens:,} tokens" if self._budget.tokens is not None else ""
        return " and ".join(filter(None, (usd, tokens)))

    def _book(self, prompt: int, completion: int, requests: int) -> None:
        self._reserved_prompt += prompt
        self._reserved_completion += completion
        self._under_way += requests

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Metered:
    """A model behind a meter."""

    def __init__(self, model: Model, meter: Meter) -> None:
        self.name, self._model, self._meter = model.name, model, meter

    async def complete(self, request: Request) -> Completion:
        """See `models.Model`. Raises Stopped where the meter says so."""
        cap = _prompt_cap(request), request.sampling.max_tokens
        await self._meter.reserve(*cap)
        usage = None
        try:
            completion = await self._model.complete(request)
            usage = None if completion.finish_reason == "context" else completion.usage
        finally:
            self._meter.settle(*cap, usage)
        return completion

    async def close(self) -> None:
        await self._model.close()


def _prompt_cap(request: Request) -> int:
    """No fewer than the prompt's tokens. Schemas, and calls beside the text, count by what Python prints of them."""
    sizes = (
        len(message.content.encode(errors="replace")) + (2 * len(repr(message.tool_calls)) if message.tool_calls else 0)
        for message in request.messages
    )
    schemas = sum(2 * len(repr(part)) for part in (request.schema, request.tools) if part)
    return sum(sizes) + schemas + MESSAGE_TOKENS * len(request.messages) + TEMPLATE_TOKENS


def _refuse(budget: Budget, prices: Prices | None) -> None:
    """Raise UserError for a budget that cannot be kept."""
    for flag, limit in (("--budget-usd", budget.usd), ("--budget-tokens", budget.tokens)):
        if limit is not None and limit <= 0:
            raise UserError(f"{limit:g} is too small", flag, "Give more than 0")
    if budget.usd is not None and prices is None:
        remedy = "Give --price-in and --price-out (USD per million tokens), or add the model to models/prices.toml"
        raise UserError("the price of this model is unknown", "--budget-usd", remedy)
