"""Continuous batching: replies join the running batch at any step and leave it when they end.

The keys and values of a conversation lie in one slot, token i in column i. A row that joins or leaves moves no other
row, and the next turn of a rollout finds its past in the slot, so only the new tokens are read. Rows share nothing but
the matrix products: each draws with its own generator, so its reply does not depend on who else is in the batch
(up to the rounding of those products, about 1e-7 in float32).

Not covered: models with sliding-window attention or a recurrent state.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

CHUNK = 256
"""The store grows by this many columns at a time."""


@dataclass(eq=False)
class Row:
    """One reply being written. `finish` is None while it runs, then `stop` or `length`."""

    prompt: list[int]
    limit: int
    """The most tokens that the reply may have."""
    temperature: float
    generator: Any
    """A torch.Generator on the CPU, this row's own."""
    grammar: Any = None
    """An llguidance matcher that says which token may come next, or None."""
    future: Future[Row] = field(default_factory=Future)
    reply: list[int] = field(default_factory=list)
    """The tokens drawn, without the one that ends the turn."""
    drawn: int = 0
    slot: int = -1
    finish: str | None = None


@dataclass(eq=False)
class Text:
    """A text to be read, without a reply. The future brings the nats of its tokens, the first left out."""

    ids: list[int]
    future: Future[float] = field(default_factory=Future)


class Slots:
    """Keys and values by slot and column, with the `update` that transformers' attention layers call.

    One pair of tensors a layer, each (slots, heads, columns, head size).
    """

    is_compileable = False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ids: list[list[int]] = []
        """The tokens whose keys and values each slot holds."""
        self.free: list[int] = []
        """Slots without a running row, the longest unused first."""
        self._layers: dict[int, list[Any]] = {}

    def take(self, prompt: list[int]) -> tuple[int, int]:
        """A free slot for a prompt, and how many of its tokens the slot holds already."""
        shared = [_shared(held, prompt) for held in self.ids]
        donor = max(range(len(shared)), key=shared.__getitem__, default=-1)
        if donor in self.free and shared[donor] == len(self.ids[donor]):
            slot = donor
        else:
            slot = self.free[0] if self.free else self._add()
            if donor >= 0 and donor != slot:
                for pair in self._layers.values():
                    for held in pair:
                        held[slot, :, : shared[donor]] = held[donor, :, : shared[donor]]
        kept = shared[donor] if donor >= 0 else 0
        self.free = [other for other in self.free if other != slot]
        self.ids[slot] = prompt[:kept]
        return slot, kept

    def bytes_with(self, joining: bool, width: int) -> int:
        """What all keys and values take once each row may have `width` columns, and one more row has joined.

        0 before the first forward pass.
        """
        count = len(self.ids) + (joining and not self.free)
        slots, columns, each = 1, -(-width // CHUNK) * CHUNK, 0
        for keys, values in self._layers.values():
            slots, columns = max(slots, keys.shape[0]), max(columns, keys.shape[2])
            each += sum(held.shape[1] * held.shape[3] * held.element_size() for held in (keys, values))
        while slots < count:
            slots *= 2
        return min(slots, self.limit) * columns * each

    def place(self, first: int, columns: Any, width: int) -> None:
        """Say where the next forward pass writes: slots from `first` on, `columns` (rows, tokens) below `width`."""
        import torch

        self._first, self._columns, self._width = first, columns, width
        self._rows = torch.arange(len(columns), device=columns.device)[:, None]

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Store new keys and values, each (rows, heads, tokens, head size); returns all that the rows hold."""
        if layer not in self._layers or self._layers[layer][0].shape[2] < self._width:
            self._grow(layer, keys, self._width)
        found = []
        for held, new in zip(self._layers[layer], (keys, values), strict=True):
            part = held[self._first : self._first + len(new)]
            part[self._rows, :, self._columns] = new.transpose(1, 2)
            found.append(part[:, :, : self._width])
        return found[0], found[1]

    def get_seq_length(self, layer: int = 0) -> int:
        return self._width

    def _add(self) -> int:
        self.ids.append([])
        for layer, pair in self._layers.items():
            if pair[0].shape[0] < len(self.ids):
                self._grow(layer, pair[0], pair[0].shape[2])
        return len(self.ids) - 1

    def _grow(self, layer: int, like: Any, width: int) -> None:
        """Make room for all slots and `width` columns; slots double, columns grow by CHUNK."""
        old = self._layers.get(layer)
        slots = old[0].shape[0] if old else 1
        while slots < len(self.ids):
            slots *= 2
        shape = (min(slots, self.limit), like.shape[1], -(-width // CHUNK) * CHUNK, like.shape[3])
        fresh = [like.new_zeros(shape), like.new_zeros(shape)]
        for held, new in zip(old or [], fresh, strict=False):
            new[: held.shape[0], :, : held.shape[2]] = held
        self._layers[layer] = fresh


class Batch:
    """The running rows of one causal language model. Not thread-safe: one thread admits and steps."""

    def __init__(self, model: Any, *, eos: Sequence[int], known: int, max_rows: int, room: int | None = None) -> None:
        self.model, self.eos, self.known, self.max_rows = model, frozenset(eos), known, max_rows
        """`known`: token ids from here on stand for nothing (a padded vocabulary) and are never drawn."""
        self.room = room
        """Bytes that keys and values may take; a row that runs alone may take more."""
        self.running: list[Row] = []
        self.slots = Slots(max_rows)

    @property
    def full(self) -> bool:
        return len(self.running) >= self.max_rows

    def takes(self, row: Row) -> bool:
        """Whether a row may join now: a row is free, and memory holds all replies at their full length."""
        return not self.full and (not self.running or self._fits([*self.running, row], joining=True))

    def _fits(self, rows: Sequence[Row], *, joining: bool) -> bool:
        width = max(len(row.prompt) + row.limit for row in rows)
        return self.room is None or self.slots.bytes_with(joining, width) <= self.room

    def admit(self, row: Row) -> None:
        """Read a row's prompt and draw its first token."""
        if not self.running and not self._fits([row], joining=False):
            self.slots = Slots(self.max_rows)  # many short rows have left more than one long one may have
        self.running.append(row)
        row.slot, kept = self.slots.take(row.prompt)
        logits = self._forward(row.slot, [row.prompt[kept:]], [kept])
        self.slots.ids[row.slot] = list(row.prompt)
        self._draw([row], logits)

    def step(self) -> None:
        """One token for every running row."""
        if not self.running:
            return
        first = min(row.slot for row in self.running)
        last = max(row.slot for row in self.running)
        by_slot = {row.slot: row for row in self.running}
        # An idle slot between running ones is computed along: its token lands behind what the slot holds.
        tokens = [[by_slot[slot].reply[-1] if slot in by_slot else 0] for slot in range(first, last + 1)]
        logits = self._forward(first, tokens, [len(ids) for ids in self.slots.ids[first : last + 1]])
        for row in self.running:
            self.slots.ids[row.slot].append(row.reply[-1])
        self._draw(self.running, logits[[row.slot - first for row in self.running]])

    def nats(self, ids: list[int]) -> float:
        """The summed negative log-likelihood of these tokens, the first left out; no slot is touched."""
        import torch

        tokens = torch.tensor([ids], device=self.model.device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[0, :-1].double()
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))

    def leave(self) -> list[Row]:
        """Take the rows that have ended, or that nobody waits for, out of the batch."""
        gone = [row for row in self.running if row.finish or row.future.cancelled()]
        self.running = [row for row in self.running if row not in gone]
        self.slots.free += [row.slot for row in gone]
        return gone

    def clear(self) -> list[Row]:
        """Forget everything after a failure; returns the rows that were running."""
        gone, self.running = self.running, []
        self.slots = Slots(self.max_rows)
        return gone

    def _forward(self, first: int, ids: list[list[int]], starts: list[int]) -> Any:
        """Run `ids` (rows of equal length) in the slots from `first` on, each from its start column.

        Returns the last token's logits, float64 (rows, vocabulary).
        """
        import torch

        device = self.model.device
        tokens = torch.tensor(ids, device=device)
        columns = torch.tensor(starts, device=device)[:, None] + torch.arange(tokens.shape[1], device=device)
        width = max(starts) + tokens.shape[1]
        seen = torch.arange(width, device=device) <= columns[..., None]
        self.slots.place(first, columns, width)
        logits = self.model(
            input_ids=tokens,
            position_ids=columns,
            attention_mask=seen[:, None],
            past_key_values=self.slots,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1].double()

    def _draw(self, rows: list[Row], logits: Any) -> None:
        """Draw each row's next token and end the rows that are done."""
        logits[:, self.known :] = float("-inf")
        _constrain(rows, logits)
        for row, token in zip(rows, _sample(rows, logits), strict=True):
            row.drawn += 1
            if token in self.eos:
                row.finish = "stop"
                continue
            row.reply.append(token)
            if row.grammar is not None and not row.grammar.consume_token(token):
                raise RuntimeError(f"the grammar failed: {row.grammar.get_error()}")
            if row.drawn >= row.limit:
                row.finish = "length"


def _shared(held: list[int], prompt: list[int]) -> int:
    """The length of the common prefix, short of the prompt's last token, which must always be read."""
    end = min(len(held), len(prompt) - 1)
    if held[:end] == prompt[:end]:
        return end
    return next(index for index, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b)


def _constrain(rows: list[Row], logits: Any) -> None:
    """Forbid, in place, what the grammars of constrained rows do not allow."""
    import torch

    places = [place for place, row in enumerate(rows) if row.grammar is not None]
    if not places:
        return
    masks = bytearray(b"".join(rows[place].grammar.compute_bitmask() for place in places))
    words = torch.frombuffer(masks, dtype=torch.int32).view(len(places), -1).to(logits.device)
    bits = (words[..., None] >> torch.arange(32, device=logits.device)) & 1
    logits[places] = logits[places].masked_fill(bits.flatten(1)[:, : logits.shape[1]] == 0, float("-inf"))


def _sample(rows: list[Row], logits: Any) -> list[int]:
    """One token a row from softmax(logits / temperature) by inversion; temperature 0 takes the likeliest."""
    import torch

    heat = torch.tensor([[row.temperature or 1.0] for row in rows], dtype=torch.float64)
    drawn = torch.stack([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
    mass = torch.softmax(logits / heat.to(logits.device), -1).cumsum(-1)
    # right=True skips tokens of no mass, also when 0 is drawn.
    sampled = torch.searchsorted(mass, drawn.to(logits.device) * mass[:, -1:], right=True)[:, 0].tolist()
    likeliest = logits.argmax(-1).tolist()
    return [best if row.temperature == 0 else token for row, token, best in zip(rows, sampled, likeliest, strict=True)]
