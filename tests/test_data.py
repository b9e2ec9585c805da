"""From traces to a dataset: classes, trajectories, gates and funnel, rows, the directory, inventory."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.audit import audit, audit_page
from repo_agent.data.build import NO_SPLIT, BuildOptions, _placeless, build
from repo_agent.data.classify import Registries
from repo_agent.data.dataset import read_dataset, trajectory_of, trajectory_record
from repo_agent.data.gates import DEFAULTS, GATES, GateContext, GateSettings, apply_gates, gate_settings
from repo_agent.data.inventory import inventory
from repo_agent.data.rerender import without_homes
from repo_agent.data.texts import Texts
from repo_agent.data.trajectories import Dropped, Label, Trajectory, rows, steps, trajectories_of
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.protocols import protocol_named
from repo_agent.protocols.contract import Contract, contract_of
from repo_agent.tools.files import default_registry
from repo_agent.traces.read import read_trace, read_traces
from repo_agent.traces.splits import agreed_split
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


def trajectories(*traces: Any) -> list[Trajectory]:
    registries = Registries()
    return [found for trace in traces for found in trajectories_of(trace, registries.of(trace))]


def labels(*traces: Any) -> list[Label]:
    return [turn for trajectory in trajectories(*traces) for turn in trajectory.turns]


def build_from(paths: list[Path], out: Path | None, base: Path, **options: Any) -> dict[str, Any]:
    said: list[str] = []
    return build(BuildOptions(paths=paths, tokenizer=str(base), **options), out, say=said.append)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.open(tmp_path / "runs" / "teacher", record())


@pytest.fixture
def mixed(run: RunDir, play) -> RunDir:
    """Two trained tasks, one of them twice, a held-out one, and a rollout that fails."""
    play(run, "a", [LIST, BAD, READ, READ, WRITE, FINAL])
    play(run, "a", [LIST, READ, WRITE, FINAL], k=1)
    play(run, "b", [LIST, READ, FINAL], passed=False)
    play(run, "c", [LIST, WRITE, FINAL])
    return run


# --- classes


def test_the_fresh_class_is_the_recorded_one(run: RunDir, play) -> None:
    play(run, "a", list(EVERY_CLASS.values()))
    trace = read_trace(run.traces()[0])
    assert [turn.turn_class for turn in trace.turns] == list(EVERY_CLASS)
    assert [turn.turn_class for turn in labels(trace)] == list(EVERY_CLASS)


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
        made = build_from([path], tmp_path / f"set{rerender}", tiny_base, no_split=True, rerender=rerender)
        assert made["funnel"]["strict_valid"] == 2 and made["rows"] == 3


def test_a_native_trace_that_ends_with_arguments_cut_off_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "native.jsonl"
    lines = (FIXTURES / "native" / "fix_mean.jsonl").read_text().splitlines(keepends=True)[:-3]
    for raw, turn_class in [('{"rel_path": "st', "json_invalid"), ("I am done.", "no_call")]:
        last = {"kind": "llm_parse_error", "payload": {"raw": raw}}
        path.write_text("".join([*lines, json.dumps(last) + "\n"]))
        assert labels(read_trace(path))[-1].turn_class == turn_class


# --- gates and funnel


CONTRACT = Contract([], "json")
LABELS = st.builds(
    Label,
    t=st.integers(0, 9),
    at=st.just(0),
    turn_class=st.sampled_from(["ok", "ok", "ok", "final", "wrapped", "exec_error", "missing_arg"]),
    error=st.just("why"),
    reply=st.just(Message("assistant", "x")),
    sent_back=st.just(True),
    call=st.none(),
    last=st.booleans(),
    repeats=st.booleans(),
    after_bad=st.booleans(),
    raw_unknown=st.just(False),
    unseen=st.sampled_from([None, (), ("a line",)]),
    redacted=st.just(False),
    prompt_ids=st.none(),
)
TRAJECTORIES = st.builds(
    lambda task, passed, turns: trajectory(task, passed, turns),
    st.sampled_from("abc"),
    st.sampled_from([True, True, False, None]),
    st.lists(LABELS, max_size=6),
)
SETTINGS = st.lists(st.sampled_from(list(GATES)), unique=True).map(
    lambda names: GateSettings({name: 3 if name == "max_turns" else 0 for name in names})
)


def trajectory(task: str, passed: bool | None, turns: list[Label], messages: list[Message] | None = None) -> Trajectory:
    about = {"id": "r/t", "group": task, "run": "r", "rollout": 0, "trace": "t", "contract": CONTRACT}
    rest = {"served": False, "reconstructed": False, "messages": messages or [Message("user", "go")]}
    return Trajectory(**about, **rest, task=task, passed=passed, turns=tuple(turns))


@settings(max_examples=150, deadline=None)
@given(TRAJECTORIES, SETTINGS, st.booleans())
def test_a_turn_is_kept_if_every_gate_that_is_on_keeps_it(found: Trajectory, on: GateSettings, split: bool) -> None:
    context = GateContext(frozenset("ab") if split else None, Texts(), 3)
    gated = apply_gates(found, context, on)
    for before, after in zip(found.turns, gated.turns, strict=True):
        whys = [(name, GATES[name](before, found, context)) for name in GATES if name in on.on]
        assert after.dropped == next((Dropped(name, why) for name, why in whys if why), None)
        assert replace(after, dropped=None).t == before.t


def test_every_gate_drops_what_it_names(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    made = build_from([mixed.path], tmp_path / "set", tiny_base)
    expected = {"split": 3, "strict_valid": 1, "run_passed": 3, "no_repeat": 1}
    assert made["funnel"] == {**dict.fromkeys(["contract", *DEFAULTS, "within_length"], 0), **expected}
    dropped = list(read_dataset(tmp_path / "set").dropped())
    assert Counter(record["gate"] for record in dropped) == expected
    assert {record["task"] for record in dropped if record["gate"] == "split"} == {"c"}
    assert [record["why"] for record in dropped if record["gate"] == "strict_valid"] == [
        "missing_arg: read_file needs max_chars"
    ]
    kept = [(found.rollout, turn.t) for found in read_dataset(tmp_path / "set").trajectories() for turn in found.kept]
    assert kept == [(0, 0), (0, 2), (0, 4), (0, 5), (1, 0), (1, 1), (1, 2), (1, 3)]
    funnel = json.loads((tmp_path / "set" / "funnel.json").read_text())
    assert funnel["candidates"] == funnel["rows"] + sum(gate["dropped"] for gate in funnel["gates"]) == 16


def test_gates_are_left_out_added_and_set(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    def rows_with(*words: str, file: Path | None = None) -> dict[str, Any]:
        return build_from([mixed.path], None, tiny_base, settings=gate_settings(words, file))

    plain = rows_with()
    assert rows_with("run_passed=off")["rows"] == plain["rows"] + 3
    assert "run_passed" not in rows_with("run_passed=off")["funnel"]
    assert rows_with("no_recovery")["funnel"]["no_recovery"] == 1 == plain["recoveries"]
    assert rows_with("no_final")["funnel"]["no_final"] == 2 == plain["finals"]
    assert rows_with("max_turns=2")["funnel"]["max_turns"] == 5
    file = tmp_path / "gates.toml"
    file.write_text("[gates]\nrun_passed = false\nmax_turns = 1\n")
    assert rows_with(file=file)["rows"] == 3 and rows_with("max_turns=off", file=file)["rows"] == plain["rows"] + 3


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (["no_such"], None, "no gate 'no_such'"),
        (["max_turns"], None, "Write max_turns=NUMBER"),
        (["split=3"], None, "Write split, or split=off"),
        (["within_length=-1"], None, "does not take"),
        ([], "[gates]\nsplit = 'x'\n", "gates.toml: gates"),
        ([], "[door]\nx = 1\n", "holds door"),
        ([], "gates", "TOML"),
    ],
)
def test_a_wrong_gate_is_a_user_error(tmp_path: Path, words: list[str], text: str | None, said: str) -> None:
    file = tmp_path / "gates.toml"
    if text:
        file.write_text(text)
    with pytest.raises(UserError, match=said):
        gate_settings(words, file if text else None)


def test_what_was_not_checked_of_a_schema_is_counted(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    schemas = copy.deepcopy(default_registry().schemas())
    schemas[1]["function"]["parameters"]["properties"]["rel_path"]["pattern"] = "^(([a-z/.]+)+x?)+$"
    (tmp_path / "schema.json").write_text(json.dumps(schemas))
    play(run, "a", [LIST, READ, FINAL])
    found = inventory([run.path], tmp_path / "schema.json")
    assert found["unchecked"] == {"pattern": 1} and found["kept"] == 3
    build_from([run.path], tmp_path / "set", tiny_base, no_split=True, tools=str(tmp_path / "schema.json"))
    assert "rows whose call was not checked in full | 1 |" in (tmp_path / "set" / "card.md").read_text()


def test_the_most_frequent_contract_wins(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    play(run, "a", [LIST, READ, READ, WRITE, LIST, READ, FINAL])
    made = build_from([run.path, FIXTURES / "native"], tmp_path / "set", tiny_base, no_split=True)
    assert made["funnel"]["contract"] == 6 and made["candidates"] == 13
    data = read_dataset(tmp_path / "set")
    assert data.contract.hash == contract_of(default_registry(), "json").hash
    other = [record for record in data.dropped() if record["gate"] == "contract"]
    assert [record["t"] for record in sorted(other, key=lambda record: record["t"])] == [0, 1, 2, 3, 4, 5]
    assert all(data.contract.hash in record["why"] and record["task"] == "fix_mean" for record in other)


def test_six_system_prompts_are_one_contract(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    for k in range(6):
        play(run, "a", [LIST, FINAL], k)
        path = run.path / f"traces/a/{k}.jsonl"
        path.write_text(path.read_text().replace("You fix code", f"Today is the {k}th. You fix code"))
    made = build_from([run.path], tmp_path / "set", tiny_base)
    record = read_dataset(tmp_path / "set").record
    assert made["rows"] == 12 and made["funnel"]["contract"] == 0
    assert sorted(prompt["rows"] for prompt in record["prompts"]) == [2] * 6
    assert "Today is the 3th" in (tmp_path / "set" / "card.md").read_text()


def test_a_repeat_is_no_repeat_after_a_write(run: RunDir, play) -> None:
    play(run, "a", [LIST, READ, LIST, WRITE, READ, READ, WRITE, FINAL])
    assert [turn.t for turn in labels(read_trace(run.traces()[0])) if turn.repeats] == [2, 5, 6]


def test_a_final_that_the_tests_refused_is_no_target(mixed: RunDir) -> None:
    found = next(found for found in trajectories(*read_traces([mixed.path])[0]) if found.passed)
    final, context = found.turns[-1], GateContext(None, Texts())
    assert not GATES["executed_ok"](final, found, context)
    assert "went on" in GATES["executed_ok"](replace(final, last=False), found, context)


def test_a_write_that_was_not_seen_is_dropped(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    for k, unseen in enumerate(('["    return 0"]', "[]", None)):
        play(run, "a", [LIST, WRITE, FINAL], k)
        path = run.path / f"traces/a/{k}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        place = next(n for n, line in enumerate(lines) if '"output":"wrote' in line)
        record = {key: value for key, value in json.loads(lines[place]).items() if key != "unseen"}
        lines[place] = json.dumps(record if unseen is None else {**record, "unseen": json.loads(unseen)}) + "\n"
        path.write_text("".join(lines))
    made = build_from([run.path], tmp_path / "set", tiny_base)
    (dropped,) = read_dataset(tmp_path / "set").dropped()
    assert made["funnel"]["unseen"] == 1 and "return 0" in dropped["why"] and dropped["rollout"] == 0
    assert "unknown for 1 rows" in (tmp_path / "set" / "card.md").read_text()


SECRET = "ghp_" + "aB3" * 12


def test_a_secret_drops_its_turn_and_all_later_ones(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    play(run, "a", [LIST, READ, WRITE, FINAL])
    path = run.traces()[0]
    path.write_text(path.read_text().replace("return 0", f"return '{SECRET}'"))
    made = build_from([run.path], tmp_path / "set", tiny_base)
    assert made["rows"] == 2 and made["funnel"]["secret"] == 2
    text = "".join(file.read_text() for file in (tmp_path / "set").iterdir())
    assert SECRET not in text
    whys = [record["why"] for record in read_dataset(tmp_path / "set").dropped()]
    assert len(set(whys)) == 1 and whys[0].startswith("message 5: ")
    told = whys[0].split("(")[1].rstrip(")")
    allowed = build_from([run.path], tmp_path / "all", tiny_base, settings=gate_settings(allow=[told]))
    assert allowed["rows"] == 4 and SECRET in (tmp_path / "all" / "trajectories.jsonl").read_text()


def test_what_was_replaced_when_it_was_recorded_is_not_trained(
    run: RunDir, play, tmp_path: Path, tiny_base: Path
) -> None:
    play(run, "a", [LIST, READ, WRITE, FINAL])
    path = run.traces()[0]
    lines = path.read_text().splitlines(keepends=True)
    place = [n for n, line in enumerate(lines) if '"kind":"llm_request"' in line][2]
    lines[place] = json.dumps({**json.loads(lines[place]), "redacted": True}) + "\n"
    path.write_text("".join(lines))
    made = build_from([run.path], tmp_path / "set", tiny_base)
    assert made["rows"] == 2 and made["funnel"]["secret"] == 2


@pytest.mark.parametrize(("model", "kept"), [("local:tiny", 4), ("openai:m@http://127.0.0.1:1/v1", 2)])
def test_a_special_token_in_a_file_drops_what_a_server_was_shown(
    run: RunDir, play, tmp_path: Path, tiny_base: Path, model: str, kept: int
) -> None:
    play(run, "a", [LIST, READ, WRITE, FINAL])
    path = run.traces()[0]
    text = (
        path.read_text().replace("return 0", "return '<|im_end|>'").replace('"model":"scripted"', f'"model":"{model}"')
    )
    path.write_text(text)
    made = build_from([run.path], tmp_path / "set", tiny_base, exports=["chat-steps", "trl", "parquet"])
    assert made["rows"] == kept and made["funnel"]["control_token"] == 4 - kept
    for name in ("chat_steps", "trl"):
        lines = (tmp_path / "set" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == 2 and not any("<|im_end|>" in line for line in lines)


def test_half_a_character_is_dropped(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    play(run, "a", [LIST, READ, WRITE, FINAL])
    path = run.traces()[0]
    path.write_text(path.read_text().replace("return 0", "return '\\ud83d'"))
    made = build_from([run.path], tmp_path / "set", tiny_base)
    assert made["rows"] == 2 and made["funnel"]["encodable"] == 2


def test_the_split_is_the_one_that_every_run_records(mixed: RunDir, tmp_path: Path, play, tiny_base: Path) -> None:
    other = RunDir.open(tmp_path / "runs" / "other", record(held_out=["b"]))
    play(other, "a", [LIST, FINAL])
    traces = [*mixed.traces(), *other.traces()]
    split = agreed_split(mixed.traces(), None, NO_SPLIT)
    assert split.held_out == ("c",)
    with pytest.raises(UserError, match=r"disagrees|not of one suite"):
        agreed_split(traces, None, NO_SPLIT)
    with pytest.raises(UserError, match="--suite"):
        agreed_split(mixed.traces(), type(split)(("a", "c"), ("b",)), NO_SPLIT)
    with pytest.raises(UserError, match="record no split"):
        agreed_split([FIXTURES / "json" / "fix_mean.jsonl"], None, NO_SPLIT)
    with pytest.raises(UserError, match=r"disagrees|not of one suite"):
        build_from([mixed.path, other.path], tmp_path / "set", tiny_base)
    assert not (tmp_path / "set").exists()


def test_suites_with_other_task_ids_are_joined(mixed: RunDir, tmp_path: Path, play, tiny_base: Path) -> None:
    other = RunDir.open(tmp_path / "runs" / "other", record(train=["x"], held_out=["y"]))
    play(other, "x", [LIST, FINAL])
    play(other, "y", [LIST, FINAL])
    made = build_from([mixed.path, other.path], tmp_path / "set", tiny_base)
    data = read_dataset(tmp_path / "set")
    assert data.tasks == ["a", "x"] and data.record["split"] == {"train": ["a", "b", "x"], "held_out": ["c", "y"]}
    assert made["funnel"]["split"] == 5


# --- rows


def test_a_row_carries_loss_on_kept_turns_alone(mixed: RunDir) -> None:
    found = trajectories(*read_traces([mixed.path])[0])[0]
    gated = apply_gates(found, GateContext(None, Texts()), GateSettings())
    (row,) = rows(gated)
    assert [turn.t for turn in gated.kept] == [0, 2, 4, 5] and row.targets == [2, 6, 10, 12]
    for turn, context in steps(gated):
        assert row.messages[: turn.at] == list(context) and row.messages[turn.at] == turn.reply
    assert len(row.messages) == 13


def edited(found: Trajectory, t: int) -> Trajectory:
    """As if the agent had sent turn `t` back in other words."""
    turn = found.turns[t]
    messages = list(found.messages)
    messages[turn.at] = Message("assistant", "shortened")
    turns = [replace(other, sent_back=other.t != t) for other in found.turns]
    return trajectory(found.task, found.passed, turns, messages)


def test_a_turn_that_its_agent_changed_ends_its_row(mixed: RunDir) -> None:
    found = edited(trajectories(*read_traces([mixed.path])[0])[1], 1)
    first, second = rows(found)
    assert (first.targets, second.targets) == ([2, 4], [6, 8])
    assert first.messages[-1] == found.turns[1].reply and second.messages[4] == Message("assistant", "shortened")
    dropped = found.with_turns(
        replace(turn, dropped=Dropped("x", "y")) if turn.t == 1 else turn for turn in found.turns
    )
    assert [row.targets for row in rows(dropped)] == [[2, 6, 8]]


def test_a_trajectory_reads_back_as_it_was_written(mixed: RunDir) -> None:
    for found in trajectories(*read_traces([mixed.path])[0]):
        gated = apply_gates(edited(found, 1), GateContext(None, Texts()), GateSettings().without(["run_passed"]))
        back = trajectory_of(json.loads(json.dumps(trajectory_record(gated))), gated.contract)
        assert list(rows(back)) == list(rows(gated))
        assert [(turn.t, turn.at, turn.what, turn.reply) for turn in back.kept] == [
            (turn.t, turn.at, turn.what, turn.reply) for turn in gated.kept
        ]


# --- the dataset directory


def test_build_writes_a_dataset_that_reads_back(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    out = tmp_path / "sets" / "first"
    made = build_from([mixed.path], out, tiny_base)
    data = read_dataset(out)
    assert made["candidates"] == made["rows"] + sum(made["funnel"].values()) == 16
    found = list(data.trajectories())
    assert (made["rows"], made["merged_rows"]) == (sum(len(one.kept) for one in found), len(found)) == (8, 2)
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    tokens = [tokens for one in found for row in rows(one) for tokens in renderer.rows(row.messages, row.targets)]
    assert sum(row.trained for row in tokens) == made["trained_tokens"]
    assert sum(len(row.input_ids) for row in tokens) == made["tokens_merged"] < made["tokens_steps"]
    stepwise = [renderer.rows([*context, turn.reply], [turn.at])[0] for one in found for turn, context in steps(one)]
    assert sum(len(row.input_ids) for row in stepwise) == made["tokens_steps"]
    assert data.tasks == ["a"] and data.record["split"]["held_out"] == ["c"]
    assert data.record["contract"] == contract_of(default_registry(), "json").hash
    text = "".join(path.read_text() for path in out.iterdir())
    assert "0 equal of 0 recorded, 0 different; 8 not recorded" in text and str(tmp_path) not in text
    assert [path.name for path in out.parent.iterdir()] == ["first"]


def test_trained_tokens_are_the_turns_and_their_ends(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    build_from([mixed.path], tmp_path / "set", tiny_base)
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    (row,) = rows(next(read_dataset(tmp_path / "set").trajectories()))
    (tokens,) = renderer.rows(row.messages, row.targets)
    said = [renderer.tokenizer.decode(tokens.input_ids[start:end]) for _, start, end in tokens.spans]
    assert said == [f"{text}<|im_end|>" for text in (LIST, READ, WRITE, FINAL)]


def test_build_never_overwrites(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="already exists"):
        build_from([mixed.path], tmp_path / "set", tiny_base)


def test_a_dry_run_counts_the_same_and_writes_nothing(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    counted = build_from([mixed.path], None, tiny_base)
    assert sorted(tmp_path.rglob("*")) == before
    assert counted == build_from([mixed.path], tmp_path / "set", tiny_base)


def test_several_processes_make_the_same_files(mixed: RunDir, tmp_path: Path, tiny_base: Path, monkeypatch) -> None:
    monkeypatch.setattr("repo_agent.data.pool.CHUNK_BYTES", 1)
    one = build_from([mixed.path], tmp_path / "one", tiny_base)
    two = build_from([mixed.path], tmp_path / "two", tiny_base, jobs=2)
    assert one == two
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_an_empty_dataset_prints_the_funnel(run: RunDir, tmp_path: Path, play, tiny_base: Path) -> None:
    play(run, "a", [LIST, FINAL], passed=False)
    with pytest.raises(UserError, match=r"2 candidate.*run_passed -2.* 0 rows"):
        build_from([run.path], tmp_path / "sets" / "none", tiny_base)
    assert not (tmp_path / "sets").exists() and not list(tmp_path.glob(".build*"))


def test_a_row_ends_after_the_last_turn_that_fits(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    whole = build_from([mixed.path], tmp_path / "whole", tiny_base)
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    found = [rows(one) for one in read_dataset(tmp_path / "whole").trajectories()]
    ends = [span.end for (row,) in found for span in renderer.rows(row.messages, row.targets)[0].spans]
    limit = sorted(ends)[len(ends) // 2]
    short = build_from([mixed.path], tmp_path / "short", tiny_base, settings=gate_settings(max_length=limit))
    assert short["funnel"]["within_length"] == sum(end > limit for end in ends) == whole["rows"] - short["rows"]
    lost = whole["trained_tokens"] - short["trained_tokens"]
    assert sum(short["lost_tokens"].values()) == lost > 0 and short["lost_tokens"]["final"]
    assert short["rows"] + sum(short["funnel"].values()) == whole["candidates"]
    for one in read_dataset(tmp_path / "short").trajectories():
        (row,) = rows(one)
        assert len(renderer.rows(row.messages, row.targets)[0].input_ids) <= limit


def test_a_missing_or_torn_dataset_file_is_a_user_error(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    build_from([mixed.path], tmp_path / "set", tiny_base)
    path = tmp_path / "set" / "trajectories.jsonl"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UserError, match=r"trajectories\.jsonl:2"):
        list(read_dataset(tmp_path / "set").trajectories())
    path.unlink()
    with pytest.raises(UserError, match=r"trajectories\.jsonl"):
        list(read_dataset(tmp_path / "set").trajectories())
    (tmp_path / "set" / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="format"):
        read_dataset(tmp_path / "set")


def test_another_agents_traces_are_put_into_our_protocol(tmp_path: Path, tiny_base: Path) -> None:
    native = FIXTURES / "native"
    own = build_from([native], tmp_path / "own", tiny_base, no_split=True, exports=["chat-trajectories:together"])
    ours = build_from([native], tmp_path / "ours", tiny_base, no_split=True, rerender=True)
    assert own["rows"] == ours["rows"] == inventory([native])["kept"] == 4
    chat = json.loads((tmp_path / "own" / "chat_together.jsonl").read_text())
    assert [tool["function"]["name"] for tool in chat["tools"]] == list(default_registry().specs)
    data = read_dataset(tmp_path / "ours")
    (found,) = data.trajectories()
    assert data.record["contract"] == contract_of(default_registry(), "json").hash
    assert data.record["reconstructed"] and found.reconstructed
    assert found.messages[1].content == "GOAL:\nMake mean() of stats.py divide by the number of values"
    assert found.messages[2] == Message("assistant", call("list_files", rel_dir=".", max_files=50))
    assert found.messages[3].content == "[tool_result] stats.py\ntest_stats.py"
    assert found.messages[-1].content == JSON.render_final("mean divides by the count")
    assert "DRIVER NOTE" not in (tmp_path / "ours" / "trajectories.jsonl").read_text()


def test_a_dataset_without_a_split_says_so_loudly(mixed: RunDir, tmp_path: Path, tiny_base: Path) -> None:
    for no_split, tasks in ((True, ["a", "c"]), (False, ["a"])):
        out = tmp_path / f"set{no_split}"
        build_from([mixed.path], out, tiny_base, no_split=no_split)
        data, card = read_dataset(out), (out / "card.md").read_text()
        assert data.tasks == tasks and (data.record["split"] is None) == no_split
        warned = "SPLIT OFF" in card.split("## Funnel")[0] and "Never report held-out results" in card
        assert warned == no_split


def test_a_hostile_task_id_stays_in_its_cell(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    odd = "x|y\n## Forged\n<script>alert(1)</script>"
    other = RunDir.open(tmp_path / "runs" / "odd", record(train=[odd], held_out=["z"]))
    play(other, odd, [LIST, FINAL])
    build_from([other.path], tmp_path / "set", tiny_base)
    card, page = ((tmp_path / "set" / name).read_text() for name in ("card.md", "audit.html"))
    assert "\n## Forged" not in card and "<script>" not in card + page


# --- what may change a text


@pytest.mark.parametrize("home", ["/root", "/root/", "/srv/people/someone.x"])
def test_the_users_own_home_is_rewritten_wherever_it_is(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    own = home.rstrip("/")
    for around in ("{}", "cd {}", "in {}/x.py", "'{}'", '"{}/x"', "at {}.", "{}:/bin", "(file://{}/x)", r'"out\n{}/x"'):
        assert without_homes(around.format(own)) == around.format("~")
    for longer in (f"{own}2", f"{own}-old/x", f"{own}.bak", f"src{own}/x", f"..{own}/x", f"https:/{own}/x"):
        assert without_homes(longer) == longer


def test_a_home_at_the_root_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert without_homes("ls / /etc a/ b") == "ls / /etc a/ b"


def test_homes_are_counted_and_rewritten_only_where_asked(run: RunDir, play, tmp_path: Path, tiny_base: Path) -> None:
    play(run, "a", [LIST, READ, FINAL])
    path = run.traces()[0]
    path.write_text(path.read_text().replace("return 0", "return '/home/someone/x'"))
    plain = build_from([run.path], tmp_path / "plain", tiny_base)
    moved = build_from([run.path], tmp_path / "moved", tiny_base, rewrite_home=True)
    texts = [(tmp_path / name / "trajectories.jsonl").read_text() for name in ("plain", "moved")]
    assert plain["homes"] == 1 and "/home/someone" in texts[0] and moved["homes"] == 0
    assert "/home/someone" not in texts[1] and "return '~/x'" in texts[1]
    assert [read_dataset(tmp_path / name).record["reconstructed"] for name in ("plain", "moved")] == [False, True]


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


def test_a_pile_without_a_trace_is_a_user_error(tmp_path: Path, tiny_base: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="no trace"):
        build_from([tmp_path], tmp_path / "set", tiny_base, no_split=True)
    assert inventory([tmp_path])["runs"] == 0


# --- the audit


def test_the_audit_shows_what_is_trained_and_why_the_rest_is_not(
    mixed: RunDir, tmp_path: Path, tiny_base: Path
) -> None:
    build_from([mixed.path], tmp_path / "set", tiny_base)
    data, renderer = read_dataset(tmp_path / "set"), Renderer(load_tokenizer(str(tiny_base)))
    found = audit(data, renderer)
    (name, task, tokens), *rest = found.rows
    assert task == "a" and not rest and name == "teacher/traces/a/0.jsonl#0"
    assert "".join(token.text for token in tokens if token.trained) == "".join(
        f"{text}<|im_end|>" for text in (LIST, READ, WRITE, FINAL)
    )
    assert {kind: one.turns for kind, one in found.kinds.items()} == {
        "final": 2, "list_files": 2, "read_file": 2, "write_file": 2,
    }  # fmt: skip
    assert all(
        (set(one.last) == {"<|im_end|>"} and set(one.first) == {"{"}) or "{" in next(iter(one.first))
        for one in found.kinds.values()
    )
    assert found.reasons[("strict_valid", "missing_arg")] == 1
    page = audit_page(data, renderer)
    assert page.count("<b>") > 20 and "missing_arg" in page and (tmp_path / "set" / "audit.html").read_text() == page


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
    made = build_from([legacy / shape], tmp_path / "set", tiny_base, no_split=True)
    assert (made["candidates"], made["rows"]) == (sum(turns.values()), kept)
    moved = build_from([legacy / shape], tmp_path / "moved", tiny_base, no_split=True, rewrite_home=True)
    text = "".join(path.read_text() for path in (tmp_path / "moved").iterdir())
    assert "/home/" not in text and moved["rows"] == made["rows"]


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
