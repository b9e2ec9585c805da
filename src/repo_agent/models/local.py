"""`local:BASE[+ADAPTER]`: a transformers model with an optional PEFT adapter, in this process.

Concurrent requests are batched in one worker thread (see `batch`), which alone touches the weights.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import ids_hash
from repo_agent.chat.weights import SMALL, free_memory, load_weights, with_adapter
from repo_agent.errors import InfraError, UserError, boundary
from repo_agent.messages import Usage, key_of
from repo_agent.models import LARGE, Ask, Completion, Request
from repo_agent.models.batch import Batch, Row, Text
from repo_agent.models.calls import taken_apart
from repo_agent.models.constrain import Grammars

MOST_ROWS = {"cuda": 128, "cpu": 32}
"""Replies that run at once: a step of a GPU takes hardly longer for more rows."""
_SHARE = 0.7
"""Of the free memory; the rest is for what a forward pass needs beside keys and values."""


def free_room() -> int | None:
    """Bytes that the keys and values of running replies may take; None where nothing says what is free."""
    free = free_memory()
    return None if free is None else int(_SHARE * free)


class LocalModel:
    """A model in this process; on cuda where there is one; its precision is by default `usual_dtype`.

    Raises UserError when the base or the adapter is not there, or the two do not fit.
    """

    def __init__(
        self,
        base: str,
        adapter: Path | None = None,
        *,
        name: str,
        device: str | None = None,
        dtype: str | None = None,
        max_batch: int | None = None,
        room: int | None = None,
    ) -> None:
        """`max_batch`: replies that run at once, by default `MOST_ROWS`. `room`: bytes for their keys and values; by
        default a share of the memory that is free once the weights are there. A reply that would need more waits until
        others have ended."""
        self.name = name
        self._renderer = Renderer(load_tokenizer(base))
        self._with_tools: dict[bytes, Renderer] = {}
        model = _load(base, adapter, device, dtype)
        tokenizer = self._renderer.tokenizer
        eos = ends_of(model, tokenizer)
        self._context: int = model.config.max_position_embeddings
        room = free_room() if room is None else room
        rows = max_batch or MOST_ROWS.get(model.device.type, MOST_ROWS["cpu"])
        self._batch = Batch(model, eos=eos, known=len(tokenizer), max_rows=rows, room=room)
        self._grammars: Grammars | None = None
        self._vocabulary: int = model.config.vocab_size
        self._eos = eos
        self._closed = False
        self._reader = ThreadPoolExecutor(1)  # a tokenizer is not made for several threads
        self._inbox: SimpleQueue[Row | Text | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._serve, name=f"model {name}", daemon=True)
        self._worker.start()

    async def complete(self, request: Request) -> Completion:
        """Draw one reply; see `models.Model`."""
        with boundary("model"):
            prompt, ids_hash = await self._prompt(request)
            room = self._context - len(prompt)
            if room < 1:
                return Completion("", "context", Usage(len(prompt), 0), ids_hash)
            row = self._row(request, prompt, room)
            if self._closed:
                raise InfraError("model", f"{self.name} is closed")
            self._inbox.put(row)
            done = await asyncio.wrap_future(row.future)
            text = self._renderer.tokenizer.decode(done.reply, clean_up_tokenization_spaces=False)
        usage = Usage(len(prompt), done.drawn)
        text, apart = (text, False) if request.tools is None else taken_apart(text)
        return Completion(
            text,
            done.finish or "",
            usage,
            prompt_ids_hash=ids_hash,
            tokenizer=self._renderer.fingerprint(),
            raw_unknown=apart,
        )

    async def constraint(self, schema: dict[str, Any], ask: Ask) -> str:
        """llguidance masks the tokens in this process; there is nothing to prove."""
        return "llguidance"

    async def nats(self, text: str) -> tuple[float, int]:
        """See `models.Reader`. The text stands alone, outside of the chat template."""
        with boundary("model"):
            ids = list(self._renderer.tokenizer(text)["input_ids"])[: self._context]
            if len(ids) < 2:
                return 0.0, 0
            if self._closed:
                raise InfraError("model", f"{self.name} is closed")
            read = Text(ids)
            self._inbox.put(read)
            return await asyncio.wrap_future(read.future), len(ids) - 1

    async def close(self) -> None:
        """End the worker; what still waits for a reply gets an InfraError."""
        self._closed = True
        self._inbox.put(None)
        self._reader.shutdown(wait=False)
        await asyncio.to_thread(self._worker.join)

    async def _prompt(self, request: Request) -> tuple[list[int], str]:
        """The prompt's token ids and their hash."""

        renderer = self._for(request.tools)

        def ids() -> tuple[list[int], str]:
            prompt = renderer.prompt_ids(request.messages)
            return prompt, ids_hash(prompt)

        if sum(len(message.content) for message in request.messages) <= LARGE:
            return ids()
        return await asyncio.get_running_loop().run_in_executor(self._reader, ids)

    def _for(self, tools: list[dict[str, Any]] | None) -> Renderer:
        """What renders prompts that show these tools beside the messages."""
        if tools is None:
            return self._renderer
        return self._with_tools.setdefault(key_of(tools), Renderer(self._renderer.tokenizer, tools))

    def _row(self, request: Request, prompt: list[int], room: int) -> Row:
        import torch

        sampling = request.sampling
        grammar = None
        if request.schema is not None:
            if self._grammars is None:
                self._grammars = Grammars(self._renderer.tokenizer, self._vocabulary, self._eos)
            grammar = self._grammars.matcher(request.schema)
        generator = torch.Generator().manual_seed(request.seed)
        return Row(prompt, min(sampling.max_tokens, room), sampling.temperature, generator, grammar)

    def _serve(self) -> None:
        """The worker: let rows in, step, hand the finished ones back, until the inbox says None."""
        import torch

        model = self._batch.model
        if model.device.type == "cpu" and model.num_parameters() < SMALL:
            torch.set_num_threads(1)
        waiting: deque[Row] = deque()
        while True:
            idle = not waiting and not self._batch.running
            while idle or not self._inbox.empty():
                row = self._inbox.get()
                if row is None:
                    return _fail([*waiting, *self._batch.clear()], InfraError("model", f"{self.name} is closed"))
                if isinstance(row, Text):
                    self._read(row)
                    continue
                waiting.append(row)
                idle = False
            try:
                with boundary("model"), torch.inference_mode():
                    self._turn(waiting)
            except InfraError as error:
                _fail(self._batch.clear(), error)

    def _read(self, text: Text) -> None:
        import torch

        if not text.future.set_running_or_notify_cancel():
            return
        try:
            with boundary("model"), torch.inference_mode():
                text.future.set_result(self._batch.nats(text.ids))
        except InfraError as error:
            text.future.set_exception(error)

    def _turn(self, waiting: deque[Row]) -> None:
        while waiting and self._batch.takes(waiting[0]):
            self._batch.admit(waiting.popleft())
        for row in self._batch.leave():
            _answer(row.future, row)
        self._batch.step()
        for row in self._batch.leave():
            _answer(row.future, row)


def _answer(future: Future[Row], row: Row) -> None:
    # False where the asker has gone; from True on it cannot go.
    if future.set_running_or_notify_cancel():
        future.set_result(row)


def _fail(rows: list[Row], error: InfraError) -> None:
    for row in rows:
        if row.future.set_running_or_notify_cancel():
            row.future.set_exception(error)


def _load(base: str, adapter: Path | None, device: str | None, dtype: str | None) -> Any:
    """The base with its adapter, in evaluation mode."""
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise UserError("no adapter there", str(adapter), "Give a directory that `repo-agent train` wrote")
    model = load_weights(base, device, dtype)
    return (model if adapter is None else _adapt(model, adapter, base)).eval()


def _adapt(model: Any, adapter: Path, base: str) -> Any:
    import torch

    adapted = with_adapter(model, adapter, base)
    # Merged, float32 is faster and the same; bfloat16 would round small updates away.
    return adapted.merge_and_unload() if model.dtype == torch.float32 else adapted


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a turn; the tokenizer's own first."""
    said = model.generation_config.eos_token_id
    more = said if isinstance(said, list) else [said]
    return list(dict.fromkeys(token for token in [tokenizer.eos_token_id, *more] if token is not None))
