"""Training: merged rows train what step rows train, and a real run leaves an adapter that changes the model."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repo_agent.chat.render import IGNORE, Renderer, Tokens
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.contract import Contract
from repo_agent.data.export import Dataset, read_dataset, write_rows
from repo_agent.data.merge import merge
from repo_agent.data.steps import Step
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.models import Request, Sampling
from repo_agent.protocols.json_object import JsonObject
from repo_agent.train.config import RunRecord, TrainConfig
from repo_agent.train.local import fitting, token_rows, train_sft

CONTRACT = Contract("You fix code.", [], "json")


def trajectory(number: int, turns: int = 4, dropped: int | None = None) -> list[Step]:
    """The steps of one rollout, each with all that came before as its context; turn `dropped` is no step."""
    wire, rng, steps = JsonObject(), random.Random(number), []
    talk = [Message("system", CONTRACT.system), Message("user", f"GOAL:\nrename f{number}")]
    for turn in range(turns):
        call = ToolCall("read_file", {"rel_path": f"src/{rng.choice('abcd')}{turn}.py", "max_chars": 10 ** (turn + 1)})
        said = Message("assistant", wire.render_call(call))
        if turn != dropped:
            steps.append(step_of(f"{number}", turn, tuple(talk), said, call, turn == turns - 1))
        talk += [said, *wire.observe(said, f"def f():\n    return {rng.random()}")]
    return steps


def step_of(trace: str, turn: int, context: tuple[Message, ...], target: Message, call: ToolCall, last: bool) -> Step:
    return Step(
        id=f"run/{trace}/{turn}",
        task=trace,
        group=trace,
        run="run",
        rollout=0,
        trace=trace,
        t=turn,
        turn_class="ok",
        contract=CONTRACT,
        context=context,
        target=target,
        call=call,
        passed=True,
        last=last,
        repeats=False,
        raw_unknown=False,
        reconstructed=False,
    )


def write_dataset(folder: Path, base: Path, steps: list[Step]) -> Path:
    folder.mkdir()
    renderer = Renderer(load_tokenizer(str(base)))
    rows = merge(steps)
    write_rows(folder, steps, rows, {row.id: renderer.rows(row.messages, row.kept) for row in rows})
    parts = {"system": CONTRACT.system, "protocol": CONTRACT.protocol, "tools": CONTRACT.tools}
    record = {"contract": CONTRACT.hash, **parts}
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
def dataset(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five trajectories of 3 to 5 turns; the second has lost a middle turn, so its context carries no loss there."""
    steps = [step for n in range(5) for step in trajectory(n, 3 + n % 3, dropped=1 if n == 1 else None)]
    return write_dataset(tmp_path_factory.mktemp("data") / "set", tiny_base, steps)


def step_rows(dataset: Dataset, renderer: Renderer) -> list[Tokens]:
    rows = []
    for row in dataset.steps:
        context = [Message.from_dict(message) for message in row["messages"]]
        rows += renderer.rows([*context, Message.from_dict(row["target"])], [len(context)])
    return rows


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
    merged, steps = data.tokens(), step_rows(data, renderer)
    assert (len(merged), len(steps)) == (5, 3 + 3 + 5 + 3 + 4)
    assert token_rows(data, renderer) == merged

    model = lora_model(tiny_base)
    loss, gradient = loss_and_gradient(model, steps)
    merged_loss, merged_gradient = loss_and_gradient(model, merged)
    assert merged_loss == pytest.approx(loss, rel=1e-9)
    assert ((merged_gradient - gradient).norm() / gradient.norm()).item() <= 1e-6
    assert gradient.norm().item() > 0.1

    _, wrong = loss_and_gradient(model, [shuffled(row) for row in merged])
    assert ((wrong - gradient).norm() / gradient.norm()).item() > 1e-3


def shuffled(row: Tokens) -> Tokens:
    """The same row with as many tokens trained, at other places."""
    mask = [label != IGNORE for label in row.labels]
    random.Random(0).shuffle(mask)
    return Tokens(row.input_ids, [token if on else IGNORE for token, on in zip(row.input_ids, mask, strict=True)])


@pytest.mark.slow
def test_the_loss_is_a_token_mean_over_all_passes_of_a_step(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    rows = read_dataset(dataset).tokens()
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64)
    total, _ = loss_and_gradient(model, rows)
    for passes in (1, 10_000):
        config = TrainConfig(base=str(tiny_base), epochs=1, batch_size=5, batch_tokens=passes)
        record = train_sft(dataset, tmp_path / str(passes), config)
        assert [entry.step for entry in record.losses] == [1]
        assert record.losses[0].loss == pytest.approx(total / sum(row.trained for row in rows), rel=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_adapter_changes_the_model(
    dataset: Path, tiny_base: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    config = TrainConfig(base=str(tiny_base), epochs=3, lr=5e-3, warmup=0, batch_size=5)
    out = tmp_path / "adapter"
    record = train_sft(dataset, out, config, lambda step, total, _: seen.append((step, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert record.losses[-1].loss < record.losses[0].loss - 0.1
    assert RunRecord.model_validate_json((out / "run_record.json").read_text()) == record
    assert (record.rows, record.dropped_too_long, record.contract) == (5, 0, CONTRACT.hash)
    assert record.trained_tokens == sum(row.trained for row in read_dataset(dataset).tokens())
    assert {"adapter_config.json", "adapter_model.safetensors", "loss.svg"} < {path.name for path in out.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert greedy(tiny_base, out) != greedy(tiny_base, None)


def greedy(base: Path, adapter: Path | None) -> str:
    from repo_agent.models.local import LocalModel

    model = LocalModel(str(base), adapter, name="local")
    talk = (Message("system", CONTRACT.system), Message("user", "GOAL:\nrename f9"))

    async def reply() -> str:
        answer = await model.complete(Request(talk, Sampling(0, 32), 0))
        await model.close()
        return answer.text

    return asyncio.run(reply())


def test_an_interrupt_leaves_nothing_behind(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(dataset, tmp_path / "adapter", TrainConfig(base=str(tiny_base)), stop)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_before_anything_is_written(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    with pytest.raises(UserError, match="no model there"):
        train_sft(dataset, out, TrainConfig(base="/no/such/base"))
    with pytest.raises(UserError, match="too long"):
        train_sft(dataset, out, TrainConfig(base=str(tiny_base), max_length=20))
    with pytest.raises(UserError):
        train_sft(tmp_path / "none", out, TrainConfig(base=str(tiny_base)))
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(UserError, match="exists already"):
        train_sft(dataset, out, TrainConfig(base=str(tiny_base)))


def test_rows_that_are_too_long_are_dropped_whole_and_counted() -> None:
    rows = [Tokens(list(range(n)), list(range(n))) for n in (5, 9, 7)]
    assert fitting(rows, 7) == ([rows[0], rows[2]], 1)
