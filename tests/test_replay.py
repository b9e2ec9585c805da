"""`replay`: the next call in recorded contexts. The workspace of each is the one that the recorded call met."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, said
from test_cli import run as cli
from test_record import Recorder, play, two_reads
from upstream import upstream

from repo_agent.data.pair_build import PairOptions, make_pairs
from repo_agent.errors import UserError
from repo_agent.evaluate.arms import load_arm
from repo_agent.evaluate.commands import eval_command
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.messages import digest
from repo_agent.rollout.contexts import contexts_of
from repo_agent.rollout.live import run_eval
from repo_agent.rollout.options import EvalOptions
from repo_agent.rollout.replay import ReplayOptions, run_replay
from repo_agent.traces import events
from repo_agent.traces.read import read_events, read_traces

CALL = '{"type":"tool_call","name":"list_files","args":{"rel_dir":".","max_files":9}}'
BAD = '{"type":"tool_call","name":"list_files","args":{"rel_dir":"."}}'


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts of the oracle: reads, wrong fixes, writes, failed calls."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    run_eval(EvalOptions(suite="micro", split="held-out", held_out=8, model="oracle", rollouts=3, out=out))
    return out


def recorded(out: Path, goals: int) -> Path:
    """Another agent's rollouts, two calls and a final each, through the recorder."""
    with upstream(two_reads) as server, Recorder(out, server.url) as recorder:
        for number in range(goals):
            play(recorder.client(), f"goal {number}")
    return out


def key(messages: list[dict[str, Any]]) -> str:
    return digest([[message["role"], message["content"]] for message in messages])


def replies(run: Path) -> dict[str, str]:
    """What was said in each context."""
    return {
        key([message.to_dict() for message in turn.context]): turn.text or ""
        for trace in read_traces([run])[0]
        for turn in trace.turns
    }


def options(paths: list[Path], out: Path, server: FaultServer, **more: Any) -> ReplayOptions:
    given: dict[str, Any] = {"tasks": None, "contexts": 99, "temperature": 0.0, "jobs": 4}
    return ReplayOptions(paths=paths, model=f"openai:m@{server.url}", out=out, **given | more)


def answering(known: Mapping[str, str]) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    return lambda body, seen: said(known[key(body["messages"])], prompt=2_000)


def test_every_recorded_call_gives_what_it_gave(tmp_path: Path, teacher: Path) -> None:
    """A workspace is rebuilt by the writes before: reads after them, failed calls and overwrites tell if it is not."""
    with FaultServer(answering(replies(teacher))) as server:
        result = run_replay(options([teacher], tmp_path / "out", server))
    ran = {
        (trace.task, key([message.to_dict() for message in turn.context])): (turn.ok, turn.code, turn.output)
        for trace in read_traces([teacher])[0]
        for turn in trace.turns
        if turn.ok is not None
    }
    found = {
        (trace.task, key([message.to_dict() for message in turn.context])): (turn.ok, turn.code, turn.output)
        for trace in read_traces([tmp_path / "out"])[0]
        for turn in trace.turns
        if turn.ok is not None
    }
    assert found == ran and len(found) > 30 and {ok for ok, _, _ in found.values()} == {True, False}
    assert result["rollouts"] == result["runnable"] == result["contexts"] == len(replies(teacher))
    after_a_write = [trace for trace in read_traces([teacher])[0] if sum("wrote" in str(t.output) for t in trace.turns)]
    assert after_a_write
    classes = Counter(t.turn_class for trace in read_traces([tmp_path / "out"])[0] for t in trace.turns)
    assert classes["final"] and classes["ok"] and not classes["infra_error"] and not classes["early_final"]


def test_what_its_context_holds_already_is_preferred_to_nothing(tmp_path: Path, teacher: Path, tiny_base: Path) -> None:
    """A model that says the last call once more, or half a call: valid, executed, and no news."""

    def parrot(body: dict[str, Any], seen: int) -> dict[str, Any]:
        before = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
        return said(before[-1] if before and body["seed"] % 2 else BAD)

    with FaultServer(parrot) as server:
        run_replay(options([teacher], tmp_path / "again", server, samples=2))
    classes = Counter(turn.turn_class for trace in read_traces([tmp_path / "again"])[0] for turn in trace.turns)
    assert classes["ok"] > 20 < classes["missing_arg"]
    given = PairOptions([tmp_path / "again"], tokenizer=str(tiny_base), no_split=True)
    with pytest.raises(UserError, match=r"no pair is left of .* no_chosen"):
        make_pairs(given, None)
    counts = make_pairs(replace(given, paths=[tmp_path / "again", teacher]), None)
    assert counts["chosen"]["other"] > 20


def test_contexts_are_few_different_and_the_same_each_time(tmp_path: Path, teacher: Path) -> None:
    first, again = (contexts_of([teacher], None, 5) for _ in range(2))
    assert first.hash == again.hash != contexts_of([teacher], None, 4).hash
    assert {len(found) for found in first.by_task.values()} == {5} and len(first.by_task) == 8
    every = contexts_of([teacher], None, 999)
    keys = [context.key for found in every.by_task.values() for context in found]
    assert len(keys) == len(set(keys)) == len(replies(teacher))
    for task, found in first.by_task.items():
        assert list(found) == sorted(every.by_task[task], key=lambda context: context.key)[:5]
    one = next(iter(first.by_task))
    some = contexts_of([teacher], {one}, 5)
    assert list(some.by_task) == [one] and set(some.left_out) == {"on the other side of the split"}


def test_base_against_tuned_by_replay(tmp_path: Path, teacher: Path) -> None:
    runs = {"base": BAD, "tuned": CALL}
    for name, text in runs.items():
        with FaultServer(lambda body, seen, text=text: said(text)) as server:
            run_replay(options([teacher], tmp_path / name, server, contexts=4, samples=2))
    comparison = compare_runs([tmp_path / name for name in runs])
    assert comparison.verdict.label == "better_alone" and comparison.verdict.pairs["validity"].difference == 1.0
    assert comparison.verdict.pairs["pass_rate"].difference is None
    assert [len(arm.rows) for arm in comparison.arms] == [64, 64] and not comparison.arms[0].pending
    assert any(line.startswith("Ended instead of calling") for line in comparison.warnings)
    with pytest.raises(UserError, match="not comparable: kind"):
        compare_runs([tmp_path / "base", teacher])


def test_a_stopped_replay_goes_on_where_it_was(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = replies(teacher)
    with FaultServer(answering(known)) as server:
        more = {"contexts": 6, "read_chars": 9_000, "split": "all"}
        given = options([teacher], tmp_path / "out", server, **more, budget_tokens=60_000)
        stopped = run_replay(given)
        assert stopped["stopped"] and 0 < stopped["rollouts"] < 48 and stopped["pending"]
        arm = load_arm(tmp_path / "out")
        assert len(arm.pending) == stopped["pending"] and eval_command(arm).startswith("repo-agent replay ")
        code, out, err = cli(capsys, *shlex.split(eval_command(arm))[1:], "--json")
        assert code == 0, err
        done = json.loads(out)
        assert done["rollouts"] == 48 and not done["pending"] and len(server.asked) == 48
        assert run_replay(options([teacher], tmp_path / "out", server, **more))["rollouts"] == 48
        with pytest.raises(UserError, match=r"differing: .*contexts"):
            run_replay(options([teacher], tmp_path / "out", server, **more | {"contexts": 7}))
        assert len(server.asked) == 48


def test_an_older_task_lends_no_other_its_files(tmp_path: Path, teacher: Path) -> None:
    """Of two runs with a task of one name, only the one whose task is still the same is run."""
    older = tmp_path / "older"
    shutil.copytree(teacher, older)
    record = json.loads((older / "run.json").read_text())
    (older / "run.json").write_text(json.dumps(record | {"task_hashes": dict.fromkeys(record["tasks"], "changed")}))
    with FaultServer(lambda body, seen: said(CALL)) as server:
        for name, paths, runs in (("old", [older], 0), ("new", [teacher], 16)):
            result = run_replay(options(paths, tmp_path / name, server, contexts=2))
            assert (result["contexts"], result["runnable"]) == (16, runs)
    whole = [read_events(path)[0] for path in (tmp_path / "old").rglob("traces/*/*.jsonl")]
    assert not any(isinstance(event, events.ToolResultEvent) for log in whole for event in log)


def test_what_has_no_context_is_refused(tmp_path: Path, teacher: Path) -> None:
    with FaultServer(lambda body, seen: said(CALL)) as server:
        with pytest.raises(UserError, match=r"no context to replay .* other side of the split"):
            run_replay(options([teacher], tmp_path / "out", server, tasks={"another"}))
        with pytest.raises(UserError, match="names the adapter of a model on a server"):
            run_replay(ReplayOptions([teacher], "local:tiny", tmp_path / "out", None, adapter=tmp_path))
    assert not (tmp_path / "out").exists()


def test_the_split_comes_from_the_runs_a_dataset_or_a_suite(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from repo_agent.cli.held_out import replayed_tasks

    held_out = frozenset(json.loads((teacher / "run.json").read_text())["held_out"])
    assert replayed_tasks([teacher], "held-out", None, None) == held_out
    assert not replayed_tasks([teacher], "train", None, None) & held_out  # type: ignore[operator]
    assert replayed_tasks([teacher], "all", None, None) is None
    with pytest.raises(UserError, match="none of held-out, train, all"):
        replayed_tasks([teacher], "test", None, None)
    other = recorded(tmp_path / "recorded", 2)
    code, _, err = cli(capsys, "replay", other, "--model", "local:tiny", "--out", tmp_path / "x")
    assert code == 2 and "records no split" in err and "--dataset" in err


def test_contexts_of_another_agent_are_judged_alone(tmp_path: Path) -> None:
    run = recorded(tmp_path / "recorded", 6)
    with FaultServer(lambda body, seen: said("", [("read", '{"path": "a"}')])) as server:
        result = run_replay(options([run], tmp_path / "out", server))
        bodies = [body for _, body, _ in server.asked]
    assert result["runnable"] == 0 and set(result["turns"]) == {"ok"}
    sent = read_traces([run])[0][0].tools
    assert all(body["tools"] == sent for body in bodies)  # as the agent sent them, extra keys too
    whole = [read_events(path)[0] for path in (tmp_path / "out").rglob("traces/*/*.jsonl")]
    assert not any(isinstance(event, events.ToolResultEvent) for log in whole for event in log)
