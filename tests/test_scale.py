"""Many rollouts at once: budgets, stops, progress, open files, and nothing that holds up the others."""

from __future__ import annotations

import asyncio
import io
import json
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from serving import FINAL, GREP, LIST, serving
from test_cli import run as cli

from repo_agent.agent.loop import in_thread
from repo_agent.cli.progress import Progress
from repo_agent.errors import Stopped, UserError
from repo_agent.messages import Message, ToolCall, Usage
from repo_agent.models import Completion, Request, Sampling
from repo_agent.models.prices import TABLE, Prices, find_prices
from repo_agent.models.retry import Patience, Transient, persistently
from repo_agent.rollout.meter import Budget, Meter, Metered
from repo_agent.tools import searchers
from repo_agent.tools.files import default_registry
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

EVAL = ("eval", "--suite", "micro", "--split", "held-out", "--held-out", "2", "--tests", "never", "--max-tokens", "99")
"""Two tasks; with the server's script three requests a rollout."""


# --- budgets


class _Costly:
    """Takes any number of tokens up to what a request may."""

    name = "costly"

    def __init__(self, seed: int) -> None:
        self.rng, self.spent, self.asked = random.Random(seed), Usage(0, 0), 0

    async def complete(self, request: Request) -> Completion:
        self.asked += 1
        await asyncio.sleep(0)
        prompt = self.rng.randint(1, len(request.messages[0].content))
        reply = self.rng.randint(1, request.sampling.max_tokens)
        self.spent = Usage((self.spent.prompt_tokens or 0) + prompt, (self.spent.completion_tokens or 0) + reply)
        return Completion("x", "stop", Usage(prompt, reply))

    async def close(self) -> None: ...


@given(st.integers(1, 9), st.integers(0, 20_000), st.integers(0, 9999), st.booleans())
def test_a_budget_is_never_exceeded_and_is_used_up(jobs: int, limit: int, earlier: int, usd: bool) -> None:
    prices, model = Prices(1e6, 1e6), _Costly(jobs + limit)  # a dollar a token
    budget = Budget(usd=limit + 0.5) if usd else Budget(tokens=limit + 1)
    meter = Meter(budget, prices, (earlier, 0))
    request = Request((Message("user", "x" * 300),), Sampling(max_tokens=200), 0)
    cap = 300 + 200 + 100

    async def work() -> None:
        while True:
            await Metered(model, meter).complete(request)

    async def story() -> list[object]:
        return await asyncio.gather(*(work() for _ in range(jobs)), return_exceptions=True)

    ends = asyncio.run(asyncio.wait_for(story(), 20))
    assert all(isinstance(end, Stopped) and end.code == 3 for end in ends)
    spent = earlier + (model.spent.prompt_tokens or 0) + (model.spent.completion_tokens or 0)
    assert meter.tokens == meter.usd == spent
    assert spent <= limit + 1 or model.asked == 0
    assert spent > limit - cap


def test_a_failed_request_gives_its_reservation_back() -> None:
    class Broken(_Costly):
        async def complete(self, request: Request) -> Completion:
            raise RuntimeError("gone")

    meter = Meter(Budget(tokens=1000))
    request = Request((Message("user", "x" * 300),), Sampling(max_tokens=500), 0)

    async def story() -> None:
        for _ in range(5):
            with pytest.raises(RuntimeError):
                await Metered(Broken(0), meter).complete(request)
        await Metered(_Costly(0), meter).complete(request)

    asyncio.run(story())
    assert meter.tokens


def test_prices_come_by_host_and_name_or_by_flag() -> None:
    assert find_prices("openai:gpt-4o-mini@https://api.openai.com/v1", None, None) == Prices(0.15, 0.60)
    assert find_prices("openai:gpt-4o-mini", None, None) == Prices(0.15, 0.60)
    assert find_prices("openai:gpt-4o-mini@http://127.0.0.1:8000/v1", None, None) is None
    assert find_prices("local:tiny", 1.0, 2.0) == Prices(1.0, 2.0) and find_prices("local:tiny", None, None) is None
    assert Prices(1.0, 2.0).cost(1_000_000, 500_000) == 2.0 and TABLE.is_file()
    with pytest.raises(UserError, match="one goes with the other"):
        find_prices("local:tiny", 1.0, None)


def test_a_spent_budget_stops_politely_and_the_same_command_counts_what_was_spent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with serving(tmp_path) as server:
        words = [*EVAL, "--rollouts", 2, "--jobs", 2, "--model", server.model, "--out", out, "--price-in", 1]
        words += ["--price-out", 1, "--json"]
        code, shown, err = cli(capsys, *words, "--budget-tokens", 3000)
        said = json.loads(shown)
        assert code == 3 and said["pending"] and 0 < said["tokens"] <= 3000 and said["rollouts"], said
        assert "budget of 3,000 tokens" in err and "resumes" in err and err.count("\n") == 1
        assert said["cost_usd"] == pytest.approx(said["tokens"] / 1e6)
        kept = {path: path.read_bytes() for path in RunDir(out).traces()}
        assert sum(RunDir(out).spent() or ()) == said["tokens"] and not list(tmp_path.rglob("*.part"))
        code, shown, _ = cli(capsys, *words, "--budget-tokens", 3000)
        assert code == 3 and said["tokens"] <= json.loads(shown)["tokens"] <= 3000
        code, shown, err = cli(capsys, *words, "--budget-usd", 1)
        record = json.loads(shown)
        assert code == 0 and record["rollouts"] == 4 and record["stopped"] is None, err
        assert record["tokens"] == sum(RunDir(out).spent() or ()) > said["tokens"]
        assert kept.items() <= {path: path.read_bytes() for path in RunDir(out).traces()}.items()


# --- progress, files, threads


def test_the_line_says_how_it_goes() -> None:
    out = io.StringIO()
    progress, meter = Progress(Console(file=out), "run"), Meter(None, Prices(1.0, 1.0), (20_000, 3_000))
    progress.start(10, 4, {"ok": 3, "no_call": 1, "final": 1}, meter)
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "seconds": 1.0}
    progress.event(events.LlmAction(turn_class="no_call", text="", finish_reason="stop", lenient_ok=True, **counts))
    progress.end("a", 0, events.RunEnd(ended="final", passed=True, steps=1, **counts))
    progress.end("a", 1, events.RunEnd(ended="error", passed=None, steps=1, **counts))
    progress.close()
    shown = out.getvalue()
    assert re.fullmatch(
        r"run: 5/10  1 errors  1 passed  [\d.]+/min  valid 60.0%  23k tokens  \$0.023  ETA 0:\d\d\n", shown
    ), shown
    quiet = Progress(Console(file=out, quiet=True), "run")
    quiet.start(1, 0, {}, meter)
    quiet.close()
    assert out.getvalue() == shown


def test_the_line_says_what_is_waited_for() -> None:
    """A server that answers the second time."""
    out = io.StringIO()
    progress = Progress(Console(file=out, width=20), "run")
    progress.start(2, 0, {}, Meter())
    shown: list[str] = []

    async def attempt() -> None:
        shown.append(progress.line())
        if len(shown) == 1:
            raise Transient("no answer")

    asyncio.run(persistently(attempt, Patience(first_wait=0.01), "m"))
    assert shown == ["run: 0/2  0 tokens", "run: 0/2  0 tokens  waiting: m: no answer; try 2 of 8 in 0 s"]
    assert out.getvalue() == f"{shown[1]}\n"
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "seconds": 1.0}
    progress.event(events.LlmAction(turn_class="ok", text="", finish_reason="stop", lenient_ok=True, **counts))
    assert "waiting" not in progress.line()
    progress.close()
    shown.clear()
    asyncio.run(persistently(attempt, Patience(first_wait=0.01), "m"))
    assert "waiting" not in progress.line()


def test_open_files_are_allowed_or_refused() -> None:
    script = (
        "import resource; from repo_agent.rollout.runner import allow_files;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900)); allow_files(100);"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)); allow_files(256)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(656, 900)"
    assert "256 rollouts at once take 1280 open files, 900 are allowed" in done.stderr and "--jobs 161" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256


def test_a_slow_grep_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searchers, "SECONDS", 0.6)
    (tmp_path / "a.txt").write_text("a" * 5000 + "!\n")
    call = ToolCall("grep", {"pattern": "(a|aa)+$", "rel_dir": ".", "max_hits": 5})

    async def story() -> tuple[int, list[object]]:
        slow = [asyncio.create_task(in_thread(default_registry().execute, call, tmp_path, 99)) for _ in range(4)]
        turns = 0
        while not all(task.done() for task in slow):
            await asyncio.sleep(0.01)
            turns += 1
        return turns, [task.result().code for task in slow]

    turns, codes = asyncio.run(story())
    assert codes == ["timeout"] * 4 and turns > 10


# --- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model openai:m@http://127.0.0.1:9/v1 --budget-usd 1", "price of this model is unknown"),
        ("--model openai:m@http://127.0.0.1:9/v1 --budget-usd 1 --price-in 2", "Give both"),
        ("--model openai:m@http://127.0.0.1:9/v1 --budget-tokens 0", "too small"),
        ("--model oracle --budget-tokens 9", "spends nothing"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, said: str
) -> None:
    code, _, err = cli(capsys, *EVAL, *words.split(), "--out", tmp_path / "run")
    assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "run").exists(), err


def test_a_server_that_does_not_count_has_no_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with serving(tmp_path, (LIST, GREP, FINAL), "--no-usage") as server:
        words = [*EVAL, "--model", server.model, "--budget-tokens", 99_999, "--out", tmp_path / "run"]
        code, _, err = cli(capsys, *words)
        assert code == 2 and "without a count" in err
