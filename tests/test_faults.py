"""200 rollouts at once against a server that fails in every way: each ends as it should, none is lost or doubled.

`pytest -s -m slow tests/test_faults.py` prints the table.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_server import TRANSIENT, FaultServer, said

from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.models import Sampling
from repo_agent.models.openai_chat import OpenAIChat
from repo_agent.models.retry import Patience
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.episode import Setting, play_all
from repo_agent.rollout.runner import Watch
from repo_agent.sandbox.canary import choose
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry
from repo_agent.traces.events import LlmAction, RunEnd, RunStart
from repo_agent.traces.read import read_events
from repo_agent.traces.store import RunDir

READ = ("read_file", '{"rel_path": "a.txt", "max_chars": 99}')
CAP = 50
TURNS = {
    "none": said("", [READ]),
    "finish_reason length": said("", [READ], finish="length"),
    "as many tokens as the cap": said("", [READ], tokens=CAP),
    "broken arguments": said("", [("read_file", '{"rel_path": "a.txt", "max')]),
    "two calls": said("", [READ, READ]),
    "nothing said": said(None),
    "context overflow": "context overflow",
}
"""What the second turn of a rollout meets; the transient faults come on top, and `down` for good."""
CLASSES = {
    "finish_reason length": "truncated",
    "as many tokens as the cap": "truncated",
    "broken arguments": "json_invalid",
    "two calls": "multiple_calls",
    "nothing said": "no_call",
}
KINDS = [*TRANSIENT, *TURNS]
GOALS = [f"{KINDS[number % len(KINDS)]}/{number}" for number in range(197)] + [f"down/{number}" for number in range(3)]


def expected(kind: str) -> list[str]:
    return ["ok"] if kind == "context overflow" else ["ok", CLASSES.get(kind, "ok"), "ok", "final"]


def answer(body: dict[str, Any], seen: int, healed: bool = True) -> dict[str, Any] | str:
    kind = body["messages"][1]["content"].removeprefix("GOAL:\n").partition("/")[0]
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    if turn == 1:
        if kind == "down" and not healed:
            return "503"
        if kind in TRANSIENT:
            return said("", [READ]) if seen else kind
        return TURNS.get(kind, TURNS["none"])
    return said("done") if turn == 3 else said("", [READ])


def rolled(run: RunDir, folder: str) -> Iterator[tuple[str, list[LlmAction], RunEnd]]:
    """(goal, turns, end) of every trace in a folder of the run."""
    for path in sorted((run.path / folder).rglob("*.jsonl")):
        log, _ = read_events(path)
        start, end = log[0], log[-1]
        assert isinstance(start, RunStart) and isinstance(end, RunEnd)
        yield start.task, [event for event in log if isinstance(event, LlmAction)], end


@pytest.mark.slow
def test_200_rollouts_against_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [Task(goal, goal, {"a.txt": "x\n"}, (), command=("true",)) for goal in GOALS]
    setting = Setting("faults", "a", "m", AgentSpec(default_registry(), PROTOCOLS["native"], Limits(tests="never")),
                      Sampling(0.0, CAP), 0, False, choose())  # fmt: skip
    run, ends = RunDir.open(tmp_path / "run", {"train": GOALS, "held_out": []}), _Ended()
    patience = Patience(tries=4, first_wait=0.02, longest_wait=0.1, request_seconds=2.0, total_seconds=30)

    async def play(server: FaultServer) -> None:
        model = OpenAIChat("m", server.url, patience)
        try:
            await play_all(tasks, 1, lambda task, number: model, setting, run, 32, watch=ends)
        finally:
            await model.close()

    with FaultServer(lambda body, seen: answer(body, seen, healed=False)) as server:
        asyncio.run(play(server))
    assert {goal.partition("/")[0] for goal, _, end in rolled(run, "errors") if end.ended == "error"} == {"down"}
    assert len(list(rolled(run, "traces"))) == 197 and len(ends.count) == ends.count.total() == 200
    with FaultServer(answer) as healed:
        asyncio.run(play(healed))
    assert len({body["messages"][1]["content"] for _, body, _ in healed.asked}) == 3  # what was owed, no more
    whole = list(rolled(run, "traces"))
    assert sorted(goal for goal, _, _ in whole) == sorted(GOALS)
    _check(whole, server)
    with capsys.disabled():
        _print(whole)


class _Ended(Watch):
    """How often each task ended."""

    def __init__(self) -> None:
        self.count = Counter[str]()

    def end(self, task: str, number: int, end: RunEnd) -> None:
        self.count[task] += 1


def _check(whole: list[tuple[str, list[LlmAction], RunEnd]], server: FaultServer) -> None:
    asked = Counter(json.dumps(body["messages"]) for _, body, _ in server.asked)
    assert max(asked.values()) <= 4
    for goal, turns, end in whole:
        kind = goal.partition("/")[0]
        assert [turn.turn_class for turn in turns] == expected(kind), goal
        assert end.ended == ("context_limit" if kind == "context overflow" else "final"), goal
        if kind in TRANSIENT:
            assert turns[1].served and turns[1].served["tries"] >= 2
    assert set(server.faults) == {*TRANSIENT, "context overflow"}


def _print(whole: list[tuple[str, list[LlmAction], RunEnd]]) -> None:
    print(f"\n{'the second turn meets':28}{'rollouts':>9}  {'tries':6} {'ended':14} classes")
    for kind in [*KINDS, "down"]:
        rows = [(turns, end) for goal, turns, end in whole if goal.partition("/")[0] == kind]
        tries = {turns[1].served["tries"] for turns, _ in rows if len(turns) > 1 and turns[1].served}
        seen = {" ".join(turn.turn_class for turn in turns) for turns, _ in rows}
        ended = {end.ended for _, end in rows}
        print(f"{kind:28}{len(rows):9}  {_joined(tries) or '-':6} {_joined(ended):14} {_joined(seen)}")


def _joined(values: set[Any]) -> str:
    return ", ".join(map(str, sorted(values)))
