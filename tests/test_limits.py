"""Limits against a real server: turns and tokens end a rollout, never a clock; every reply counts, long ones too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, said
from test_servers import _holding, _options

from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import Stopped, UserError
from repo_agent.messages import ToolCall
from repo_agent.models import LARGE, Sampling
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.retry import Patience
from repo_agent.models.tokens import TokenCounter
from repo_agent.protocols import PROTOCOLS, Protocol
from repo_agent.protocols.json_object import JsonObject
from repo_agent.rollout.episode import Setting, play_all
from repo_agent.rollout.live import run_eval
from repo_agent.sandbox.canary import choose
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.tools.verdict import Parsed
from repo_agent.traces.events import LlmAction, RunEnd
from repo_agent.traces.read import read_events
from repo_agent.traces.store import RunDir

JSON = PROTOCOLS["json"]
LIST = JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 9}))
FINAL = JSON.render_final("done")
PATIENT = Patience(tries=3, first_wait=0.01, longest_wait=0.02, request_seconds=120, total_seconds=240)
TASK = Task("t", "t", {"a.txt": "x\n"}, (), command=("true",))


def setting(protocol: Protocol = JSON, counter: TokenCounter | None = None, **limits: Any) -> Setting:
    more = {"counter": counter} if counter else {}
    spec = AgentSpec(default_registry(), protocol, Limits(tests="never", **limits))
    return Setting("s", "a", "m", spec, Sampling(0.0, 4096), 0, False, choose(), **more)


def rollouts(run: Path, server: FaultServer, shared: Setting, count: int = 1, jobs: int = 1) -> None:
    """Play so many rollouts of one task."""

    async def play() -> None:
        model = OpenAIChat("m", server.url, PATIENT)
        try:
            await play_all([TASK], count, lambda task, number: model, shared, RunDir.open(run, {}), jobs)
        finally:
            await model.close()

    asyncio.run(play())


def played(run: Path, server: FaultServer, shared: Setting) -> tuple[list[LlmAction], RunEnd]:
    """The turns and the end of one rollout."""
    rollouts(run, server, shared)
    log, _ = read_events(next((run / "traces").rglob("*.jsonl*")))
    assert isinstance(log[-1], RunEnd)
    return [event for event in log if isinstance(event, LlmAction)], log[-1]


def talking(*replies: Any) -> Callable[[dict[str, Any], int], dict[str, Any] | str]:
    """A server that says these in order, the last one for ever."""

    def answer(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        found: dict[str, Any] | str = replies[min(turn, len(replies) - 1)]
        return found

    return answer


# --- no clock


def test_many_jobs_on_a_slow_server_end_as_few_do(tmp_path: Path) -> None:
    """The server answers one request after another, so with 24 at once each waits for all the others."""

    def slow(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        time.sleep(0.02)
        return talking(said(LIST), said(LIST), said(FINAL))(body, seen)

    ended = {}
    for jobs in (2, 24):
        with FaultServer(slow) as server:
            rollouts(tmp_path / f"{jobs}", server, setting(), 24, jobs)
        rows = RunDir(tmp_path / f"{jobs}").rows()
        ended[jobs] = [(row["rollout"], row["ended"], row["classes"]) for row in rows]
    assert ended[2] == ended[24] and {row[1] for row in ended[24]} == {"final"} and len(ended[24]) == 24


def test_a_wait_that_the_server_asks_for_is_not_the_models(tmp_path: Path) -> None:
    def busy(body: dict[str, Any], seen: int) -> dict[str, Any] | str:
        return talking(said(LIST), said(FINAL))(body, seen) if seen else "429"

    with FaultServer(busy, retry_after="0.7") as server:
        turns, end = played(tmp_path / "run", server, setting())
    assert end.ended == "final" and [turn.served and turn.served["tries"] for turn in turns] == [2, 2]
    with FaultServer(lambda body, seen: "429", retry_after="7200") as server:
        result = run_eval(_options(tmp_path / "late", server))
    assert result["pending"] == 2 and result["rollouts"] == 0 and len(list((tmp_path / "late/errors").rglob("*.jsonl")))


# --- tokens


@pytest.mark.parametrize(
    ("usage", "prompt", "tokens"),
    [
        (None, None, None),
        ({}, None, None),
        ({"prompt_tokens": 7}, 7, None),
        ({"completion_tokens": 3}, None, 3),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None, None),
        ({"prompt_tokens": 7, "completion_tokens": -3}, 7, None),
        ({"prompt_tokens": True, "completion_tokens": "3"}, None, None),
    ],
)
def test_what_usage_does_not_say_is_counted_by_characters(
    tmp_path: Path, usage: Any, prompt: int | None, tokens: int | None
) -> None:
    answer = talking(said(LIST, usage=usage), said(LIST), said(LIST, usage=usage))
    with FaultServer(answer) as server:
        turns, end = played(tmp_path / "run", server, setting(max_completion_tokens=60))
    a_reply = tokens or -(-len(LIST) // 4)
    seen = [(turn.prompt_tokens, turn.completion_tokens, turn.counted_by) for turn in turns]
    by = None if tokens else "characters"
    assert seen[:3] == [(prompt, tokens, by), (7, 3, None), (prompt, tokens, by)]
    assert end.completion_tokens == (None if tokens is None else 3 * end.steps)
    assert end.ended == ("max_steps" if tokens else "max_tokens") and (tokens or end.steps == -(-57 // a_reply) + 1)


def test_the_tokenizer_counts_where_the_base_is_known_and_here(tmp_path: Path, tiny_base: Path) -> None:
    from repo_agent.chat.tokenizer import load_tokenizer

    counter, text = TokenCounter(str(tiny_base)), LIST * 3
    assert counter.count(text) == (len(load_tokenizer(str(tiny_base))(text)["input_ids"]), "tokenizer")
    assert TokenCounter(str(tmp_path / "gone")).count("x" * 9) == (3, "characters")
    with FaultServer(talking(said(LIST, usage=None), said(FINAL, usage=None))) as server:
        turns, _ = played(tmp_path / "run", server, setting(counter=counter))
    assert [turn.counted_by for turn in turns] == ["tokenizer", "tokenizer"]


# --- long replies


def long_reply(kind: str, characters: int) -> str:
    if kind == "text":
        return "word " * (characters // 5)
    if kind == "open braces":
        return "{" * characters
    if kind == "calls":
        return (LIST + " ") * (characters // (len(LIST) + 1))
    line = "def f(x):\n    return 'ü'\n"
    content = line * (characters // len(line))
    return JSON.render_call(ToolCall("write_file", {"rel_path": "a.txt", "content": content}))


@pytest.mark.parametrize("usage", [None, "whole"])
@pytest.mark.parametrize("kind", ["text", "open braces", "calls", "write"])
def test_a_reply_of_ten_megabytes_is_judged_counted_and_kept(tmp_path: Path, kind: str, usage: Any) -> None:
    text = long_reply(kind, 10_000_000)
    with FaultServer(talking(said(text, usage=usage, tokens=9_000))) as server:
        turns, end = played(tmp_path / "run", server, setting(max_completion_tokens=5_000))
    expected = {"write": "ok", "calls": "multiple_calls"}.get(kind, "no_call")
    if usage:
        expected = "truncated"  # more tokens than the cap allows
    assert [turn.turn_class for turn in turns] == [expected] and end.ended == "max_tokens"
    assert turns[0].text == text


@pytest.mark.parametrize("kind", ["text", "open braces", "calls", "write"])
def test_ten_times_the_text_takes_at_most_fifteen_times_the_processor(tmp_path: Path, kind: str) -> None:
    def seconds(characters: int) -> float:
        with FaultServer(talking(said(long_reply(kind, characters), usage=None))) as server:
            started = time.process_time()
            played(tmp_path / str(characters), server, setting(max_completion_tokens=100))
            return time.process_time() - started

    seconds(1_000)  # imports
    assert seconds(8_000_000) <= 15 * max(seconds(800_000), 0.02)


class Slow(JsonObject):
    """Takes a second and a half for a reply."""

    def parse(self, text: str, tools: Container[str] | None = None) -> Parsed:
        time.sleep(1.5)
        return super().parse(text, tools)


@pytest.mark.parametrize(("characters", "held_up"), [(LARGE + 1, False), (LARGE, True)])
def test_a_long_reply_holds_up_nobody(tmp_path: Path, characters: int, held_up: bool) -> None:
    """While it is judged, others go on. (A short one is judged at once: a thread would cost more.)"""
    gaps: list[float] = []

    async def ticking() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - started)

    async def play(url: str) -> None:
        model, ticks = OpenAIChat("m", url, PATIENT), asyncio.create_task(ticking())
        shared, run = setting(Slow(), max_steps=1), RunDir.open(tmp_path / "run", {})
        await play_all([TASK], 1, lambda task, number: model, shared, run, 1)
        ticks.cancel()
        await model.close()

    with FaultServer(talking(said("x" * characters))) as server:
        asyncio.run(play(server.url))
    assert (max(gaps) > 1.4) == held_up


# --- the canary and the budget


def test_the_canary_is_metered_recorded_and_counted_when_the_run_is_resumed(tmp_path: Path) -> None:
    with FaultServer(_holding("response_format")) as server:
        options = _options(tmp_path / "run", server, constrain=True, budget_tokens=60_000, max_steps=1)
        result = run_eval(options)
        assert result["tokens"] == 10 * len(server.asked) == 50, "three requests of the canary, one a rollout"
        run = RunDir(tmp_path / "run")
        assert sum(run.spent() or ()) == 50
        canary = [json.loads(line) for line in (tmp_path / "run" / "canary.jsonl").read_text().splitlines()]
        assert [line["completion_tokens"] for line in canary] == [3, 3, 3]
        next(iter(run.traces())).unlink()
        assert run_eval(options)["tokens"] == 40 + 10 * 4 and len(server.asked) == 5 + 4


def test_a_budget_that_does_not_hold_the_canary_sends_none(tmp_path: Path) -> None:
    with FaultServer(_holding("response_format")) as server:
        with pytest.raises(Stopped, match="budget of 300 tokens"):
            run_eval(_options(tmp_path / "run", server, constrain=True, budget_tokens=300))
        assert server.asked == [] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 7}, {"prompt_tokens": 0, "completion_tokens": 0}])
@pytest.mark.parametrize("constrain", [False, True])
def test_no_count_under_a_budget_is_refused_in_words(tmp_path: Path, usage: Any, constrain: bool) -> None:
    with FaultServer(lambda body, seen: said(LIST, usage=usage)) as server:
        with pytest.raises(UserError, match="without a count of tokens, so no budget can be kept"):
            run_eval(_options(tmp_path / "run", server, constrain=constrain, budget_tokens=60_000, jobs=1))
        assert len(server.asked) == 1
