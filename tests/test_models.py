"""Models: the batched local one on random weights, constrained replies, and a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import ids_hash
from repo_agent.chat.weights import load_weights
from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Message
from repo_agent.models import LARGE, Completion, Request, Sampling
from repo_agent.models.batch import Batch, Row
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.resolve import open_model
from repo_agent.models.retry import Patience
from repo_agent.protocols.json_object import JsonObject
from repo_agent.tools.files import default_registry
from repo_agent.tools.verdict import judge
from repo_agent.train.sizes import config_of

REGISTRY = default_registry()


def ask(seed: int, *, tokens: int = 24, temperature: float = 0.7, schema: Any = None, goal: str = "") -> Request:
    """A request whose prompt length differs from seed to seed."""
    talk = (Message("system", "Be brief."), Message("user", goal or f"GOAL: {'fix it ' * (seed % 5 + 1)}{seed}"))
    return Request(talk, Sampling(temperature, tokens), seed, schema)


def answers(model: Any, requests: list[Request], jobs: int) -> list[Completion]:
    async def one(request: Request, gate: asyncio.Semaphore) -> Completion:
        async with gate:
            return await model.complete(request)

    async def every() -> list[Completion]:
        gate = asyncio.Semaphore(jobs)
        return await asyncio.wait_for(asyncio.gather(*[one(request, gate) for request in requests]), 60)

    return asyncio.run(every())


@pytest.fixture(scope="module")
def local(tiny_base: Path) -> Iterator[Any]:
    from repo_agent.models.local import LocalModel

    model = LocalModel(str(tiny_base), name="local:tiny", max_batch=4)
    yield model
    asyncio.run(model.close())


def test_greedy_decoding_matches_transformers_generate(local: Any) -> None:
    import torch

    requests = [ask(seed, temperature=0) for seed in range(6)]
    for request, answer in zip(requests, answers(local, requests, 6), strict=True):
        ids = torch.tensor([local._renderer.prompt_ids(request.messages)])
        whole = local._batch.model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :].tolist()
        said = whole[:-1] if answer.finish_reason == "stop" else whole
        assert answer.text == local._renderer.tokenizer.decode(said)
        assert answer.usage.prompt_tokens == ids.shape[1] and answer.usage.completion_tokens == len(whole)
        assert answer.prompt_ids_hash == ids_hash(ids[0].tolist())
        assert answer.tokenizer == local._renderer.fingerprint()


@pytest.mark.parametrize("room", [None, 1, 2, 5])
def test_keys_and_values_stay_within_the_room_that_there_is(room: int | None, tiny_base: Path) -> None:
    """`room` in rows of 512 columns. The rows' lengths differ, and so does what they have left behind."""
    import torch

    model = load_weights(str(tiny_base), "cpu").eval()
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    each = config.num_hidden_layers * 2 * config.num_key_value_heads * size * 4  # bytes of a column
    lengths = [(40, 20), (100, 60), (20, 300), (30, 30), (400, 80), (200, 200), (30, 30), (50, 5), (300, 180)]

    def rows() -> list[Row]:
        generator = torch.Generator().manual_seed(0)
        prompts = [torch.randint(5, 300, (length,), generator=generator).tolist() for length, _ in lengths]
        return [
            Row(prompt, limit, 0.8, torch.Generator().manual_seed(n))
            for n, (prompt, (_, limit)) in enumerate(zip(prompts, lengths, strict=True))
        ]

    def play(batch: Batch) -> tuple[list[list[int]], int, int]:
        made = rows()
        waiting, most, widest = list(made), 0, 0
        while waiting or batch.running:
            while waiting and batch.takes(waiting[0]):
                batch.admit(waiting.pop(0))
            widest = max(widest, len(batch.running))
            batch.step()
            batch.leave()
            most = max(most, sum(held.nbytes for pair in batch.slots._layers.values() for held in pair))
        return [row.reply for row in made], most, widest

    with torch.inference_mode():
        plain, held, _ = play(Batch(model, eos=[], known=300, max_rows=4))
        limit = None if room is None else room * 512 * each
        said, most, widest = play(Batch(model, eos=[], known=300, max_rows=4, room=limit))
    assert held == 4 * 512 * each and said == plain
    if room is not None and limit is not None:
        assert most <= limit and min(4, room) <= widest <= 2 * room


def test_a_reply_does_not_depend_on_who_shares_the_batch(local: Any) -> None:
    # Twelve requests for four rows, of several lengths, so that rows join, wait and leave in between.
    requests = [ask(seed, tokens=8 + 7 * (seed % 4)) for seed in range(12)]
    alone = [answer.text for answer in answers(local, requests, 1)]
    assert [answer.text for answer in answers(local, requests, 8)] == alone
    assert len(set(alone)) == len(alone)


def test_the_next_turn_reads_only_what_is_new_and_says_the_same(local: Any, tiny_base: Path) -> None:
    from repo_agent.models.local import LocalModel

    first = ask(1)
    said = answers(local, [first], 1)[0].text
    talk = (*first.messages, Message("assistant", said), Message("user", "[tool_result] 1 passed"))
    second = Request(talk, first.sampling, 2)
    held = max(local._batch.slots.ids, key=len)
    reused = answers(local, [ask(9), second], 2)[1]
    fresh = LocalModel(str(tiny_base), name="fresh")
    assert answers(fresh, [second], 1)[0] == reused
    asyncio.run(fresh.close())
    assert len(held) > len(local._renderer.prompt_ids(first.messages))


def test_constrained_replies_are_valid_calls_unless_cut(local: Any) -> None:
    protocol = JsonObject()
    schema = protocol.schema(REGISTRY)
    requests = [ask(seed, tokens=1200, temperature=1.0, schema=schema) for seed in range(20)]
    # A free row among them must stay free.
    *constrained, free = answers(local, [*requests, ask(99)], 8)
    classes = [
        judge(
            protocol.parse(answer.text), REGISTRY, truncated=answer.finish_reason == "length", any_call=True
        ).turn_class
        for answer in constrained
    ]
    # No grammar cures a path out of the workspace or a pattern that does not compile.
    assert set(classes) <= {None, "final", "truncated", "bad_value"}
    assert classes.count("truncated") <= 4
    assert protocol.parse(free.text).fault
    whole = [answer.text for answer in constrained if answer.finish_reason == "stop"]
    assert all(
        text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
        for text in whole
        if "\\" not in text
    )


def test_generation_stops_at_the_token_limit_and_at_the_context(local: Any) -> None:
    cut, over = answers(local, [ask(3, tokens=2), ask(0, goal="long " * 4000)], 2)
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 2)
    assert (over.finish_reason, over.text, over.usage.completion_tokens) == ("context", "", 0)
    assert over.usage.prompt_tokens and over.usage.prompt_tokens > 4096
    fixed = len(local._renderer.prompt_ids(ask(0, goal="x").messages))
    edge = ask(0, goal="x" * (4096 - fixed - 4), tokens=99)
    [answer] = answers(local, [edge], 1)
    assert answer.finish_reason in ("length", "stop") and answer.usage.completion_tokens <= 5


def test_long_prompts_are_read_beside_the_loop_and_alike(local: Any) -> None:
    requests = [ask(seed, goal=f"{seed} " + "word " * LARGE) for seed in range(4)]
    for request, answer in zip(requests, answers(local, requests, 4), strict=True):
        ids = local._renderer.prompt_ids(request.messages)
        assert (answer.finish_reason, answer.usage.prompt_tokens) == ("context", len(ids))
        assert answer.prompt_ids_hash == ids_hash(ids)


def test_a_failure_in_the_worker_reaches_every_waiting_request(tiny_base: Path) -> None:
    from repo_agent.models.local import LocalModel

    model = LocalModel(str(tiny_base), name="local:broken", max_batch=2)
    weights, model._batch.model.lm_head.weight.data = model._batch.model.lm_head.weight.data, _wrong_shape()

    async def outcome(request: Request) -> BaseException | Completion:
        return (await asyncio.gather(model.complete(request), return_exceptions=True))[0]

    async def story() -> None:
        failed = await asyncio.wait_for(asyncio.gather(*[outcome(ask(seed)) for seed in range(5)]), 30)
        assert all(isinstance(error, InfraError) and error.stage == "model" for error in failed)
        model._batch.model.lm_head.weight.data = weights
        assert isinstance(await outcome(ask(1)), Completion)
        await model.close()
        assert isinstance(await outcome(ask(1)), InfraError)

    asyncio.run(story())


def _wrong_shape() -> Any:
    import torch

    return torch.zeros(3, 5)


def test_a_request_that_is_given_up_leaves_the_batch(local: Any) -> None:
    endless = {"type": "array", "items": {"type": "string", "minLength": 50}, "minItems": 4000}

    async def story() -> Completion:
        task = asyncio.create_task(local.complete(ask(5, tokens=4000, schema=endless)))
        while not local._batch.running:
            await asyncio.sleep(0.01)
        task.cancel()
        answer = await local.complete(ask(1))
        while local._batch.running:
            await asyncio.sleep(0.01)
        assert task.cancelled()
        return answer

    assert asyncio.run(asyncio.wait_for(story(), 10)) == answers(local, [ask(1)], 1)[0]


@pytest.mark.parametrize("spec", ["local:", "gpt-4", "openai:", "together:x@http://y", "openai:x@ftp://y", "oracle"])
def test_an_unknown_model_is_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(UserError, match=r"openai:NAME\[@BASE_URL\]"):
        open_model(spec)


def test_a_missing_base_or_adapter_is_a_user_error(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model there"):
        open_model("local:/no/such/model")
    with pytest.raises(UserError, match="no adapter there"):
        open_model(f"local:{tiny_base}+{tmp_path}")


def test_openai_without_a_key_is_refused_for_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        open_model("openai:m@https://api.example.com/v1")


class _Server(BaseHTTPRequestHandler):
    """Answers as told by the model's name: `echo`, `cut`, `full`, or an error that repeats the key."""

    bodies: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        if body["model"] == "full":
            return self._send(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
        if body["model"] == "bad":
            return self._send(422, {"error": {"message": f"what is {self.headers['Authorization']}?"}})
        reason = "length" if body["model"] == "cut" else "stop"
        message = {"role": "assistant", "content": body["messages"][-1]["content"]}
        choice = {"index": 0, "finish_reason": reason, "message": message}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return self._send(
            200,
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage},
        )

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Server.bodies.clear()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()
    httpd.server_close()


def test_openai_sends_the_request_and_reads_the_reply(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = open_model(f"openai:echo@{server}")
    schema = {"type": "object"}
    answer = asyncio.run(model.complete(ask(4, schema=schema)))
    assert (answer.text, answer.finish_reason) == (ask(4).messages[-1].content, "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.prompt_ids_hash) == (7, 3, None)
    body = _Server.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.7, 24, 4)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert asyncio.run(OpenAIChat("cut", server).complete(ask(4))).finish_reason == "length"
    assert "response_format" not in _Server.bodies[1]
    assert asyncio.run(OpenAIChat("full", server).complete(ask(4))).finish_reason == "context"


def test_openai_errors_do_not_repeat_the_key(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with pytest.raises(InfraError) as caught:
        asyncio.run(OpenAIChat("bad", server).complete(ask(4)))
    assert caught.value.stage == "model" and "422" in str(caught.value)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None
    with pytest.raises(InfraError, match="Connection"):
        asyncio.run(OpenAIChat("x", "http://127.0.0.1:9/v1", Patience(tries=1)).complete(ask(4)))


@pytest.mark.parametrize("part", ["tokenizer", "weights", "dtype", "config"])
def test_code_that_comes_with_a_base_never_runs_nor_asks_to(
    part: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ran = tmp_path / "base", tmp_path / "ran"
    shutil.copytree(tiny_base, base)
    (base / "own.py").write_text(f"open({str(ran)!r}, 'w')\nOwn = None\n")
    for name, mapped in (
        ("config.json", {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Own", "own.Own"]}),
    ):
        told = json.loads((base / name).read_text())
        told |= {"auto_map": mapped, "model_type": "own"} if name == "config.json" else {"auto_map": mapped}
        told.pop("tokenizer_class", None)
        (base / name).write_text(json.dumps(told))
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    if part == "config":
        assert config_of(str(base)) is None
    else:
        load = {"tokenizer": load_tokenizer, "weights": load_weights, "dtype": lambda base: load_weights(base, "cpu")}
        with pytest.raises(UserError):
            load[part](str(base))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_damaged_or_hostile_weights_of_an_adapter_are_one_clear_error(
    name: str, tiny_base: Path, tmp_path: Path
) -> None:
    import torch

    from repo_agent.models.local import LocalModel

    folder, ran = tmp_path / "adapter", tmp_path / "ran"
    folder.mkdir()
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    if name.endswith("bin"):
        torch.save({"a": Hostile(ran)}, folder / name)
    else:
        (folder / name).write_bytes(b"\x08" + b"\0" * 40)
    with pytest.raises(UserError, match="its weights cannot be read"):
        LocalModel(str(tiny_base), folder, name="local:damaged")
    assert not ran.exists()


class Hostile:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))
