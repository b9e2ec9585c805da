"""Models behind servers: retries, stops, keys, limits, native calls and the canary, against a server that fails."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fault_server import TRANSIENT, FaultServer, said

from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.models import Completion, Request, Sampling
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.resolve import open_model
from repo_agent.models.retry import Patience, retry_after
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.live import EvalOptions, run_eval
from repo_agent.tools.files import default_registry

REGISTRY = default_registry()
QUICK = Patience(tries=3, first_wait=0.01, longest_wait=0.02, request_seconds=0.3, total_seconds=5)
TALK = (Message("system", "Be brief."), Message("user", "hello"))
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY", "REPO_AGENT_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def ask(seed: int = 4, *, tokens: int = 24, schema: Any = None, tools: Any = None, talk: Any = TALK) -> Request:
    return Request(talk, Sampling(0.7, tokens), seed, schema, tools)


def reply(server: FaultServer, request: Request | None = None, patience: Patience = QUICK) -> Completion:
    async def one() -> Completion:
        model = OpenAIChat("m", server.url, patience)
        try:
            return await model.complete(request or ask())
        finally:
            await model.close()

    return asyncio.run(one())


def test_every_transient_fault_is_cured_by_another_try() -> None:
    def answer(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        return said("whole") if seen else body["model"]

    async def every() -> list[Completion]:
        models = [OpenAIChat(fault, server.url, QUICK) for fault in TRANSIENT]
        return await asyncio.gather(*[model.complete(ask()) for model in models])

    with FaultServer(answer) as server:
        done = asyncio.run(every())
    assert [answer.text for answer in done] == ["whole"] * len(TRANSIENT)
    assert [answer.served and answer.served.tries for answer in done] == [2] * len(TRANSIENT)
    assert set(server.faults) == set(TRANSIENT)


def test_tries_and_time_are_bounded_and_the_cause_is_told() -> None:
    for fault, cause in (
        ("503", "503 - told to fail"),
        ("hang", "no whole answer within 0.3 s"),
        ("reset", "ReadError"),
    ):
        with FaultServer(lambda body, seen, fault=fault: fault) as server, pytest.raises(InfraError) as caught:
            reply(server, patience=Patience(2, 0.01, 0.01, 0.3, 5))
        assert caught.value.stage == "model" and cause in str(caught.value) and len(server.asked) == 2
    started = time.monotonic()
    with FaultServer(lambda body, seen: "slow drip") as server, pytest.raises(InfraError, match="gave up after"):
        reply(server, patience=Patience(50, 0.01, 0.01, 0.2, 0.5))
    assert time.monotonic() - started < 15  # not 50 tries of 0.2 s and their pauses


def test_retry_after_is_obeyed_and_one_beyond_the_bound_ends_it_at_once() -> None:
    with FaultServer(lambda body, seen: said() if seen else "429", retry_after="0.2") as server:
        reply(server)
    (first, *_), (second, *_) = server.asked
    assert second - first >= 0.2
    with FaultServer(lambda body, seen: "429", retry_after="120") as server, pytest.raises(InfraError, match="429"):
        reply(server)
    assert len(server.asked) == 1


def test_retry_after_is_seconds_milliseconds_or_a_date() -> None:
    assert retry_after({"retry-after": "7"}) == 7 and retry_after({"retry-after-ms": "250"}) == 0.25
    assert 8 < (retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) or 0) <= 10
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0


@pytest.mark.parametrize("status", ["401", "402", "403", "404"])
def test_what_no_retry_cures_is_a_user_error_at_the_first_try(status: str) -> None:
    with FaultServer(lambda body, seen: status) as server, pytest.raises(UserError, match=status):
        reply(server)
    assert len(server.asked) == 1


def test_a_spent_quota_is_no_rate_limit_and_a_bad_request_is_not_repeated() -> None:
    spent = {"message": "x", "code": "insufficient_quota"}
    with FaultServer(lambda body, seen: "429", error=spent) as server, pytest.raises(UserError, match="credit"):
        reply(server)
    with FaultServer(lambda body, seen: "422") as other, pytest.raises(InfraError, match="422 - told to fail"):
        reply(other)
    assert len(server.asked) == len(other.asked) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("400", {"message": "too long", "code": "context_length_exceeded"}),
        ("400", {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"}),
        ("400", {"message": "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
                 "type": "exceed_context_size_error", "n_ctx": 4096}),
        ("500", {"message": "Context size has been exceeded.", "type": "server_error"}),
        ("400", {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}),
        ("422", {"message": "`inputs` tokens + `max_new_tokens` must be <= 32769. Given: 33000"}),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_a_limit(status: str, error: dict[str, Any]) -> None:
    with FaultServer(lambda body, seen: status, error=error) as server:
        assert (reply(server).text, reply(server).finish_reason) == ("", "context")


def test_a_reply_of_as_many_tokens_as_the_cap_is_cut_whatever_the_server_says() -> None:
    with FaultServer(lambda body, seen: said("x", finish="stop", tokens=24)) as server:
        assert reply(server).finish_reason == "length"
        assert reply(server, ask(tokens=25)).finish_reason == "stop"
    with FaultServer(lambda body, seen: said("x", finish="length")) as server:
        assert reply(server).finish_reason == "length"


def test_what_the_server_said_is_kept_and_what_it_left_out_is_none() -> None:
    bare = {"choices": [{"message": {"content": "half an \ud83d"}}]}
    with FaultServer(lambda body, seen: said("x") if body["seed"] == 4 else bare) as server:
        whole, sparse = reply(server), reply(server, ask(5))
    assert whole.served and (whole.served.finish_reason, whole.served.model) == ("stop", "served-model")
    assert whole.served.system_fingerprint == "fp_7"
    assert sparse.served and (sparse.served.finish_reason, sparse.served.model) == (None, None)
    assert sparse.text == "half an ?" and sparse.usage.completion_tokens is None


def test_native_calls_come_in_as_text_and_go_back_as_they_were() -> None:
    spaced = '{"rel_path":  "a.py", "max_chars": 9}'
    native = PROTOCOLS["native"]
    with FaultServer(lambda body, seen: said(None, [("read_file", spaced)])) as server:
        first = reply(server, ask(tools=REGISTRY.schemas()))
        answer = native.reply(first.text)
        reply(server, ask(talk=(*TALK, answer, *native.observe(answer, "x = 1")), tools=REGISTRY.schemas()))
        free = reply(server)
    assert first.raw_unknown and native.parse(first.text).call == ToolCall("read_file", json.loads(spaced))
    body = server.asked[1][1]
    assert body["tools"] == REGISTRY.schemas() and "tools" not in server.asked[2][1]
    call, result = body["messages"][2:]
    assert call["tool_calls"][0]["function"] == {"name": "read_file", "arguments": spaced}
    assert result == {"role": "tool", "content": "x = 1", "tool_call_id": call["tool_calls"][0]["id"]}
    assert free.raw_unknown and PROTOCOLS["hermes"].parse(free.text).call == ToolCall("read_file", json.loads(spaced))


def test_several_calls_are_answered_each_and_broken_ones_stay_text() -> None:
    native = PROTOCOLS["native"]
    with FaultServer(lambda body, seen: said("two", [("a", "{}"), ("b", "{}")])) as server:
        two = native.reply(reply(server, ask(tools=[])).text)
    assert [message.role for message in native.observe(two, "one, please")] == ["tool", "tool"]
    with FaultServer(lambda body, seen: said("see", [("a", '{"x": ')])) as server:
        broken = native.reply(reply(server, ask(tools=[])).text)
    assert broken.tool_calls == () and '{\\"x\\": ' in broken.content and broken.content.startswith("see\n")
    assert [message.role for message in native.observe(broken, "no")] == ["user"]


def _holding(way: str) -> Any:
    """A server that obeys a schema in one way, and where it does not says what it was asked for."""

    def answer(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        held = body.get("structured_outputs", {}).get("json") if way == "structured_outputs" else None
        if way == "response_format":
            held = body.get("response_format", {}).get("json_schema", {}).get("schema")
        if held is None:
            return said("hello")
        return said('{"colour":"zinnwaldite"}' if "properties" in held else '{"type":"final","summary":"hello"}')

    return answer


@pytest.mark.parametrize("way", ["response_format", "structured_outputs"])
def test_the_canary_finds_the_way_that_holds(way: str) -> None:
    schema = PROTOCOLS["json"].schema(REGISTRY) or {}

    async def story(model: OpenAIChat) -> str:
        found = await model.constraint(schema, model.complete)
        await model.complete(ask(schema=schema))
        return found

    with FaultServer(_holding(way)) as server:
        assert asyncio.run(story(OpenAIChat("m", server.url, QUICK))) == way
    assert way in server.asked[-1][1]


def test_a_server_that_holds_nothing_is_refused_with_what_was_tried() -> None:
    def refuses_large(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        held = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        return said('{"colour":"zinnwaldite"}') if "properties" in held else "400"

    for answer, cause in ((lambda body, seen: said("hello"), "canary got 'hello'"), (refuses_large, "400")):
        with FaultServer(answer) as server, pytest.raises(UserError) as caught:
            model = OpenAIChat("m", server.url, QUICK)
            asyncio.run(model.constraint({"anyOf": []}, model.complete))
        assert cause in str(caught.value) and "structured_outputs: " in str(caught.value)


def test_presets_take_their_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="TOGETHER_API_KEY"):
        open_model("together:Qwen/Qwen2.5-72B-Instruct-Turbo")
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    model = open_model("together:Qwen/Qwen2.5-72B-Instruct-Turbo")
    assert isinstance(model, OpenAIChat) and str(model._client.base_url) == "https://api.together.xyz/v1/"
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        open_model("openai:gpt-4.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    gpt = open_model("openai:gpt-4.1")
    assert isinstance(gpt, OpenAIChat) and "max_completion_tokens" in gpt._body(ask())


def test_a_key_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    monkeypatch.setenv("REPO_AGENT_KEY_FILE", str(path))
    with pytest.raises(UserError, match="cannot be read"):
        open_model("openai:gpt-4.1")
    path.write_text("two words\n")
    with pytest.raises(UserError, match="no single key") as caught:
        open_model("openai:gpt-4.1")
    assert "two words" not in str(caught.value)
    path.write_text(KEY + "\n")
    with FaultServer(lambda body, seen: said("x")) as server:
        reply(server)
    assert server.asked[0][2] == KEY


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@h/v1",
        f"https://{KEY}@h/v1",
        f"https://h/v1?key={KEY}",
        f"ftp://{KEY}@h",
        f"https://h/#{KEY}",
        f"h:81/v1?key={KEY}",
        f"localhost/v1?key={KEY}",
        f"h.example.com/v1?key={KEY}",
    ],
)
def test_a_key_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_model(f"openai:m@{url}")
    assert KEY not in str(caught.value)


def _options(out: Path, server: FaultServer, **more: Any) -> EvalOptions:
    return EvalOptions(suite="micro", split="held-out", held_out=2, model=f"openai:m@{server.url}", out=out,
                       tests="never", **more)  # fmt: skip


def _kept(out: Path) -> str:
    return "".join(path.read_text() for path in out.rglob("*") if path.is_file())


def test_no_file_of_a_run_holds_the_key_though_the_server_repeats_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    error = {"message": "what is {key}, and https://u:{key}@h/?k={key}?"}
    with FaultServer(lambda body, seen: "422", error=error) as server:
        result = run_eval(_options(tmp_path / "run", server))
    kept = _kept(tmp_path / "run")
    assert result["pending"] == 2 and {key for _, _, key in server.asked} == {KEY}
    assert KEY not in kept and "what is [key]" in kept


def test_a_reply_that_repeats_the_key_is_masked_before_anything_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = "odd/shape+without-digits"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    quoted = quote(key, safe="")
    call = {"type": "tool_call", "name": "read_file", "args": {"rel_path": f"{key}/{quoted}", "max_chars": 9}}
    told = {**said(json.dumps(call)), "model": f"m {key}", "system_fingerprint": quoted}
    with FaultServer(lambda body, seen: told) as server:
        run_eval(_options(tmp_path / "run", server, max_steps=2))
    kept = _kept(tmp_path / "run")
    assert key not in kept and quoted not in kept and "[key]/[key]" in kept and "m [key]" in kept


def test_a_refused_key_stops_the_run_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refuses = FaultServer(lambda body, seen: "401", error={"message": "bad key {key}"})
    with refuses as server, pytest.raises(UserError, match=r"refused the key \(401\)") as caught:
        run_eval(_options(tmp_path / "run", server, rollouts=20, jobs=1))
    assert len(server.asked) == 1 and KEY not in str(caught.value) + _kept(tmp_path / "run")


@pytest.mark.parametrize("wire", ["native", "json"])
def test_a_run_records_seed_service_and_constraint(tmp_path: Path, wire: str) -> None:
    def answer(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        held = body.get("response_format", {}).get("json_schema", {}).get("schema")
        if held is not None and "properties" in held:
            return said('{"colour":"zinnwaldite"}')
        args = {"rel_dir": ".", "max_files": 9}
        if "tools" in body:
            return said("", [("list_files", json.dumps(args))]) if len(body["messages"]) < 3 else said("done")
        call = {"type": "tool_call", "name": "list_files", "args": args}
        return said(json.dumps(call) if len(body["messages"]) < 3 else '{"type":"final","summary":"done"}')

    with FaultServer(answer) as server:
        result = run_eval(_options(tmp_path / "run", server, protocol=wire, constrain=wire == "json"))
    assert result["turns"] == {"ok": 2, "final": 2}
    trace = next((tmp_path / "run" / "traces").rglob("*.jsonl"))
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    first = next(line for line in lines if line["kind"] == "llm_action")
    assert lines[0]["constraint"] == ("response_format" if wire == "json" else None)
    assert first["served"] == {"finish_reason": "tool_calls" if wire == "native" else "stop", "model": "served-model",
                               "system_fingerprint": "fp_7", "tries": 1}  # fmt: skip
    assert first["seed"] in {body["seed"] for _, body, _ in server.asked}
    assert first.get("raw_unknown", False) == (wire == "native")


def test_a_server_that_holds_nothing_leaves_no_run_behind(tmp_path: Path) -> None:
    with FaultServer(lambda body, seen: said("hello")) as server, pytest.raises(UserError, match="does not hold"):
        run_eval(_options(tmp_path / "run", server, constrain=True))
    assert not (tmp_path / "run").exists()


def test_what_cannot_run_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    common: dict[str, Any] = {"suite": "micro", "split": "held-out", "out": tmp_path / "run"}
    for more, cause in (
        ({"model": "local:tiny", "protocol": "native", "constrain": True}, "--protocol json"),
        ({"model": "local:tiny", "protocol": "hermes", "constrain": True}, "--protocol json"),
    ):
        with pytest.raises(UserError, match=cause):
            run_eval(EvalOptions(**common, **more))
