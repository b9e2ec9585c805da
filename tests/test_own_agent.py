"""Base against tuned in another agent: recorded runs as arms, tasks held out by group, local models behind a server."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_cli import run as cli
from test_record import Recorder, play
from upstream import said, upstream

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import ids_hash
from repo_agent.data.build import BuildOptions, build
from repo_agent.errors import UserError
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.messages import read_spoken
from repo_agent.models import Request, Sampling
from repo_agent.models.local import LocalModel
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.serve import serving
from repo_agent.traces.read import read_traces
from repo_agent.traces.splits import held_out_now
from repo_agent.traces.store import RunDir

openai = pytest.importorskip("openai")
EXAMPLE = Path(__file__).parent.parent / "examples" / "own_agent"


def recorded(
    out: Path, goals: Sequence[str], good: bool, passed: bool | None = True, adapter: dict[str, Any] | None = None
) -> Path:
    """Rollouts of one call and a final, the call with its argument or without; marked by their header."""

    def script(body: dict[str, Any]) -> dict[str, Any]:
        if any(message["role"] == "assistant" for message in body["messages"]):
            return said("done")
        return said("", [("read", {"path": "a"} if good else {})])

    headers = {} if passed is None else {"X-Repo-Agent-Passed": str(passed).lower()}
    with upstream(script) as server, Recorder(out, server.url, adapter=adapter) as recorder:
        for goal in goals:
            play(recorder.client(default_headers=headers), goal)
    return out


def tied(run: Path, **adapter: Any) -> dict[str, Any]:
    """What run.json says of an adapter that was trained on tasks of `run`."""
    return {"adapter": {"hash": "h", "base": "tiny", "train_tasks": [], "held_out": None, **adapter}}


def tasks_of(run: Path) -> list[str]:
    return sorted({row["task"] for row in RunDir(run).rows()})


GOALS = [f"goal number {number}" for number in range(12)]


# --- recorded runs as arms -------------------------------------------------------------------------------------------


def test_recorded_runs_are_arms_and_what_differs_is_said(tmp_path: Path) -> None:
    base = recorded(tmp_path / "base", [*GOALS, "another"], good=False)
    tuned = recorded(tmp_path / "tuned", GOALS, good=True, adapter=tied(base))
    comparison = compare_runs([base, tuned])
    assert (comparison.reference.name, comparison.tuned.name) == ("base", "tuned")
    assert comparison.verdict.label == "better_validity" and comparison.verdict.pairs["validity"].difference == 1.0
    assert len(comparison.reference.tasks) == 12
    assert "Left out: 1 tasks that only base has." in comparison.warnings


def test_only_what_is_held_out_counts(tmp_path: Path) -> None:
    """A base's own rollouts choose the rows, so its failed train tasks are no fair ground either."""
    base = recorded(tmp_path / "base", GOALS, good=False)
    tasks = tasks_of(base)
    split = tied(base, train_tasks=tasks[:2], held_out=tasks[5:])
    tuned = recorded(tmp_path / "tuned", GOALS, good=True, adapter=split)
    comparison = compare_runs([base, tuned])
    assert list(comparison.reference.tasks) == tasks[5:]
    assert any(line.startswith("Left out: 5 tasks that are not held out") for line in comparison.warnings)
    older = recorded(tmp_path / "older", GOALS, good=True, adapter=tied(base, train_tasks=tasks[:2]))
    assert list(compare_runs([base, older]).reference.tasks) == tasks[2:]
    leaked = recorded(tmp_path / "leaked", GOALS, good=True, adapter=tied(base, held_out=["elsewhere"]))
    with pytest.raises(UserError, match="share 12 tasks, none of them held out"):
        compare_runs([base, leaked])


def test_marks_decide_or_validity_alone(tmp_path: Path) -> None:
    runs = [recorded(tmp_path / name, GOALS, good, None) for name, good in (("base", False), ("tuned", True))]
    alone = compare_runs(runs)
    assert alone.verdict.label == "better_alone"
    assert "Outcome unknown: 12 rollouts of base; see mark." in alone.warnings
    better = recorded(tmp_path / "better", GOALS, True, True)
    worse = recorded(tmp_path / "worse", GOALS, False, False)
    assert compare_runs([worse, better]).verdict.label == "better"


def test_arms_that_are_not_comparable_are_refused(tmp_path: Path) -> None:
    base = recorded(tmp_path / "base", GOALS, good=False)
    for name, goals, what in (("none", ["elsewhere"], "have no task in common"),):
        with pytest.raises(UserError, match=what):
            compare_runs([base, recorded(tmp_path / name, goals, good=True)])
    wrong = recorded(tmp_path / "wrong", GOALS, good=True, adapter=tied(base, contract="0" * 16))
    with pytest.raises(UserError, match="was trained for other tools"):
        compare_runs([base, wrong])
    with upstream(lambda body: said("plain")) as server, Recorder(tmp_path / "bare", server.url) as recorder:
        client = recorder.client()
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": GOALS[0]}])
    with pytest.raises(UserError, match="do not tell the tools"):
        compare_runs([base, tmp_path / "bare"])


# --- tasks held out of recordings ------------------------------------------------------------------------------------


def test_recorded_tasks_are_held_out_by_group_and_kept_on_record(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", [*GOALS, *GOALS], good=True)
    traces = RunDir(run).traces()
    split = held_out_now(traces, "4")
    assert len(split.held_out) == 4 and len(split.train) == 8 and not {*split.train} & {*split.held_out}
    assert held_out_now(reversed(traces), "4") == split and len(held_out_now(traces, "30%").held_out) == 4
    for wanted, what in (("0", "one side would be empty"), ("12", "one side would be empty"), ("many", "no number")):
        with pytest.raises(UserError, match=what):
            held_out_now(traces, wanted)
    build(BuildOptions([run], hold_out="4"), tmp_path / "set", say=lambda line: None)
    record = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert tuple(record["split"]["held_out"]) == split.held_out and record["counts"]["funnel"]["split"] == 16
    rows = (tmp_path / "set" / "trajectories.jsonl").read_text().splitlines()
    assert rows and not {json.loads(row)["task"] for row in rows} & {*split.held_out}
    with pytest.raises(UserError, match="there is a split already"):
        build(BuildOptions([run], hold_out="4", no_split=True), tmp_path / "other", say=lambda line: None)


# --- local models behind a server ------------------------------------------------------------------------------------


@contextmanager
def served(specs: dict[str, str]) -> Iterator[str]:
    """`serve` in a thread of this process; gives the base URL."""
    up, urls, held = threading.Event(), [""], {}

    def started(url: str) -> None:
        urls[0] = url
        up.set()

    async def go() -> None:
        held["stop"], held["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await serving(specs, 0, started, held["stop"].wait)

    thread = threading.Thread(target=asyncio.run, args=(go(),))
    thread.start()
    try:
        assert up.wait(300)
        yield urls[0]
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(60)


def refused(url: str, body: str, **headers: str) -> int:
    """The status that answers a body."""
    request = urllib.request.Request(f"{url}/chat/completions", body.encode(), headers)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=300)
    return error.value.code


def test_a_served_model_says_what_the_local_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("repo_agent.models.serve.MAX_BODY", 200_000)
    from repo_agent.messages import Message

    messages = (Message("system", "You fix code."), Message("user", "GOAL:\nSay something."))
    requests = [Request(messages, Sampling(t, 40), seed) for t, seed in ((0.0, 1), (0.9, 5))]

    async def said_by(model: Any) -> list[tuple[str, str, Any]]:
        done = [await model.complete(request) for request in requests]
        await model.close()
        return [(one.text, one.finish_reason, one.usage) for one in done]

    with served({"base": "local:tiny"}) as url:
        served_ones = asyncio.run(said_by(OpenAIChat("base", url)))
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        wire = [{"role": message.role, "content": message.content} for message in messages]
        chunks = client.chat.completions.create(model="base", messages=wire, temperature=0, max_tokens=40, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        with pytest.raises(openai.NotFoundError, match="there are: base"):
            client.chat.completions.create(model="other", messages=wire)
        for body in ({"messages": []}, {"messages": wire, "n": 2}, {"messages": [{"role": "x", "content": "y"}]}):
            with pytest.raises(openai.BadRequestError, match="no chat completion request"):
                client.chat.completions.create(model="base", **body)
        for odd in (
            '"temperature": NaN',
            '"temperature": -1',
            '"max_tokens": -4',
            '"max_tokens": 1e999',
            '"seed": 1e999',
        ):
            body = '{"model": "base", "messages": [{"role": "user", "content": "x"}], ' + odd + "}"
            assert refused(url, body) == 400
        assert refused(url, "[" * 100_000) == 400 and refused(url, "[1]") == 400
        assert refused(url, json.dumps({"model": "base", "messages": wire, "user": "x" * 900_000})) == 413
        for header in (
            {"Host": "pages.example"},
            {"Origin": "https://pages.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert refused(url, "{}", **header) == 403
        long = [{"role": "user", "content": "word " * 20_000}]
        with pytest.raises(openai.BadRequestError) as full:
            client.chat.completions.create(model="base", messages=long)
        assert full.value.code == "context_length_exceeded"
        assert [model.id for model in client.models.list()] == ["base"]
    local = asyncio.run(said_by(LocalModel("tiny", name="local:tiny")))
    assert served_ones == local and streamed == local[0][0]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>', "", [("f", '{"a": "é"}')]),
        ('Look.\n<tool_call>{"name":"f","arguments":{}}</tool_call><tool_call>{"name":"g","arguments":{}}</tool_call>',
         "Look.", [("f", "{}"), ("g", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {</tool_call>', None, []),
        ('<tool_call>{"arguments": {}}</tool_call>', None, []),
        ("plain", None, []),
    ],
)  # fmt: skip
def test_calls_in_hermes_tags_are_taken_apart_as_a_server_does(
    text: str, content: str | None, calls: list[Any]
) -> None:
    from repo_agent.models.calls import taken_apart

    apart, any_call = taken_apart(text)
    said_beside, found = read_spoken(apart)
    assert said_beside == (text if content is None else content) and any_call == bool(calls)
    assert [(one["name"], one["arguments"]) for one in found] == calls


def test_taking_calls_apart_is_linear() -> None:
    """Endless white space behind a tag is what small models write."""
    from repo_agent.models.calls import taken_apart

    def seconds(size: int) -> float:
        text = "<tool_call>" + (" " * size + "x") * 3 + "<tool_call>" * (size // 10)
        started = time.process_time()
        assert taken_apart(text)[1] is False
        return time.process_time() - started

    assert seconds(2_000_000) <= 15 * max(seconds(200_000), 0.02)


def test_an_adapter_of_an_agent_with_calls_beside_the_text_is_known_on_its_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The canary asks with the tools that the agent showed; served under another name, the base is refused."""
    base, data, adapter = recorded(tmp_path / "base", GOALS, good=True), tmp_path / "set", tmp_path / "adapter"
    assert cli(capsys, "build", base, "--hold-out", 4, "--out", data)[0] == 0
    settings = ("--base", "tiny", "--epochs", 8, "--lr", "5e-3", "--evals", 0)
    assert cli(capsys, "train", data, *settings, "--out", adapter)[0] == 0
    canary = json.loads((adapter / "canary.json").read_text())
    assert canary["tools"] and all(one["base"] != one["tuned"] for one in canary["contexts"])
    more = ("--dataset", data, "--adapter", adapter, "--contexts", 1, "--max-tokens", 30)
    with served({"base": "local:tiny", "tuned": f"local:tiny+{adapter}"}) as url:
        for name, code in (("tuned", 0), ("base", 2)):
            words = ("replay", base, "--model", f"openai:{name}@{url}", *more, "--out", tmp_path / f"replay-{name}")
            found, _, err = cli(capsys, *words)
            assert found == code, err
    assert "none is the adapter's, and 3 are the base's" in err and not (tmp_path / "replay-base").exists()
    (trace, *_), _ = read_traces([tmp_path / "replay-tuned"])
    prompt = Renderer(load_tokenizer("tiny"), trace.tools).prompt_ids(trace.turns[0].context)
    local = tmp_path / "replay-local"
    assert cli(capsys, "replay", base, "--model", f"local:tiny+{adapter}", *more[:2], *more[4:], "--out", local)[0] == 0
    (same, *_), _ = read_traces([local])
    assert same.turns[0].prompt_ids and same.turns[0].prompt_ids[0] == ids_hash(prompt)


# --- the worked example ----------------------------------------------------------------------------------------------


def test_the_example_has_our_prompt_and_tools() -> None:
    """Its model was made on them."""
    from repo_agent.agent.spec import AgentSpec
    from repo_agent.protocols import protocol_named
    from repo_agent.tools.files import default_registry

    assert (EXAMPLE / "prompt.txt").read_text() == AgentSpec(default_registry(), protocol_named("json")).system
    assert json.loads((EXAMPLE / "schema.json").read_text()) == default_registry().schemas()
    assert "import repo_agent" not in (EXAMPLE / "agent.py").read_text()


@pytest.mark.slow
def test_the_example_ends_in_one_verdict_by_replay_and_live(tmp_path: Path) -> None:
    out = tmp_path / "own"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {kind: json.loads((out / f"report-{kind}" / "comparison.json").read_text()) for kind in ("replay", "live")}
    by_replay, live = (found[kind]["verdict"]["validity"] for kind in ("replay", "live"))
    assert by_replay["difference"] > 0 and live["difference"] > 0, (by_replay, live)
    assert found["replay"]["verdict"]["label"] == "better_alone" and live["side"] == "better"
    assert {arm["tasks"] for comparison in found.values() for arm in comparison["arms"]} == {16}
    print(re.findall(r"The whole way took .*", done.stdout), by_replay["difference"], live["difference"])
