"""Rewards of replies to recorded contexts: along the ladder, by execution in the files that the context had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repo_agent.rollout.contexts import Context, Contexts, contexts_of
from repo_agent.rollout.live import run_eval
from repo_agent.rollout.options import EvalOptions
from repo_agent.rollout.rewards import Graded, Grader, Reply
from repo_agent.tools.verdict import rungs


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    run_eval(EvalOptions(suite="micro", split="held-out", held_out=2, model="oracle", rollouts=2, out=out))
    return contexts_of([out], None, 99)


@pytest.fixture(scope="module")
def grader(found: Contexts) -> Grader:
    return Grader(found)


def call(name: str, **args: object) -> str:
    return json.dumps({"type": "tool_call", "name": name, "args": args})


FINAL = '{"type":"final","summary":"done"}'
LISTED = {"rel_dir": ".", "max_files": 50}


def contexts(found: Contexts) -> list[Context]:
    return [context for of_task in found.by_task.values() for context in of_task]


def opening(found: Contexts) -> Context:
    return next(context for context in contexts(found) if context.at == 2)


def grade(grader: Grader, context: Context, text: str, finish: str = "stop") -> Graded:
    return grader.grade([Reply(context, text, finish)])[0]


@pytest.mark.parametrize(
    ("text", "turn_class", "reward"),
    [
        ("I will look.", "no_call", 0),
        ('{"type":"tool_call","name":}', "json_invalid", 0),
        ("Now: " + call("list_files", **LISTED), "wrapped", 0),
        (FINAL, "early_final", 0.25),
        (call("look", path="."), "unknown_tool", 0.25),
        (call("list_files", rel_dir="."), "missing_arg", 0.5),
        (call("list_files", rel_dir=".", max_files="9"), "wrong_type", 0.5),
        (call("read_file", rel_path="../x.py", max_chars=9), "bad_value", 0.5),
        (call("read_file", rel_path="nowhere/x.py", max_chars=9), "exec_error", 0.75),
        (call("list_files", **LISTED), "ok", 1),
    ],
)
def test_a_reply_is_worth_the_rungs_that_it_passed(
    found: Contexts, grader: Grader, text: str, turn_class: str, reward: float
) -> None:
    assert grade(grader, opening(found), text) == (reward, turn_class)
    assert reward == rungs(turn_class) / 4


def test_what_was_cut_off_is_worth_nothing(found: Contexts, grader: Grader) -> None:
    assert grade(grader, opening(found), call("list_files", **LISTED), "length") == (0, "truncated")


def test_a_call_whose_answer_is_there_already_is_worth_less_until_a_file_changes(
    found: Contexts, grader: Grader
) -> None:
    for context in contexts(found):
        said = [json.loads(m.content) for m in context.messages if m.role == "assistant" and m.content[:1] == "{"]
        seen = [one for one in said if one.get("name") == "list_files" and one["args"] == LISTED]
        if seen and not context.writes:
            assert grade(grader, context, call("list_files", **LISTED)) == (0.75, "ok")
            assert grade(grader, context, call("list_files", rel_dir=".", max_files=49)) == (1, "ok")
            return
    raise AssertionError("no context after a list_files")


def test_a_final_is_worth_all_where_the_tests_pass_and_little_elsewhere(found: Contexts, grader: Grader) -> None:
    done = [context for context in contexts(found) if context.passing]
    going = [context for context in contexts(found) if context.at > 4 and not context.passing and not context.writes]
    assert done and going
    for context in done:
        assert context.writes
        assert grade(grader, context, FINAL) == (1, "final")
        assert grade(grader, context, call("list_files", rel_dir=".", max_files=47)) == (0.75, "ok")
    assert grade(grader, going[0], FINAL) == (0.25, "final" if called_before(going[0]) else "early_final")


def called_before(context: Context) -> bool:
    return any(m.role == "assistant" and m.content.startswith('{"type":"tool_call"') for m in context.messages)


def test_calls_run_in_the_files_that_the_context_had(found: Contexts, grader: Grader) -> None:
    """A recorded write, made again in its own context, finds its folder; a path of another task is not there."""
    done = next(context for context in contexts(found) if context.writes)
    path = done.writes[-1].args["rel_path"]
    assert grade(grader, done, call("read_file", rel_path=path, max_chars=99)).turn_class == "ok"
    other = next(context for context in contexts(found) if context.task != done.task)
    assert grade(grader, other, call("read_file", rel_path=path, max_chars=99)).turn_class == "exec_error"


def test_without_the_tasks_files_a_valid_call_is_judged_alone(found: Contexts) -> None:
    from dataclasses import replace

    context = replace(opening(found), runnable=None)
    lost = Grader(Contexts(found.contract, {context.task: [context]}, found.registry))
    assert not lost.runs(context)
    assert grade(lost, context, call("read_file", rel_path="nowhere/x.py", max_chars=9)) == (0.75, "ok")
    assert grade(lost, context, call("list_files", rel_dir=".")) == (0.5, "missing_arg")


def test_the_same_reply_to_the_same_context_is_run_once(found: Contexts, grader: Grader, tmp_path: Path) -> None:
    context = opening(found)
    replies = [Reply(context, call("list_files", rel_dir=".", max_files=n % 2 + 1), "stop") for n in range(6)]
    before = len(grader._known)
    assert len(grader.grade(replies)) == 6
    assert len(grader._known) == before + 2
