"""Training that goes on from an adapter, and on preference pairs: the reference is the adapter, the loss TRL's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_train import CONTRACT, one_thread, short_sft, trajectory, write_dataset
from test_training_run import in_a_process, in_two_processes

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.weights import load_weights, with_adapter
from repo_agent.data.dataset import line_of, sha256_of
from repo_agent.data.pair_set import FORMAT, read_pairs
from repo_agent.data.pair_tokens import TokenPair, pair_rows
from repo_agent.errors import InfraError, UserError
from repo_agent.messages import Message
from repo_agent.protocols.contract import Contract
from repo_agent.train.backends import backend_named
from repo_agent.train.batches import steps_of
from repo_agent.train.config import TrainConfig, make_config
from repo_agent.train.dpo import PairPasses, Reference, check_reference
from repo_agent.train.folder import RunFolder
from repo_agent.train.local import train
from repo_agent.train.passes import add_head, summed_loss
from repo_agent.train.plan import plan
from repo_agent.train.prepare import prepare
from repo_agent.train.record import adapter_hash, read_record
from repo_agent.train.trainer import make_trainer
from repo_agent.train.world import World

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", [trajectory(n, 3) for n in range(4)])


@pytest.fixture(scope="module")
def sft(dataset: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_sft(dataset, tiny_base, tmp_path_factory.mktemp("sft") / "adapter")


def write_pairs(folder: Path, base: Path, contract: Any = CONTRACT, tasks: int = 10, **more: Any) -> Path:
    """A pair a task: the first call of a trajectory against a sentence, of different lengths."""
    folder.mkdir()
    lines = []
    for number in range(tasks):
        talk = trajectory(number, 2).messages
        bad = Message("assistant", "I shall look into the files " + "very " * (number % 4) + "closely.")
        lines.append(
            {
                "task": str(number),
                "group": str(number),
                "messages": [one.to_dict() for one in talk[:2]],
                "chosen": talk[2].to_dict(),
                "rejected": bad.to_dict(),
            }
        )
    (folder / "pairs.jsonl").write_bytes(b"".join(map(line_of, lines)))
    tools = Renderer(load_tokenizer(str(base)), contract.printed_tools)
    record = {"format": FORMAT, "contract": contract.hash, "protocol": contract.protocol, "tools": contract.tools}
    record |= {"split": None, "tokenizer": {"fingerprint": tools.fingerprint()}, "counts": {"prompts": {"equal": 9}}}
    record["files"] = {"pairs.jsonl": sha256_of(folder / "pairs.jsonl")}
    (folder / "pairs.json").write_text(json.dumps(record | more))
    return folder


@pytest.fixture(scope="module")
def pairs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "set", tiny_base)


def config(base: Path, sft: Path | None, **more: Any) -> TrainConfig:
    given = {"batch_size": 3, "lr": 1e-3, "eval_share": 0.2, "replays": 0, "early_stop": 0, **more}
    return TrainConfig(base=str(base), method="dpo", adapter=str(sft) if sft else None, **given)


def trainer_of(base: Path, sft: Path | None, pairs: Path, folder: Path, **more: Any) -> tuple[Any, Any]:
    """A trainer before its first step, and its pairs."""
    prepared = prepare(pairs, config(base, sft, evals=0, **more))
    model = load_weights(str(base), "cpu")
    add_head(model)
    world = World(0, 1)
    passes = PairPasses(prepared.rows, steps_of(prepared.rows, prepared.config), 1, world, print)
    begun = with_adapter(model, sft, str(base), trainable=True) if sft else model
    tokenizer = prepared.renderer.tokenizer
    made = make_trainer(begun, tokenizer, prepared.config, passes, RunFolder(folder / "x"), world, None, None, False)
    return made, prepared


def test_preferences_raise_the_chosen_turn_and_leave_one_adapter(
    pairs: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    record = train(pairs, tmp_path / "dpo", config(tiny_base, sft, epochs=3), say=said.append)
    first, last = record.evals[0], record.evals[-1]
    assert first.margin == 0.0 and first.preference_loss == pytest.approx(math.log(2), abs=1e-12)
    assert last.margin is not None and last.margin > 0.05 and last.preferred == 1.0
    assert record.losses[0].margin == 0.0 and record.losses[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert [one.margin for one in record.losses] != [0.0] * len(record.losses)
    assert record.best_step == min(record.evals[1:], key=lambda one: one.preference_loss or 9).step
    assert not (tmp_path / "dpo" / "ref").exists() and any("preferred" in line for line in said)
    assert record.adapter_hash == adapter_hash(sft) and record.adapter_hash != adapter_hash(tmp_path / "dpo")
    assert record.config.rank == 8 and record.prompts == {"equal": 9}
    before = read_record(sft)
    assert {*before.train_tasks} <= {*record.train_tasks} and record.system_prompts == before.system_prompts
    base = load_weights(str(tiny_base), "cpu")
    tuned = with_adapter(base, tmp_path / "dpo", str(tiny_base))
    assert list(tuned.peft_config) == ["default"]
    assert (tmp_path / "dpo" / "canary.json").is_file() and "preference loss" in (
        tmp_path / "dpo/README.md"
    ).read_text()


@pytest.mark.parametrize("from_adapter", [True, False], ids=["sft", "base"])
def test_the_loss_is_that_of_the_formula(
    from_adapter: bool, pairs: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """-log sigmoid(beta * (what the chosen turn has won - what the rejected one has won)), the mean over a step."""
    import torch

    trainer, prepared = trainer_of(tiny_base, sft if from_adapter else None, pairs, tmp_path, beta=0.3)
    check_reference(trainer, prepared.rows)
    rows: list[TokenPair] = [prepared.rows[index] for index in trainer.passes.steps[0].rows]
    with torch.no_grad():
        before = [
            (-summed_loss(trainer.model, [one.chosen]), -summed_loss(trainer.model, [one.rejected])) for one in rows
        ]
        for name, weight in trainer.model.named_parameters():
            if ".default." in name:
                weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        after = [
            (-summed_loss(trainer.model, [one.chosen]), -summed_loss(trainer.model, [one.rejected])) for one in rows
        ]
    margins = [0.3 * ((c - c0) - (r - r0)) for (c, r), (c0, r0) in zip(after, before, strict=True)]
    assert max(map(abs, margins)) > 0.01
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
    trainer.model.zero_grad()
    assert float(trainer.passes.gradient(trainer, trainer.model, 0)) == pytest.approx(expected, rel=1e-4)
    moved = [name for name, weight in trainer.model.named_parameters() if weight.grad is not None]
    assert moved and all(".default." in name for name in moved)
    with pytest.raises(InfraError, match="reference is not what training begins with"):
        check_reference(trainer, rows)


def test_an_evaluation_compares_with_what_was_before_training(
    pairs: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    trainer, prepared = trainer_of(tiny_base, sft, pairs, tmp_path)
    held = {"a": prepared.rows[:2], "b": prepared.rows[2:3]}
    reference = Reference(trainer.model, held, 0.1)
    assert reference.compare(trainer.model) == {"preference_loss": math.log(2), "margin": 0.0, "preferred": 0.0}


def test_long_pairs_are_dropped_whole_and_counted(pairs: Path, sft: Path, tiny_base: Path) -> None:
    renderer = Renderer(load_tokenizer(str(tiny_base)), CONTRACT.printed_tools)
    lengths = [max(one.chosen.length, one.rejected.length) for one in pair_rows(read_pairs(pairs), renderer, None).rows]
    most = sorted(lengths)[4]
    found = pair_rows(read_pairs(pairs), renderer, most)
    assert found.too_long == sum(length > most for length in lengths) > 0
    assert all(max(one.chosen.length, one.rejected.length) <= most for one in found.rows)
    planned = plan(prepare(pairs, config(tiny_base, sft, max_length=most)))
    assert planned.dropped_too_long == found.too_long and planned.lost_tokens == dict(found.lost)
    with pytest.raises(UserError, match="Raise --max-length"):
        prepare(pairs, config(tiny_base, sft, max_length=5))


def test_a_folder_without_a_pair_says_so(sft: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing to train on"):
        prepare(write_pairs(tmp_path / "empty", tiny_base, tasks=0), config(tiny_base, sft))


def test_what_does_not_fit_together_is_refused_before_training(
    pairs: Path, dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    def refused(folder: Path, settings: TrainConfig) -> str:
        with pytest.raises(UserError) as caught:
            prepare(folder, settings)
        return str(caught.value)

    other = write_pairs(tmp_path / "other", tiny_base, tokenizer={"fingerprint": "0" * 16})
    assert "--tokenizer BASE" in refused(other, config(tiny_base, sft))
    assert "other tools or another protocol" in refused(
        write_pairs(tmp_path / "tools", tiny_base, contract=Contract([], "native")), config(tiny_base, sft)
    )
    assert "Leave out --rank" in refused(pairs, config(tiny_base, sft, rank=16))
    assert "no readable run_record.json" in refused(pairs, config(tiny_base, tmp_path))
    assert "pairs.json" in refused(dataset, config(tiny_base, sft))
    assert "Give --method dpo" in refused(pairs, TrainConfig(base=str(tiny_base)))
    with pytest.raises(UserError, match="train on this machine"):
        backend_named("together")(pairs, tmp_path / "out", config(tiny_base, sft))
    record = json.loads((sft / "run_record.json").read_text())
    holds = tmp_path / "holds"
    holds.mkdir()
    for path in sft.iterdir():
        (holds / path.name).write_bytes(path.read_bytes())
    (holds / "run_record.json").write_text(json.dumps(record | {"held_out": ["3"]}))
    assert "holds out 1 tasks that the data train on, 3 among them" in refused(pairs, config(tiny_base, holds))
    (holds / "run_record.json").write_text(json.dumps(record | {"base_hash": "0" * 16}))
    assert "was made on another base" in refused(pairs, config(tiny_base, holds))


def test_turns_go_on_from_an_adapter(dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path) -> None:
    settings = TrainConfig(base=str(tiny_base), adapter=str(sft), epochs=1, lr=1e-3, replays=0)
    record = train(dataset, tmp_path / "more", settings)
    assert record.config.rank == 8 and record.adapter_hash == adapter_hash(sft) != adapter_hash(tmp_path / "more")
    fresh = train(dataset, tmp_path / "fresh", settings.model_copy(update={"adapter": None}))
    assert record.evals[0].eval_nll is not None and fresh.evals[0].eval_nll is not None
    assert record.evals[0].eval_nll < fresh.evals[0].eval_nll - 0.01


def test_dpo_has_settings_of_its_own(sft: Path, pairs: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"--beta: .*got 0"):
        make_config({"base": "tiny", "method": "dpo", "beta": 0.0})
    usual = prepare(pairs, TrainConfig(base=str(tiny_base), method="dpo", adapter=str(sft))).config
    assert (usual.epochs, usual.batch_size, usual.step_tokens) == (1, 8, None) and usual.lr is not None
    assert usual.lr < 1e-3


@pytest.mark.slow
def test_killed_preferences_resume_with_the_same_losses_and_weights(
    pairs: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = config(tiny_base, sft, epochs=2, checkpoints=4, rank=8)
    whole = in_a_process(pairs, tmp_path / "whole", settings)
    before = in_a_process(pairs, tmp_path / "killed", settings, kill=len(whole) - 1)
    after = in_a_process(pairs, tmp_path / "killed", settings, resume=True)
    assert before == whole[:-1] and after == whole[-len(after) :] and 1 <= len(after) < len(whole)
    one, other = read_record(tmp_path / "whole"), read_record(tmp_path / "killed")
    assert one.evals == other.evals and [step.margin for step in one.losses] == [step.margin for step in other.losses]
    assert adapter_hash(tmp_path / "whole") == adapter_hash(tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_have_the_preferences_of_one(pairs: Path, sft: Path, tiny_base: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, sft, epochs=1, rank=8)
    one = train(pairs, tmp_path / "one", settings)
    two = in_two_processes(pairs, tmp_path / "two", settings)
    assert [step.loss for step in two.losses] == pytest.approx([step.loss for step in one.losses], rel=1e-5)
    assert [e.preference_loss for e in two.evals] == pytest.approx([e.preference_loss for e in one.evals], rel=1e-5)
