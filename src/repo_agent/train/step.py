"""One optimizer step's gradient: pass after pass over its packs, and smaller ones where memory does not hold a pass.

The loss of a step is the mean over all trained tokens of all its rows, on all processes: how the rows are packed
changes rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

from repo_agent.chat.tokens import Span, Tokens
from repo_agent.errors import UserError
from repo_agent.train.batches import Row, Step, packs, shares
from repo_agent.train.passes import pack_tensors
from repo_agent.train.record import Say
from repo_agent.train.world import World

R = TypeVar("R", bound=Row)


class Passes(Generic[R]):
    """Divides steps into passes, and remembers how large a pass memory has held."""

    def __init__(self, rows: Sequence[R], steps: Sequence[Step], most: int, world: World, say: Say) -> None:
        self.rows, self.steps, self.most = rows, steps, most
        self._world, self._say = world, say

    def gradient(self, trainer: Any, model: Any, number: int) -> Any:
        """Add the gradient of step `number` to the weights; returns its loss, of which each process has a part.

        Raises UserError where memory does not hold one row.
        """
        step = self.steps[number]
        parts = shares(self.rows, step, self._world.size)
        while True:
            divided = [packs(self.rows, part, self.most) for part in parts]
            try:
                return self._backward(trainer, model, step, divided)
            except RuntimeError as error:  # what follows drops the traceback, and with it the tensors of the pass
                if not is_out_of_memory(error):
                    raise
                why = str(error).splitlines()[0]
            _forget(model)
            self._smaller(model, divided[self._world.rank], why)

    def bundles(self, divided: list[list[list[int]]]) -> list[list[R]]:
        """The rows of each pass of this process. `divided`: the packs of every process."""
        own: list[Any] = [[self.rows[index] for index in pack] for pack in divided[self._world.rank]]
        return own or [_nothing(self.rows[0])]

    def loss(self, trainer: Any, model: Any, bundle: list[R], step: Step) -> Any:
        """A pass's part of the step's loss."""
        return model(**pack_tensors(bundle, trainer.args.device)) / step.trained  # type: ignore[arg-type]

    def _backward(self, trainer: Any, model: Any, step: Step, divided: list[list[list[int]]]) -> Any:
        """Several processes average their gradients once, at the last pass."""
        import torch

        loss = torch.zeros((), device=trainer.args.device)
        bundles = self.bundles(divided)
        for place, bundle in enumerate(bundles):
            last = place == len(bundles) - 1
            with nullcontext() if last else trainer.accelerator.no_sync(model):
                with trainer.compute_loss_context_manager():
                    part = self.loss(trainer, model, bundle, step) * self._world.size
                trainer.accelerator.backward(part)
            loss += part.detach()
        return loss

    def _smaller(self, model: Any, divided: list[list[int]], why: str) -> None:
        """Halve the pass; for rows that are alone already, compute their activations again."""
        if self._world.size > 1:
            remedy = f"Give --pass-tokens {self.most // 2}, or --checkpointing on"
            raise UserError(f"out of memory in process {self._world.rank} ({why})", "train", remedy)
        largest = max(sum(self.rows[i].length for i in pack) for pack in divided)
        if any(len(pack) > 1 for pack in divided):
            self.most = max(1, largest // 2)
            self._say(f"out of memory: passes of at most {self.most:,} tokens from here on; steps stay the same")
            return
        inner = getattr(model, "module", model)
        if not getattr(inner, "is_gradient_checkpointing", False):
            recompute(inner)
            self._say("out of memory with one row a pass: gradient checkpointing is on from here on")
            return
        remedy = "Lower --max-length, give --quantize 4bit, or use a larger machine"
        raise UserError(f"a row of {largest:,} tokens does not fit the memory ({why})", "train", remedy)


def recompute(model: Any) -> None:
    """Turn gradient checkpointing on."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()


def is_out_of_memory(error: RuntimeError) -> bool:
    """On a GPU, or from the CPU's allocator."""
    import torch

    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or ("allocate memory" in said and "CPUAllocator" in said)


def _forget(model: Any) -> None:
    """Drop what a failed pass has left: half a gradient, and on a GPU its cache."""
    import gc

    import torch

    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing(row: Any) -> list[Tokens]:
    """A pass without loss, for a process that got no row: the others wait for its gradient."""
    return [Tokens(row.input_ids[:2], (Span(0, 1, 1),))]
