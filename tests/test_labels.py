"""Outcomes that come later: marks of recorded and imported rollouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import run as cli
from test_laws import write

from repo_agent.data.inventory import inventory
from repo_agent.errors import UserError
from repo_agent.traces.labels import Labels
from repo_agent.traces.read import read_trace, read_traces
from repo_agent.traces.store import RunDir

LOG = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "done"}]}


@pytest.fixture
def recorded(tmp_path: Path) -> RunDir:
    """Two rollouts of one task that nobody marked."""
    run = RunDir.open(tmp_path / "runs" / "mine", {"kind": "record"})
    for k in range(2):
        write(run, "s", "go", [("", [("f", {})], "fine")], k)
        path = run.path / f"traces/t/{k}.jsonl"
        path.write_text(path.read_text().replace('"passed":true', '"passed":null'))
    return run


def outcomes(run: RunDir) -> list[bool | None]:
    assert [row["passed"] for row in run.rows()] == [trace.passed for trace in read_traces([run.path])[0]]
    return [trace.passed for trace in read_traces([run.path])[0]]


def test_the_last_mark_of_a_rollout_counts(capsys: pytest.CaptureFixture[str], recorded: RunDir) -> None:
    assert outcomes(recorded) == [None, None]
    for which, outcome, expected in [
        ("t/0", "passed", [True, None]),
        ("t", "failed", [False, False]),
        ("t/1", "passed", [False, True]),
        ("t/0", "unknown", [None, True]),
    ]:
        code, shown, err = cli(capsys, "mark", recorded.path, which, outcome, "--json")
        assert code == 0 and json.loads(shown)["outcome"] == outcome, err
        assert outcomes(recorded) == expected
    found = inventory([recorded.path])
    assert (found["passed"], found["unknown"]) == (1, 1)
    assert read_trace(recorded.path / "traces/t/1.jsonl").passed is True
    lines = [json.loads(line) for line in (recorded.path / "labels.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and all({"task", "rollout", "passed", "by", "when"} == set(line) for line in lines)


@pytest.mark.parametrize(
    ("which", "outcome", "said"),
    [
        ("t/7", "passed", "no rollout 't/7'"),
        ("x", "passed", "it has t/0, t/1"),
        ("t/0", "great", "passed, failed, unknown"),
    ],
)
def test_a_mark_that_fits_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], recorded: RunDir, which: str, outcome: str, said: str
) -> None:
    code, _, err = cli(capsys, "mark", recorded.path, which, outcome)
    assert code == 2 and said in err and not (recorded.path / "labels.jsonl").exists()


def test_a_graded_rollout_takes_no_mark(capsys: pytest.CaptureFixture[str], tmp_path: Path, play) -> None:
    run = RunDir.open(tmp_path / "run", {"kind": "eval"})
    play(run, "a", ['{"type":"final","summary":"x"}'], passed=False)
    code, _, err = cli(capsys, "mark", run.path, "a/0", "passed")
    assert code == 2 and "graded by its tests" in err and run.rows()[0]["passed"] is False


def test_a_broken_label_names_its_line(recorded: RunDir) -> None:
    (recorded.path / "labels.jsonl").write_text('{"task": "t", "rollout": 0, "passed": true}\n{"task": "t"}\n')
    with pytest.raises(UserError, match=r"labels\.jsonl:2"):
        Labels(recorded.path)


@pytest.mark.parametrize(("flag", "expected"), [("--passed", True), ("--failed", False), ("", None)])
def test_an_import_may_say_what_came_of_its_rollouts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, expected: bool | None
) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(LOG) + "\n")
    words = ["import", "openai", tmp_path / "log.jsonl", "--out", tmp_path / "run", *([flag] if flag else [])]
    code, _, err = cli(capsys, *words)
    assert code == 0, err
    assert [trace.passed for trace in read_traces([tmp_path / "run"])[0]] == [expected]
