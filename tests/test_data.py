"""From traces to a dataset: classes, gates and funnel, merged rows, exports, inventory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.chat.render import IGNORE, Tokens
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.build import _placeless, build
from repo_agent.data.contract import Contract, contract_hash, our_contract
from repo_agent.data.export import read_dataset, weighted
from repo_agent.data.gates import GATES, Ground, agreed_split, commonest_contract, sift
from repo_agent.data.inventory import inventory
from repo_agent.data.merge import merge
from repo_agent.data.parity import check, same_loss
from repo_agent.data.steps import Step, candidates, scrub
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.protocols import protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.traces.read import read_trace, read_traces
from repo_agent.traces.store import RunDir

FIXTURES = Path(__file__).parent / "fixtures" / "older"
JSON = protocol_named("json")


def call(name: str, **args) -> str:
    return JSON.render_call(ToolCall(name, args))


LIST = call("list_files", rel_dir=".", max_files=9)
READ = call("read_file", rel_path="src/app.py", max_chars=900)
WRITE = call("write_file", rel_path="src/app.py", content="total = sum\n")
FINAL = JSON.render_final("done")
BAD = call("read_file", rel_path="src/app.py")
EVERY_CLASS = {
    "early_final": FINAL,
    "no_call": "I shall look around.",
    "multiple_calls": LIST + READ,
    "wrapped": f"Here:\n{LIST}",
    "json_invalid": LIST.replace('"max_files":9', '"max_files":9,"max_files":9'),
    "envelope_invalid": '{"name":"list_files","args":{}}',
    "unknown_tool": call("run_tests"),
    "missing_arg": BAD,
    "unexpected_arg": call("list_files", rel_dir=".", max_files=9, deep=True),
    "wrong_type": call("list_files", rel_dir=".", max_files="9"),
    "bad_value": call("list_files", rel_dir="../..", max_files=9),
    "exec_error": call("read_file", rel_path="none.py", max_chars=9),
    "ok": LIST,
    "final": FINAL,
}


def record(**changes) -> dict:
    return {"arm": "base", "train": ["a", "b"], "held_out": ["c"], **changes}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.open(tmp_path / "runs" / "teacher", record())


@pytest.fixture
def mixed(run: RunDir, play) -> RunDir:
    """Two trained tasks, one of them twice, a held-out one, and a rollout that fails."""
    play(run, "a", [LIST, BAD, READ, READ, WRITE, FINAL])
    play(run, "a", [LIST, WRITE, READ, FINAL], k=1)
    play(run, "b", [LIST, READ, FINAL], passed=False)
    play(run, "c", [LIST, WRITE, FINAL])
    return run


# --- classes


def test_the_fresh_class_is_the_recorded_one(run: RunDir, play) -> None:
    play(run, "a", list(EVERY_CLASS.values()))
    trace = read_trace(run.traces()[0])
    assert [turn.turn_class for turn in trace.turns] == list(EVERY_CLASS)
    assert [step.turn_class for step in candidates([trace])] == list(EVERY_CLASS)


def test_other_schemas_judge_the_same_turns_afresh(run: RunDir, play, tmp_path: Path) -> None:
    play(run, "a", [LIST, READ, FINAL])
    only_list = tmp_path / "tools.json"
    only_list.write_text(json.dumps([tool for tool in default_registry().schemas() if "list" in str(tool)]))
    assert inventory([run.path], only_list)["turns"] == {"unknown_tool": 1, "ok": 1, "final": 1}


def test_a_call_without_a_recorded_result_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    lines = (FIXTURES / "json" / "fix_mean.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]))
    assert inventory([path])["turns"] == {"infra_error": 1}


@pytest.mark.parametrize("arguments", ['{"rel_dir": ".", ', "[1]"])
def test_native_arguments_that_are_no_object_are_counted(tmp_path: Path, tiny_base: Path, arguments: str) -> None:
    path = tmp_path / "native.jsonl"
    text = (FIXTURES / "native" / "fix_mean.jsonl").read_text()
    good = json.dumps('{"rel_dir": ".", "max_files": 50}')
    assert text.count(good) == 5
    path.write_text(text.replace(good, json.dumps(arguments)))
    assert inventory([path])["turns"] == {"json_invalid": 1, "missing_arg": 1, "ok": 3, "final": 1}
    assert inventory([path])["raw_unknown"] == 5
    for rerender in (False, True):
        made = build([path], tmp_path / f"set{rerender}", no_split=True, rerender=rerender, tokenizer=str(tiny_base))
        assert made["funnel"]["strict_valid"] == 2 and made["rows"] == 3


def test_a_native_trace_that_ends_with_arguments_cut_off_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "native.jsonl"
    lines = (FIXTURES / "native" / "fix_mean.jsonl").read_text().splitlines(keepends=True)[:-3]
    for raw, turn_class in [('{"rel_path": "st', "json_invalid"), ("I am done.", "no_call")]:
        last = {"kind": "llm_parse_error", "payload": {"raw": raw}}
        path.write_text("".join([*lines, json.dumps(last) + "\n"]))
        assert [step.turn_class for step in candidates([read_trace(path)])][-1] == turn_class


# --- gates and funnel


CONTRACTS = [Contract(system, [], "json") for system in ("one", "two")]
steps = st.builds(
    Step,
    id=st.uuids().map(str),
    task=st.sampled_from("abc"),
    group=st.just("g"),
    run=st.just("r"),
    rollout=st.just(0),
    trace=st.just("t"),
    t=st.integers(0, 9),
    turn_class=st.sampled_from(["ok", "ok", "ok", "final", "wrapped", "exec_error", "missing_arg"]),
    contract=st.sampled_from(CONTRACTS),
    context=st.just(()),
    target=st.builds(Message, role=st.just("assistant"), content=st.text(max_size=12)),
    call=st.none(),
    passed=st.sampled_from([True, True, False, None]),
    last=st.booleans(),
    repeats=st.booleans(),
    raw_unknown=st.just(False),
    reconstructed=st.just(False),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=30), st.booleans())
def test_the_funnel_adds_up_and_what_is_left_passes_every_gate(found: list[Step], split: bool) -> None:
    ground = Ground(commonest_contract(found), frozenset("ab") if split else None, lambda s: len(s.target.content), 9)
    rows, funnel = sift(found, ground)
    assert funnel.candidates == len(found) and funnel.rows == len(rows)
    assert sum(funnel.totals().values()) + len(rows) == len(found)
    assert all(keeps(step, ground) for step in rows for keeps in GATES.values())
    assert rows == [step for step in found if all(keeps(step, ground) for keeps in GATES.values())]
    per_task = sum((Counter(tasks) for tasks in funnel.dropped.values()), Counter(step.task for step in rows))
    assert per_task == Counter(step.task for step in found)
    assert ("split" in funnel.totals()) == split


def test_every_gate_drops_what_it_names(mixed: RunDir) -> None:
    found = candidates(read_traces([mixed.path])[0])
    longest = max(found, key=lambda step: len(step.context))
    ground = Ground(commonest_contract(found), frozenset("ab"), lambda step: 1 + (step is longest), 1)
    rows, funnel = sift(found, ground)
    assert funnel.totals() == {
        "contract": 0,
        "split": 3,
        "strict_valid": 1,
        "executed_ok": 0,
        "run_passed": 3,
        "no_repeat": 1,
        "within_length": 1,
    }
    assert funnel.dropped["split"] == {"c": 3} and funnel.dropped["run_passed"] == {"b": 3}
    assert [(step.rollout, step.t) for step in rows] == [(0, 0), (0, 2), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_the_commonest_contract_wins(run: RunDir, play, tmp_path: Path) -> None:
    play(run, "a", [LIST, READ, READ, WRITE, LIST, READ, FINAL])
    traces, _ = read_traces([run.path, FIXTURES / "native"])
    found = candidates(traces)
    assert commonest_contract(found) == contract_hash(traces[0].system, default_registry().schemas(), "json")
    _, funnel = sift(found, Ground(commonest_contract(found), None, lambda step: 1))
    assert funnel.dropped["contract"] == {"fix_mean": 6}


def test_a_repeat_is_no_repeat_after_a_write(run: RunDir, play) -> None:
    play(run, "a", [LIST, READ, LIST, WRITE, READ, READ, WRITE, FINAL])
    repeats = [step.t for step in candidates([read_trace(run.traces()[0])]) if step.repeats]
    assert repeats == [2, 5, 6]


def test_a_final_that_the_tests_refused_is_no_target(mixed: RunDir) -> None:
    step = next(step for step in candidates(read_traces([mixed.path])[0]) if step.turn_class == "final")
    ground = Ground(step.contract.hash, None, lambda step: 1)
    assert GATES["executed_ok"](step, ground) and not GATES["executed_ok"](replace(step, last=False), ground)


def test_the_split_is_the_one_that_every_run_records(mixed: RunDir, tmp_path: Path, play) -> None:
    other = RunDir.open(tmp_path / "runs" / "other", record(held_out=["b"]))
    play(other, "a", [LIST, FINAL])
    traces = [*mixed.traces(), *other.traces()]
    assert agreed_split(mixed.traces(), None).held_out == ("c",)
    with pytest.raises(UserError, match="disagrees"):
        agreed_split(traces, None)
    with pytest.raises(UserError, match="--suite"):
        agreed_split(mixed.traces(), replace(agreed_split(mixed.traces(), None), held_out=("d",)))
    with pytest.raises(UserError, match="record no split"):
        agreed_split([FIXTURES / "json" / "fix_mean.jsonl"], None)
    with pytest.raises(UserError, match="disagrees"):
        build([mixed.path, other.path], tmp_path / "set")
    assert not (tmp_path / "set").exists()


# --- rows


def test_merged_rows_carry_weight_on_kept_turns_alone(mixed: RunDir) -> None:
    found = candidates(read_traces([mixed.path])[0])
    rows, _ = sift(found, Ground(commonest_contract(found), frozenset("a"), lambda step: 1))
    first, second = merge(rows)
    assert [step.t for step in first.steps] == [0, 2, 4, 5] and first.kept == (2, 6, 10, 12)
    for index, step in zip(first.kept, first.steps, strict=True):
        assert first.messages[:index] == step.context and first.messages[index] == step.target
    weights = [message["weight"] for message in weighted(first.messages, first.kept)]
    assert [place for place, weight in enumerate(weights) if weight] == list(first.kept) and len(weights) == 13
    assert len(second.messages) == 9 and second.kept == (2, 4, 6, 8)


def test_a_rewritten_history_starts_a_new_row(mixed: RunDir) -> None:
    found = [step for step in candidates(read_traces([mixed.path])[0]) if (step.task, step.rollout) == ("a", 1)]
    noted = [replace(step, context=(*step.context[:1], Message("system", "note"), *step.context[1:])) for step in found]
    rows = merge([*found[:2], *noted[2:]])
    assert [row.kept for row in rows] == [(2, 4), (7, 9)] and len({row.id for row in rows}) == 2


def test_arguments_are_strings_only_in_chat_rows() -> None:
    trace = read_trace(FIXTURES / "native" / "fix_mean.jsonl")
    context = trace.turns[-1].context
    rows = weighted(context, [2])
    arguments = rows[2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"rel_dir": ".", "max_files": 50} == context[2].tool_calls[0].args
    asked = [entry["id"] for row in rows for entry in row.get("tool_calls", [])]
    assert [row["tool_call_id"] for row in rows if row["role"] == "tool"] == asked and len(set(asked)) == 5
    assert [row["weight"] for row in rows].count(1) == 1 and all("weight" in row for row in rows)


def test_parity_holds_and_notices_a_shuffled_mask(mixed: RunDir, tiny_base: Path) -> None:
    found = candidates(read_traces([mixed.path])[0])
    rows, _ = sift(found, Ground(commonest_contract(found), frozenset("a"), lambda step: 1))
    renderer = rows[0].contract.renderer(load_tokenizer(str(tiny_base)))
    step_rows = {step.id: renderer.rows((*step.context, step.target), [len(step.context)])[0] for step in rows}
    merged = {row.id: renderer.rows(row.messages, row.kept) for row in merge(rows)}
    assert check(merge(rows), step_rows, merged, renderer).holds
    name, (good,) = next(iter(merged.items()))
    for labels in ([*good.labels[1:], IGNORE], [*good.labels[:-1], IGNORE], good.input_ids):
        wrong = {**merged, name: [Tokens(good.input_ids, labels)]}
        assert check(merge(rows), step_rows, wrong, renderer).faults == (name,)
    assert not same_loss([*step_rows.values()], [good])


# --- the dataset directory


def test_build_writes_a_dataset_that_reads_back(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    out = tmp_path / "sets" / "first"
    made = build([mixed.path], out, tokenizer=str(tiny_base))
    data = read_dataset(out)
    assert made["candidates"] == made["rows"] + sum(made["funnel"].values()) == 16
    assert (made["rows"], made["merged_rows"]) == (len(data.steps), len(data.trajectories)) == (8, 2)
    renderer = data.contract.renderer(load_tokenizer(str(tiny_base)))
    for row, tokens in zip(data.trajectories, data.tokens(), strict=True):
        assert renderer.rows([Message.from_dict(message) for message in row["messages"]], row["kept"]) == [tokens]
    assert sum(tokens.trained for tokens in data.tokens()) == made["trained_tokens"]
    assert sum(len(tokens.input_ids) for tokens in data.tokens()) == made["tokens_merged"] < made["tokens_steps"]
    assert {row["task"] for row in data.steps} == {"a"} and data.record["split"]["held_out"] == ["c"]
    assert data.record["contract"] == our_contract(default_registry()).hash
    assert json.loads((out / "funnel.json").read_text())["rows"] == 8
    chat = [json.loads(line) for line in (out / "chat_steps.jsonl").read_text().splitlines()]
    assert [sum(message["weight"] for message in row["messages"]) for row in chat] == [1] * 8
    assert all(row["messages"][-1]["weight"] == 1 for row in chat)
    assert "holds" in (out / "card.md").read_text() and str(tmp_path) not in "".join(
        path.read_text() for path in out.iterdir()
    )
    assert [path.name for path in out.parent.iterdir()] == ["first"]


def test_token_rows_are_the_prompts_that_run(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    build([mixed.path], tmp_path / "set", tokenizer=str(tiny_base))
    tokenizer = load_tokenizer(str(tiny_base))
    row = read_dataset(tmp_path / "set").tokens()[0]
    said = tokenizer.decode([label for label in row.labels if label != IGNORE])
    assert said == "".join(f"{text}<|im_end|>" for text in (LIST, READ, WRITE, FINAL))


def test_build_never_overwrites(mixed: RunDir, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="exists already"):
        build([mixed.path], tmp_path / "set")


def test_an_empty_dataset_prints_the_funnel(run: RunDir, tmp_path: Path, play, tiny_base: Path) -> None:
    play(run, "a", [LIST, FINAL], passed=False)
    with pytest.raises(UserError, match=r"2 candidates, .*run_passed -2.* 0 rows"):
        build([run.path], tmp_path / "sets" / "none", tokenizer=str(tiny_base))
    assert not (tmp_path / "sets").exists()


def test_rows_that_are_too_long_are_dropped_and_counted(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    whole = build([mixed.path], tmp_path / "whole", tokenizer=str(tiny_base))
    sizes = [len(tokens.input_ids) for tokens in read_dataset(tmp_path / "whole").tokens()]
    short = build([mixed.path], tmp_path / "short", tokenizer=str(tiny_base), max_length=min(sizes))
    assert short["funnel"]["within_length"] > 0 and short["rows"] < whole["rows"]
    assert short["rows"] + sum(short["funnel"].values()) == whole["candidates"]
    assert max(len(tokens.input_ids) for tokens in read_dataset(tmp_path / "short").tokens()) <= min(sizes)


def test_a_missing_or_torn_dataset_file_is_a_user_error(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    build([mixed.path], tmp_path / "set", tokenizer=str(tiny_base))
    path = tmp_path / "set" / "steps.jsonl"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match=r"steps\.jsonl:8"):
        read_dataset(tmp_path / "set")
    path.unlink()
    with pytest.raises(UserError, match=r"steps\.jsonl"):
        read_dataset(tmp_path / "set")


def test_another_agents_traces_are_put_into_our_protocol(tmp_path: Path, tiny_base: Path) -> None:
    native = FIXTURES / "native"
    own = build([native], tmp_path / "own", no_split=True, tokenizer=str(tiny_base))
    ours = build([native], tmp_path / "ours", no_split=True, rerender=True, tokenizer=str(tiny_base))
    assert own["rows"] == ours["rows"] == inventory([native])["kept"] == 4
    trained = read_dataset(tmp_path / "own").tokens()[0]
    said = load_tokenizer(str(tiny_base)).decode([label for label in trained.labels if label != IGNORE])
    assert said.count("<tool_call>") == 3 and '"rel_dir": "."' in said
    chat = json.loads((tmp_path / "own" / "chat_trajectories.jsonl").read_text())
    assert [tool["function"]["name"] for tool in chat["tools"]] == list(default_registry().specs)
    data = read_dataset(tmp_path / "ours")
    assert data.record["contract"] == our_contract(default_registry()).hash
    assert data.record["reconstructed"] and all(row["reconstructed"] for row in data.steps)
    messages = data.trajectories[0]["messages"]
    assert messages[1]["content"] == "GOAL:\nMake mean() of stats.py divide by the number of values"
    assert messages[2] == {"role": "assistant", "content": call("list_files", rel_dir=".", max_files=50)}
    assert messages[3]["content"] == "[tool_result] stats.py\ntest_stats.py"
    assert messages[-1]["content"] == JSON.render_final("mean divides by the count")
    assert "DRIVER NOTE" not in (tmp_path / "ours" / "steps.jsonl").read_text()


def test_a_dataset_without_a_split_says_so_loudly(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    for no_split, tasks in ((True, ["a", "c"]), (False, ["a"])):
        out = tmp_path / f"set{no_split}"
        build([mixed.path], out, no_split=no_split, tokenizer=str(tiny_base))
        data, card = read_dataset(out), (out / "card.md").read_text()
        assert data.tasks == tasks and (data.record["split"] is None) == no_split
        warned = "SPLIT OFF" in card.split("## Funnel")[0] and "Never report held-out results" in card
        assert warned == no_split


@pytest.mark.parametrize("home", ["/root", "/root/", "/srv/people/someone.x"])
def test_the_users_own_home_stays_out_wherever_it_lies(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    own = home.rstrip("/")
    for around in ("{}", "cd {}", "in {}/x.py", "'{}'", '"{}/x"', "at {}.", "{}:/bin", "(file://{}/x)", r'"out\n{}/x"'):
        assert scrub(around.format(own)) == around.format("~")
    for longer in (f"{own}2", f"{own}-old/x", f"{own}.bak", f"src{own}/x", f"..{own}/x", f"https:/{own}/x"):
        assert scrub(longer) == longer


def test_a_home_at_the_root_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert scrub("ls / /etc a/ b") == "ls / /etc a/ b"


def test_home_folders_and_keys_stay_out() -> None:
    text = "see /home/someone/code/x.py and /Users/me/y, key sk-abcdefghijklmnopqrstuv"
    assert scrub(text) == "see ~/code/x.py and ~/y, key [key]"
    assert scrub("src/home/page.py desk-lamp") == "src/home/page.py desk-lamp"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("local:/home/me/models/q+/data/a/tuned", "local:q+tuned"),
        ("quixbugs=../../QuixBugs", "quixbugs=QuixBugs"),
        ("~/models/q", "q"),
        ("openai:org/q@https://host.example/v1", "openai:org/q@https://host.example/v1"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("tiny", "tiny"),
    ],
)
def test_records_name_no_folders(spec: str, name: str) -> None:
    assert _placeless(spec) == name


def test_a_pile_without_a_trace_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="no trace"):
        build([tmp_path], tmp_path / "set", no_split=True)
    assert inventory([tmp_path])["runs"] == 0


# --- real traces of another agent


COUNTS = {
    "native": ({"unknown_tool": 1, "missing_arg": 1, "wrong_type": 1, "ok": 17, "final": 5}, 5, 22),
    "json": ({"wrapped": 2, "unknown_tool": 1, "missing_arg": 1, "wrong_type": 1, "ok": 12, "final": 3}, 3, 14),
}


@pytest.mark.parametrize("shape", ["native", "json"])
def test_legacy_counts_are_those_made_by_hand(legacy: Path, tmp_path: Path, tiny_base: Path, shape: str) -> None:
    turns, passed, kept = COUNTS[shape]
    found = inventory([legacy / shape])
    assert (found["runs"], found["passed"], found["turns"], found["kept"]) == (5, passed, turns, kept)
    made = build([legacy / shape], tmp_path / "set", no_split=True, tokenizer=str(tiny_base))
    assert (made["candidates"], made["rows"]) == (sum(turns.values()), kept)
    text = "".join(path.read_text() for path in (tmp_path / "set").iterdir())
    assert "/home/" not in text


@pytest.mark.parametrize("shape", ["native", "json"])
def test_damage_at_the_tail_changes_no_other_count(legacy: Path, tmp_path: Path, shape: str) -> None:
    turns, passed, _ = COUNTS[shape]
    folder = tmp_path / "copy"
    shutil.copytree(legacy / shape, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    torn = folder / next(folder.glob("*bitcount*")).name
    torn.write_text(torn.read_text() + '{"ts": 1795365880.9, "kind": "llm_acti')
    (folder / "empty.jsonl").touch()
    cut = next(folder.glob("*quicksort*"))
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1]))
    found = inventory([folder])
    assert (found["runs"], found["passed"], found["turns"]) == (5, passed - 1, turns)
    assert {Path(problem.split(":")[0]).name for problem in found["problems"]} == {torn.name, "empty.jsonl", cut.name}
