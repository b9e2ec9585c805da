"""Exports, each read back by the library that it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_data import FINAL, LIST, READ, WRITE, record

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.build import BuildOptions, build
from repo_agent.data.dataset import Dataset, read_dataset
from repo_agent.data.export import EXPORTS, weighted
from repo_agent.data.trajectories import rows, steps
from repo_agent.errors import UserError
from repo_agent.messages import Message
from repo_agent.protocols import protocol_named
from repo_agent.traces.read import read_trace
from repo_agent.traces.store import RunDir

NATIVE = Path(__file__).parent / "fixtures" / "older" / "native"


@pytest.fixture
def made(tmp_path: Path, play, tiny_base: Path) -> tuple[Dataset, Renderer, list[str]]:
    """A dataset of two rollouts with every export, its renderer, and what the build said."""
    run = RunDir.open(tmp_path / "runs" / "teacher", record())
    play(run, "a", [LIST, READ, "no call", WRITE, FINAL])
    play(run, "b", [READ, WRITE, FINAL])
    said: list[str] = []
    build(BuildOptions([run.path], tokenizer=str(tiny_base), exports=list(EXPORTS)), tmp_path / "set", say=said.append)
    return read_dataset(tmp_path / "set"), Renderer(load_tokenizer(str(tiny_base))), said


def loaded(path: str | Path, tmp_path: Path, kind: str = "json") -> Any:
    datasets = pytest.importorskip("datasets")
    if Path(path).is_dir():
        return datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


def test_each_export_says_its_size_first(made: tuple[Dataset, Renderer, list[str]]) -> None:
    data, _, said = made
    assert [line.split(": ")[0] for line in said] == list(EXPORTS)
    assert [int(line.split(": ")[1].split(" ")[0]) for line in said] == [7, 2, 2, 7, 2, 2]
    assert {name.split("/")[0] for name in data.record["files"]} >= {export.path for export in EXPORTS.values()}


def test_chat_steps_are_one_json_a_step(made: tuple[Dataset, Renderer, list[str]], tmp_path: Path) -> None:
    data, _, _ = made
    found = [step for one in data.trajectories() for step in steps(one)]
    read = loaded(data.path / "chat_steps.jsonl", tmp_path)
    for row, (turn, context) in zip(read["messages"], found, strict=True):
        assert [message["content"] for message in row] == [message.content for message in (*context, turn.reply)]
        assert [message["weight"] for message in row] == [0] * len(context) + [1]


def test_trajectories_for_together_pass_its_own_check(
    made: tuple[Dataset, Renderer, list[str]], tmp_path: Path
) -> None:
    files = pytest.importorskip("together.lib.utils.files", reason="pip install together")
    data, _, _ = made
    for name in ("chat_together.jsonl", "chat_steps.jsonl"):
        report = files.check_file(data.path / name)
        assert report["is_check_passed"], report
    for row, one in zip(
        loaded(data.path / "chat_together.jsonl", tmp_path)["messages"], data.trajectories(), strict=True
    ):
        (expected,) = rows(one)
        assert [place for place, message in enumerate(row) if message["weight"]] == expected.targets
        assert [Message(message["role"], message["content"]) for message in row] == expected.messages


def test_openai_rows_have_weights_on_assistant_messages_alone(made: tuple[Dataset, Renderer, list[str]]) -> None:
    data, _, _ = made
    for line in (data.path / "chat_openai.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        assert all(("weight" in message) == (message["role"] == "assistant") for message in messages)
        bad = [message["weight"] for message in messages if message["content"] == "no call"]
        assert set(bad) <= {0} and messages[-1]["weight"] == 1


def test_parquet_holds_the_ids_and_labels_that_we_train(
    made: tuple[Dataset, Renderer, list[str]], tmp_path: Path
) -> None:
    data, renderer, _ = made
    read = loaded(data.path / "tokens.parquet", tmp_path, "parquet")
    found = [row for one in data.trajectories() for row in rows(one)]
    ours = [tokens for row in found for tokens in renderer.rows(row.messages, row.targets)]
    assert [list(ids) for ids in read["input_ids"]] == [row.input_ids for row in ours]
    assert [list(labels) for labels in read["labels"]] == [row.labels for row in ours]


def test_a_dataset_for_the_hub_loads_as_a_folder(made: tuple[Dataset, Renderer, list[str]], tmp_path: Path) -> None:
    data, _, _ = made
    read = loaded(data.path / "hf", tmp_path)
    assert read["task"] == ["a", "b"] and len(read["messages"][0]) == 11
    assert data.record["contract"] in (data.path / "hf" / "README.md").read_text()


def test_trl_makes_of_its_rows_what_we_train(
    made: tuple[Dataset, Renderer, list[str]], tmp_path: Path, tiny_base: Path
) -> None:
    """TRL renders and masks by itself: the same ids, and loss on the same turn, but for what its template adds."""
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM

    data, renderer, _ = made
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"), max_length=None, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, completion_only_loss=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        processing_class=renderer.tokenizer,
        train_dataset=loaded(data.path / "trl.jsonl", tmp_path),
    )
    stepwise = [step for one in data.trajectories() for step in steps(one)]
    for row, (turn, context) in zip(trainer.train_dataset, stepwise, strict=True):
        (ours,) = renderer.rows([*context, turn.reply], [turn.at])
        assert row["input_ids"][: len(ours.input_ids)] == ours.input_ids
        assert row["labels"][: len(ours.input_ids)] == ours.labels


def test_arguments_are_strings_only_in_chat_rows() -> None:
    context = read_trace(NATIVE / "fix_mean.jsonl").turns[-1].context
    made = weighted(context, [2])
    arguments = made[2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"rel_dir": ".", "max_files": 50} == context[2].tool_calls[0].args
    asked = [entry["id"] for row in made for entry in row.get("tool_calls", [])]
    assert [row["tool_call_id"] for row in made if row["role"] == "tool"] == asked and len(set(asked)) == 5
    assert [row["weight"] for row in made].count(1) == 1 and all("weight" in row for row in made)


def test_an_unknown_export_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no export 'csv'"):
        build(BuildOptions([tmp_path / "nowhere"], exports=["csv"]), tmp_path / "set")


def test_native_rows_carry_their_tools(tmp_path: Path, tiny_base: Path) -> None:
    options = BuildOptions([NATIVE], no_split=True, tokenizer=str(tiny_base), exports=["trl", "chat-steps"])
    build(options, tmp_path / "set", say=lambda line: None)
    for name in ("trl", "chat_steps"):
        for line in (tmp_path / "set" / f"{name}.jsonl").read_text().splitlines():
            assert json.loads(line)["tools"][0]["function"]["name"] == "list_files"
    assert protocol_named("native").name == "native"
