"""Training: merged rows train what step rows train, and a real run leaves an adapter that changes the model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Span, Tokens, ids_hash
from repo_agent.cli.training import _how_to_go_on
from repo_agent.data.dataset import FORMAT, Dataset, line_of, read_dataset, sha256_of, trajectory_record
from repo_agent.data.tokens import training_rows
from repo_agent.data.trajectories import Dropped, Label, Trajectory, steps
from repo_agent.errors import InfraError, Stopped, UserError
from repo_agent.messages import Message, ToolCall, text_hash
from repo_agent.models import Request, Sampling
from repo_agent.protocols.contract import Contract
from repo_agent.protocols.json_object import JsonObject
from repo_agent.train.config import TrainConfig
from repo_agent.train.folder import RunFolder
from repo_agent.train.local import train
from repo_agent.train.record import RunRecord
from repo_agent.train.together.config import TogetherConfig

CONTRACT = Contract([], "json")
SYSTEM = "You fix code."


def trajectory(number: int, turns: int = 4, dropped: int | None = None) -> Trajectory:
    """One rollout of `turns` calls; turn `dropped` carries no loss."""
    wire, rng, labels = JsonObject(), random.Random(number), []
    talk = [Message("system", SYSTEM), Message("user", f"GOAL:\nrename f{number}")]
    for turn in range(turns):
        call = ToolCall("read_file", {"rel_path": f"src/{rng.choice('abcd')}{turn}.py", "max_chars": 10 ** (turn + 1)})
        said = Message("assistant", wire.render_call(call))
        labels.append(label(turn, len(talk), said, call, turn == turns - 1, turn == dropped))
        talk += [said, *wire.observe(said, f"def f():\n    return {rng.random()}")]
    about = {"run": "run", "rollout": 0, "contract": CONTRACT, "passed": True, "served": False, "reconstructed": False}
    name = str(number)
    return Trajectory(id=name, task=name, group=name, trace=name, messages=talk, turns=tuple(labels), **about)


def label(turn: int, at: int, said: Message, call: ToolCall, last: bool, dropped: bool) -> Label:
    return Label(
        t=turn,
        at=at,
        turn_class="ok",
        error="",
        reply=said,
        sent_back=True,
        call=call,
        last=last,
        repeats=False,
        after_bad=False,
        raw_unknown=False,
        unseen=None,
        redacted=False,
        prompt_ids=None,
        dropped=Dropped("no_repeat", "") if dropped else None,
    )


def short_sft(dataset: Path, base: Path, out: Path) -> Path:
    """An adapter that other methods begin from."""
    train(dataset, out, TrainConfig(base=str(base), rank=8, epochs=1, lr=1e-3, evals=0))
    return out


def write_dataset(folder: Path, found: list[Trajectory]) -> Path:
    folder.mkdir()
    (folder / "trajectories.jsonl").write_bytes(b"".join(line_of(trajectory_record(one)) for one in found))
    record = {"format": FORMAT, "contract": CONTRACT.hash, "protocol": CONTRACT.protocol, "tools": CONTRACT.tools}
    record["prompts"] = [{"hash": text_hash(SYSTEM), "rows": 1, "text": SYSTEM}]
    record["files"] = {"trajectories.jsonl": sha256_of(folder / "trajectories.jsonl")}
    (folder / "dataset.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on tiny matrices only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five trajectories of 3 to 5 turns; the second has lost a middle turn, so its context carries no loss there."""
    found = [trajectory(n, 3 + n % 3, dropped=1 if n == 1 else None) for n in range(5)]
    return write_dataset(tmp_path_factory.mktemp("data") / "set", found)


def step_rows(dataset: Dataset, renderer: Renderer) -> list[Tokens]:
    found = (step for one in dataset.trajectories() for step in steps(one))
    return [renderer.rows([*context, turn.reply], [turn.at])[0] for turn, context in found]


def loss_and_gradient(model: Any, rows: list[Tokens]) -> tuple[float, Any]:
    """Summed loss and LoRA gradient, flat, of rows batched by TRL's collator, three at a time."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0)
    model.zero_grad()
    total = 0.0
    for start in range(0, len(rows), 3):
        batch = collate([{"input_ids": row.input_ids, "labels": row.labels} for row in rows[start : start + 3]])
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        total += loss.item()
    return total, torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad])


def lora_model(base: Path) -> Any:
    """The base in float64 with a LoRA whose B is not zero, so that A has a gradient as well."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).double()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    return model


def test_merged_rows_have_the_loss_and_gradient_of_step_rows(dataset: Path, tiny_base: Path) -> None:
    data = read_dataset(dataset)
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    merged, stepwise = training_rows(data, renderer, None).rows, step_rows(data, renderer)
    assert (len(merged), len(stepwise)) == (5, 3 + 3 + 5 + 3 + 4)

    model = lora_model(tiny_base)
    loss, gradient = loss_and_gradient(model, stepwise)
    merged_loss, merged_gradient = loss_and_gradient(model, merged)
    assert merged_loss == pytest.approx(loss, rel=1e-9)
    assert ((merged_gradient - gradient).norm() / gradient.norm()).item() <= 1e-6
    assert gradient.norm().item() > 0.1

    _, wrong = loss_and_gradient(model, [shuffled(row) for row in merged])
    assert ((wrong - gradient).norm() / gradient.norm()).item() > 1e-3


def shuffled(row: Tokens) -> Tokens:
    """The same row with as many tokens trained, at other places."""
    places = sorted(random.Random(0).sample(range(len(row.input_ids)), row.trained))
    return Tokens(row.input_ids, tuple(Span(place, place, place + 1) for place in places))


@pytest.mark.slow
def test_the_loss_is_a_token_mean_over_all_passes_of_a_step(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    rows = training_rows(read_dataset(dataset), Renderer(load_tokenizer(str(tiny_base))), None).rows
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64)
    total, _ = loss_and_gradient(model, rows)
    for passes in (1, 10_000):
        config = TrainConfig(base=str(tiny_base), epochs=1, batch_size=5, evals=0, pass_tokens=passes + 1)
        record = train(dataset, tmp_path / str(passes), config)
        assert [entry.step for entry in record.losses] == [1]
        assert record.losses[0].loss == pytest.approx(total / sum(row.trained for row in rows), rel=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_adapter_changes_the_model(
    dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    config = TrainConfig(base=str(tiny_base), epochs=3, lr=5e-3, warmup=0, batch_size=5, evals=0)
    out = tmp_path / "adapter"
    record = train(dataset, out, config, lambda step, total, *_: seen.append((step, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert record.losses[-1].loss < record.losses[0].loss - 0.1
    assert RunRecord.model_validate_json((out / "run_record.json").read_text()) == record
    assert (record.rows, record.dropped_too_long, record.contract) == (5, 0, CONTRACT.hash)
    made = training_rows(read_dataset(dataset), Renderer(load_tokenizer(str(tiny_base))), None)
    assert record.trained_tokens == sum(row.trained for row in made.rows)
    assert {"adapter_config.json", "adapter_model.safetensors", "training.svg"} < {path.name for path in out.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert greedy(tiny_base, out) != greedy(tiny_base, None)


def greedy(base: Path, adapter: Path | None) -> str:
    from repo_agent.models.local import LocalModel

    model = LocalModel(str(base), adapter, name="local")
    talk = (Message("system", SYSTEM), Message("user", "GOAL:\nrename f9"))

    async def reply() -> str:
        answer = await model.complete(Request(talk, Sampling(0, 32), 0))
        await model.close()
        return answer.text

    return asyncio.run(reply())


def test_bad_input_ends_before_anything_is_written(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    with pytest.raises(UserError, match="no model there"):
        train(dataset, out, TrainConfig(base="/no/such/base"))
    with pytest.raises(UserError, match="too long"):
        train(dataset, out, TrainConfig(base=str(tiny_base), max_length=20))
    for target in ("nope", "[", "q_proj|["):
        with pytest.raises(UserError, match=r"no layer of .* to adapt"):
            train(dataset, out, TrainConfig(base=str(tiny_base), target=target))
    with pytest.raises(UserError):
        train(tmp_path / "none", out, TrainConfig(base=str(tiny_base)))
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(UserError, match="already exists"):
        train(dataset, out, TrainConfig(base=str(tiny_base)))


def test_a_folder_with_files_of_others_is_not_taken_for_an_unfinished_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "adapter")
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no folder of an unfinished run"):
        folder.open({}, resume=False)
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]
    (folder.path / "notes.txt").rename(tmp_path / "notes.txt")
    folder.open({}, resume=False)
    with pytest.raises(UserError, match="another process"):
        RunFolder(tmp_path / "adapter").open({}, resume=True)
    folder.close(finished=True)
    assert not folder.path.exists()


def test_an_error_says_how_its_training_goes_on() -> None:
    for resumed, said in ((False, "the same command with --resume continues"), (True, "the same command continues")):
        with pytest.raises(InfraError) as failed, _how_to_go_on(resumed):
            raise InfraError("model", "gone")
        assert failed.value.resume == said
        with pytest.raises(Stopped) as stopped, _how_to_go_on(resumed):
            raise KeyboardInterrupt
        assert stopped.value.resume == said


def test_a_long_row_ends_early_and_what_is_lost_is_counted_by_tool(dataset: Path, tiny_base: Path) -> None:
    data, renderer = read_dataset(dataset), Renderer(load_tokenizer(str(tiny_base)))
    whole = training_rows(data, renderer, None)
    limit = len(whole.rows[0].input_ids) - 1
    short = training_rows(data, renderer, limit)
    assert short.lost["read_file"] == sum(r.trained for r in whole.rows) - sum(r.trained for r in short.rows) > 0
    assert all(len(row.input_ids) <= limit for row in short.rows) and short.too_long == 0
    assert training_rows(data, renderer, 5).too_long == len(whole.rows)


def test_training_refuses_a_prompt_that_is_not_what_ran(tmp_path: Path, tiny_base: Path) -> None:
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    found = trajectory(0)
    ran = [
        replace(turn, prompt_ids=(ids_hash(renderer.prompt_ids(found.messages[: turn.at])), renderer.fingerprint()))
        for turn in found.turns
    ]
    equal = training_rows(read_dataset(write_dataset(tmp_path / "a", [found.with_turns(ran)])), renderer, None)
    assert (equal.proof.equal, equal.proof.different) == (4, 0)
    edited = [found.messages[0], Message("user", found.messages[1].content + " "), *found.messages[2:]]
    changed = dataclasses.replace(found.with_turns(ran), messages=edited)
    with pytest.raises(UserError, match="4 prompts render otherwise"):
        train(write_dataset(tmp_path / "b", [changed]), tmp_path / "out", TrainConfig(base=str(tiny_base)))


def test_every_setting_is_a_flag() -> None:
    """None where it is not given: its default is the config's own."""
    import inspect

    from repo_agent.cli.training import train

    flags = {name: one.default for name, one in inspect.signature(train).parameters.items()}
    hosted = [name if name in ("budget_usd", "yes") else f"together_{name}" for name in TogetherConfig.model_fields]
    for name in [*TrainConfig.model_fields, *hosted]:
        if name != "together":
            assert flags[name] is None, name
