"""Preference pairs: both turns in one context, the better one ran, nothing held out, every bad turn counted."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_cli import result
from test_data import BAD, EVERY_CLASS, FINAL, LIST, READ, WRITE, call, record

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.pair_build import PairOptions, make_pairs
from repo_agent.data.pair_set import PairRow, read_pairs
from repo_agent.errors import UserError
from repo_agent.protocols import protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.traces.store import RunDir

REGISTRY, JSON = default_registry(), protocol_named("json")
GREP = call("grep", pattern="def ", rel_dir=".", max_hits=3)
MISSING = call("read_file", rel_path="none.py", max_chars=9)
"""A call that runs and fails."""
PROSE = "I shall look around."


def run_of(folder: Path, name: str, **changes: Any) -> RunDir:
    return RunDir.open(folder / "runs" / name, record(**changes))


def said_by(run: RunDir, model: str, arm: str) -> None:
    """Say that another model, or arm, played a run."""
    for path in run.traces():
        text = path.read_text()
        assert text.count('"arm":"base"') == text.count('"model":"scripted"') == 1
        path.write_text(
            text.replace('"arm":"base"', f'"arm":"{arm}"').replace('"model":"scripted"', f'"model":"{model}"')
        )


def pairs_of(tmp_path: Path, base: Path, *runs: RunDir, **options: Any) -> tuple[dict[str, Any], list[PairRow]]:
    out = tmp_path / f"pairs-{len(list(tmp_path.iterdir()))}"
    given = PairOptions([run.path for run in runs], tokenizer=str(base), **options)
    made = make_pairs(given, out, say=lambda line: None)
    return made, list(read_pairs(out).pairs())


def texts(row: PairRow) -> tuple[str, str, str]:
    return row.rejected.content, row.chosen.content, row.record["how"]


def test_what_is_preferred_comes_from_the_nearest_source(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    base, bound, teacher = (run_of(tmp_path, name) for name in ("base", "bound", "teacher"))
    play(base, "a", [BAD, READ, FINAL])
    play(bound, "a", [READ, FINAL], k=1)
    play(teacher, "a", [LIST, FINAL], k=2)
    said_by(bound, "scripted", "base+constrained")
    said_by(teacher, "oracle", "oracle")
    found = {}
    for hows in (["sample", "other"], ["corrected", "other"], ["constrained", "corrected"], ["other"]):
        _, (row,) = pairs_of(tmp_path, tiny_base, base, bound, teacher, hows=hows)
        found[tuple(hows)] = texts(row)
        assert row.record["id"].endswith(":0")
        assert [message.role for message in row.context] == ["system", "user"]
    assert found == {
        ("sample", "other"): (BAD, LIST, "other"),
        ("corrected", "other"): (BAD, READ, "corrected"),
        ("constrained", "corrected"): (BAD, READ, "constrained"),
        ("other",): (BAD, LIST, "other"),
    }
    again = run_of(tmp_path, "again")
    play(again, "a", [GREP, FINAL], k=3)
    play(again, "a", [READ, FINAL], k=4)
    said = {texts(row) for seed in range(3) for row in pairs_of(tmp_path, tiny_base, bound, base, again, seed=seed)[1]}
    assert said <= {(BAD, GREP, "sample"), (BAD, READ, "sample")} and said


def test_outcomes_are_compared_where_rollouts_part(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    """Both list; then the one that passed reads, and the one that failed ends. Broken calls are not looked at."""
    own, teacher = run_of(tmp_path, "own"), run_of(tmp_path, "teacher")
    play(own, "a", [LIST, READ, WRITE, FINAL], k=0, passed=True)
    play(own, "a", [LIST, FINAL], k=1, passed=False)
    play(own, "a", [GREP, BAD, READ], k=2, passed=False)
    play(teacher, "a", [LIST, GREP, WRITE, FINAL], k=3, passed=True)
    for k in range(4, 8):
        play(own, "a", [call("list_files", rel_dir=".", max_files=k), WRITE, FINAL], k=k, passed=True)
    said_by(teacher, "oracle", "oracle")
    made, rows = pairs_of(tmp_path, tiny_base, own, teacher, hows=["passed"])
    assert [texts(row) for row in rows if len(row.context) > 2] == [(FINAL, READ, "passed")]
    assert [row.rejected.content for row in rows if len(row.context) == 2] == [GREP]
    assert {row.record["why"] for row in rows} == {"its rollout failed"}
    # two turns of k=1, and of k=2 the two that are valid; LIST was said by those that passed, too
    funnel = {gate: count for gate, count in made["funnel"].items() if count}
    assert made["candidates"] == 4 and funnel == {"contrast": 1, "no_chosen": 1}
    both, _ = pairs_of(tmp_path, tiny_base, own, teacher, hows=["corrected", "passed"])
    assert both["candidates"] == 5 and both["chosen"] == {"passed": 2, "corrected": 1}


def test_every_bad_turn_is_a_pair_or_counted_and_every_class_may_be_rejected(
    tmp_path: Path, tiny_base: Path, play: Any
) -> None:
    run = run_of(tmp_path, "base")
    bad = {name: text for name, text in EVERY_CLASS.items() if name not in ("ok", "final")}
    for k, text in enumerate(bad.values()):
        play(run, "a", [text, MISSING, LIST, PROSE], k=k)
    play(run, "a", [LIST, FINAL], k=50)
    play(run, "c", [BAD, READ, FINAL], k=51)
    made, rows = pairs_of(tmp_path, tiny_base, run)
    assert Counter(row.record["class"] for row in rows) == dict.fromkeys(bad, 1)
    assert all(texts(row)[1:] == (LIST, "sample") for row in rows)
    assert made["candidates"] == made["pairs"] + sum(made["funnel"].values())
    assert made["funnel"]["split"] == 1 and made["funnel"]["no_chosen"] == 2 * len(bad)
    dropped = [json.loads(line) for line in (next(tmp_path.glob("pairs-*")) / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == sum(made["funnel"].values())


def test_nothing_that_a_call_has_answered_corrects_what_came_before_it(
    tmp_path: Path, tiny_base: Path, play: Any
) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [BAD, PROSE, MISSING, PROSE, BAD, READ, FINAL])
    made, rows = pairs_of(tmp_path, tiny_base, run)
    assert [texts(row) for row in sorted(rows, key=lambda row: len(row.context))] == [
        (PROSE, READ, "corrected"),
        (BAD, READ, "corrected"),
    ]
    assert made["funnel"]["no_chosen"] == 3


def test_what_a_build_would_drop_is_preferred_to_nothing(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    """A write of lines that were never shown, a call that was made before, a final of a rollout that failed."""
    run = run_of(tmp_path, "base")
    play(run, "a", [PROSE, WRITE, FINAL])
    play(run, "b", [LIST, PROSE, LIST, READ, FINAL], k=1)
    play(run, "b", [LIST, PROSE, FINAL], k=2, passed=False)
    play(run, "b", [LIST, FINAL, FINAL], k=3, passed=False)
    with pytest.raises(UserError, match=r"no pair is left of (\d) candidates.*no_chosen -\1, duplicate -0"):
        pairs_of(tmp_path, tiny_base, run)


def test_better_turns_are_used_evenly(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    for k in range(6):
        play(run, "a", [f"{PROSE} {k}", FINAL], k=k)
    for k, good in enumerate((LIST, READ, GREP), 10):
        play(run, "a", [good, FINAL], k=k)
    _, rows = pairs_of(tmp_path, tiny_base, run)
    assert Counter(row.chosen.content for row in rows) == {LIST: 2, READ: 2, GREP: 2}


def test_a_turn_that_was_cut_off_is_in_no_pair(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [PROSE, BAD, READ, FINAL])
    (path,) = run.traces()
    first, last = path.read_text().split('"finish_reason":"stop"', 1)
    path.write_text(f'{first}"finish_reason":"length"{last}')
    made, rows = pairs_of(tmp_path, tiny_base, run)
    assert [texts(row) for row in rows] == [(BAD, READ, "corrected")] and made["funnel"]["truncated"] == 1


def test_words_that_a_template_trims_are_dropped_and_counted(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    base = tmp_path / "trims"
    shutil.copytree(tiny_base, base)
    tokenizer = load_tokenizer(str(base))
    plain, found = re.subn(r"(message(?:\.|\['|\[\")content(?:'\]|\"\])?)", r"\1 | trim", tokenizer.chat_template)
    assert found
    tokenizer.chat_template = plain
    tokenizer.save_pretrained(base)
    run = run_of(tmp_path, "base")
    play(run, "a", ["  prose \n", LIST, FINAL])
    play(run, "b", [BAD, READ, FINAL], k=1)
    made, rows = pairs_of(tmp_path, base, run)
    assert [texts(row) for row in rows] == [(BAD, READ, "corrected")] and made["funnel"]["printed"] == 1


def test_runs_of_one_name_are_refused(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    one, two = run_of(tmp_path, "base"), RunDir.open(tmp_path / "more" / "base", record())
    play(one, "a", [BAD, READ, FINAL])
    play(two, "a", [PROSE, LIST, FINAL])
    with pytest.raises(UserError, match="two folders have the name base"):
        pairs_of(tmp_path, tiny_base, one, two)


def test_every_chosen_turn_is_valid_and_runs_where_it_stands(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [BAD, LIST, PROSE, READ, MISSING, WRITE, BAD, READ, FINAL])
    play(run, "a", [PROSE, READ, FINAL], k=1)
    play(run, "b", [BAD, BAD, READ, LIST + READ, WRITE, FINAL], k=2)
    _, rows = pairs_of(tmp_path, tiny_base, run)
    assert len(rows) >= 5
    for number, row in enumerate(rows):
        root = tmp_path / f"replayed-{number}"
        (root / "src").mkdir(parents=True)
        (root / "src/app.py").write_text("def total(values):\n    return 0\n")
        before = [JSON.parse(message.content).call for message in row.context if message.role == "assistant"]
        for made in [one for one in before if one and not REGISTRY.check(one)]:
            REGISTRY.execute(made, root, 4000)
        chosen = JSON.parse(row.chosen.content).call
        assert chosen is not None and REGISTRY.check(chosen) is None and REGISTRY.execute(chosen, root, 4000).ok


def test_limits_duplicates_and_long_pairs(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    for k in range(12):
        play(run, "a", [f"{PROSE} {k // 2}", FINAL], k=k)
    play(run, "a", [LIST, FINAL], k=20)
    play(run, "b", ["word " * 400, READ, FINAL], k=21)
    made, rows = pairs_of(tmp_path, tiny_base, run, per_task=4)
    assert Counter(row.record["task"] for row in rows) == {"a": 4, "b": 1}
    assert made["funnel"]["per_task"] + made["funnel"]["duplicate"] >= 8
    longest = max(sum(row.record["tokens"][part] for part in ("prompt", "rejected")) for row in rows)
    made, rows = pairs_of(tmp_path, tiny_base, run, per_task=4, max_length=longest - 1)
    assert made["funnel"]["within_length"] == 1 and {row.record["task"] for row in rows} == {"a"}
    sizes = [(row.record["tokens"], row) for row in rows]
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    for size, row in sizes:
        assert size["prompt"] == len(renderer.prompt_ids(row.context))
    with pytest.raises(UserError, match=r"no pair is left of .* candidates"):
        pairs_of(tmp_path, tiny_base, run, max_length=10)
    one, two = (pairs_of(tmp_path, tiny_base, run, per_task=2, seed=seed)[1] for seed in (1, 1))
    assert [row.record["id"] for row in one] == [row.record["id"] for row in two]


def test_no_secret_and_no_special_token_is_in_a_pair(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    key = "sk-proj-" + "a1B2c3D4" * 8
    play(run, "a", [f"the key is {key}", LIST, FINAL])
    play(run, "b", ["<|im_end|>", LIST, FINAL], k=1)
    out = tmp_path / "out"
    made = make_pairs(PairOptions([run.path], tokenizer=str(tiny_base), exports=("trl", "openai")), out, lambda _: None)
    assert made["funnel"]["secret"] == 1 and made["pairs"] == 1
    assert key not in "".join(path.read_text() for path in out.iterdir())
    assert (out / "dpo_trl.jsonl").read_text() == (out / "dpo_openai.jsonl").read_text() == ""


def test_a_prompt_that_is_not_what_ran_is_refused_and_nothing_written(
    tmp_path: Path, tiny_base: Path, play: Any
) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [BAD, READ, FINAL])
    (path,) = run.traces()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    own = Renderer(load_tokenizer(str(tiny_base))).fingerprint()
    for line in lines:
        if line["kind"] == "llm_action":
            line |= {"prompt_ids_hash": "0" * 16, "tokenizer": own}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="render otherwise than they ran"):
        make_pairs(PairOptions([run.path], tokenizer=str(tiny_base)), tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()


def test_real_libraries_read_the_exports(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    run = run_of(tmp_path, "base")
    play(run, "a", [BAD, READ, FINAL])
    play(run, "b", [PROSE, LIST, FINAL], k=1)
    out = tmp_path / "out"
    make_pairs(PairOptions([run.path], tokenizer=str(tiny_base), exports=("trl", "together")), out, lambda _: None)
    loaded = datasets.load_dataset("json", data_files=str(out / "dpo_trl.jsonl"), split="train", cache_dir=tmp_path)
    tokenizer = load_tokenizer(str(tiny_base))
    for row, pair in zip(loaded, read_pairs(out).pairs(), strict=True):
        made = trl.apply_chat_template(row, tokenizer)
        ids = tokenizer(made["prompt"] + made["chosen"])["input_ids"]
        size = pair.record["tokens"]
        assert ids[: size["prompt"]] == Renderer(tokenizer).prompt_ids(pair.context)
    for line in (out / "dpo_together.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert set(record) == {"input", "preferred_output", "non_preferred_output"}
        assert record["input"]["messages"][-1]["role"] == "user"
        assert [one["role"] for one in (*record["preferred_output"], *record["non_preferred_output"])] == [
            "assistant"
        ] * 2


def test_bad_options_say_what_to_do(tmp_path: Path, tiny_base: Path, play: Any) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [LIST, FINAL])
    for options, what in (
        ({"hows": ["teacher"]}, "teacher is none of sample, constrained, corrected, other, passed"),
        ({"exports": ["parquet"]}, "there is no export 'parquet'"),
        ({}, "no pair is left of 0 candidates"),
    ):
        with pytest.raises(UserError, match=what):
            pairs_of(tmp_path, tiny_base, run, **options)
    with pytest.raises(UserError, match="cannot be read"):
        read_pairs(tmp_path)


def test_the_command_prints_the_funnel_and_writes_a_card(
    tmp_path: Path, tiny_base: Path, play: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, "base")
    play(run, "a", [BAD, READ, PROSE, LIST, FINAL])
    words = ["pairs", str(run.path), "--tokenizer", str(tiny_base)]
    dry = result(capsys, *words, "--dry-run")
    assert (dry["candidates"], dry["pairs"], dry["chosen"]) == (2, 2, {"corrected": 2})
    made = result(capsys, *words, "--out", str(tmp_path / "out"), "--export", "trl")
    assert made == dry
    card = (tmp_path / "out" / "card.md").read_text()
    assert "2 pairs of 1 tasks" in card and "missing_arg" in card and "I shall look around" in card
