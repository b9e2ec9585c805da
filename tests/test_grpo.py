"""Training by reward: replies are the model's own tokens, better ones become likelier, equal rewards teach nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rewarding import Letters
from test_cli import result, run
from test_train import one_thread, short_sft, trajectory, write_dataset

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.weights import load_weights, with_adapter
from repo_agent.cli.environment import draw
from repo_agent.errors import Stopped, UserError
from repo_agent.train.config import TrainConfig, make_config
from repo_agent.train.environment import Ask
from repo_agent.train.local import train
from repo_agent.train.plan import plan
from repo_agent.train.prepare import prepare
from repo_agent.train.record import adapter_hash, read_record
from repo_agent.train.shared_prompt import log_probabilities

__all__ = ["one_thread"]


@pytest.fixture(scope="module")
def tiny_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ten times the logits. Those of random weights are so flat that no adapter below them could make half of the
    vocabulary much likelier than the other: the norm before the head bounds the hidden state."""
    import transformers

    folder = tmp_path_factory.mktemp("base") / "tiny"
    shutil.copytree(tiny_base, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data *= 10
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", [trajectory(n, 2) for n in range(6)])


@pytest.fixture(scope="module")
def sft(dataset: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_sft(dataset, tiny_base, tmp_path_factory.mktemp("sft") / "adapter")


def config(base: Path, sft: Path | None, **more: Any) -> TrainConfig:
    given = {
        "batch_size": 4,
        "generations": 4,
        "reply_tokens": 3,
        "lr": 5e-3,
        "eval_share": 0.2,
        "early_stop": 0,
        **more,
    }
    return TrainConfig(base=str(base), method="grpo", adapter=str(sft) if sft else None, **given)


def test_better_replies_become_likelier(dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    env = Letters()
    record = train(dataset, tmp_path / "out", config(tiny_base, sft, epochs=8), say=said.append, environment=env)
    first, last = record.evals[0].reward, record.evals[-1].reward
    assert first is not None and last is not None and last > first + 0.4
    rewards = [one.reward or 0.0 for one in record.losses]
    assert sum(rewards[-6:]) > sum(rewards[:6]) + 1.5
    assert [one.groups for one in record.losses] == 8 * [4, 4, 2]
    assert all(one.drawn and one.tokens and one.tokens > one.drawn for one in record.losses)
    assert all((one.kl is None) == (one.silent == one.groups) for one in record.losses)
    assert max(one.kl or 0 for one in record.losses) > 0.1
    assert record.best_step == max(record.evals[1:], key=lambda one: one.reward or 0).step
    assert not (tmp_path / "out" / "ref").exists() and any("mean reward" in line for line in said)
    assert record.adapter_hash == adapter_hash(sft) != adapter_hash(tmp_path / "out")
    assert record.trained_tokens == sum(one.drawn or 0 for one in record.losses) and record.config.rank == 8
    assert "taught nothing" in (tmp_path / "out" / "README.md").read_text()
    held = {*record.eval_tasks}
    assert held and held.isdisjoint(task for task in record.train_tasks if task not in read_record(sft).train_tasks)


@pytest.mark.parametrize("kl", [0.0, 0.02])
def test_equal_rewards_leave_every_weight_as_it_was(
    dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path, kl: float
) -> None:
    said: list[str] = []
    settings = config(tiny_base, sft, reward="constant", kl=kl, epochs=2)
    record = train(dataset, tmp_path / "out", settings, say=said.append, environment=Letters())
    assert record.silent_groups == (20, 20)
    assert all(one.loss == 0.0 and not one.grad_norm for one in record.losses)
    assert any("20 of 20 groups had equal rewards and taught nothing" in line for line in said)
    assert adapter_hash(tmp_path / "out") == adapter_hash(sft)


def test_shuffled_rewards_are_the_same_rewards_dealt_out_otherwise(
    dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    runs = [
        train(dataset, tmp_path / kind, config(tiny_base, sft, evals=0, reward=kind), environment=Letters())
        for kind in ("ladder", "shuffled")
    ]
    assert runs[0].losses[0].reward == runs[1].losses[0].reward
    assert runs[0].losses[0].loss != runs[1].losses[0].loss


def test_what_is_trained_is_what_was_drawn(dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path) -> None:
    """Prompt and reply of each row that TRL computes on are the prompt that runs and the tokens that were graded."""
    from repo_agent.train.grpo import Replies

    seen: list[tuple[list[int], list[int]]] = []
    plain = Replies.loss

    def looked_at(self: Any, trainer: Any, model: Any, bundle: Any, step: Any) -> Any:
        made = self.made
        for group in bundle:
            for row in range(group.rows.start, group.rows.stop):
                prompt, reply = (
                    made[f"{part}_ids"][row][made[f"{part}_mask"][row].bool()].tolist()
                    for part in ("prompt", "completion")
                )
                seen.append((prompt, reply))
        return plain(self, trainer, model, bundle, step)

    env = Letters()
    Replies.loss = looked_at  # type: ignore[method-assign]
    try:
        train(dataset, tmp_path / "out", config(tiny_base, sft, evals=0, epochs=1), environment=env)
    finally:
        Replies.loss = plain  # type: ignore[method-assign]
    renderer = Renderer(load_tokenizer(str(tiny_base)))
    graded = [(renderer.prompt_ids(env.contexts[number].messages), ids) for number, ids in env.asked]
    assert len(seen) >= 16 and all(one in graded for one in seen)


def test_replies_end_with_the_token_that_ended_them(tiny_base: Path) -> None:
    import peft

    renderer = Renderer(load_tokenizer(str(tiny_base)))
    base = load_weights(str(tiny_base), "cpu")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    prompt = renderer.prompt_ids(trajectory(0, 1).messages[:2])
    eos = renderer.tokenizer.eos_token_id
    drawn = draw(model, renderer, [Ask(prompt, seed) for seed in range(300)], 10.0, 8)
    ended = [one for one in drawn if one.finish == "stop"]
    assert ended and len(ended) < len(drawn)
    assert all(one.ids[-1] == eos and eos not in one.ids[:-1] for one in ended)
    assert all(len(one.ids) == 8 and eos not in one.ids for one in drawn if one.finish == "length")
    for one in drawn:
        said = one.ids[:-1] if one.finish == "stop" else one.ids
        assert one.text == renderer.tokenizer.decode(said, clean_up_tokenization_spaces=False)
    again = draw(model, renderer, [Ask(prompt, seed) for seed in range(5, 9)], 10.0, 8)
    assert [one.ids for one in again] == [one.ids for one in drawn[5:9]]


def test_a_prompt_that_is_read_once_gives_the_gradient_of_whole_rows(tiny_base: Path, sft: Path) -> None:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    model = with_adapter(load_weights(str(tiny_base), "cpu"), sft, str(tiny_base), trainable=True)
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy"))
    draws = torch.Generator().manual_seed(0)
    width, most, rows, masks = 20, 7, [], []
    for length, replies in ((20, (7, 3, 5)), (12, (4, 7)), (1, (2,)), (20, (6,))):
        prompt = torch.randint(10, 300, (length,), generator=draws)
        for count in replies:
            reply = torch.randint(10, 300, (count,), generator=draws)
            left, right = torch.zeros(width - length).long(), torch.zeros(most - count).long()
            rows.append(torch.cat([left, prompt, reply, right]))
            masks.append(torch.cat([left, torch.ones(length + count).long(), right]))
    ids, mask = torch.stack(rows), torch.stack(masks)
    weights = torch.randn(len(ids), most, generator=draws) * mask[:, -most:]

    def whole() -> tuple[Any, Any]:
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-most] = -100
        made = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        return made.log_probs[:, -most:], made.entropy[:, -most:]

    found = []
    for way in (whole, lambda: log_probabilities(model, ids, mask, most)):
        model.zero_grad()
        logs, entropy = way()
        (logs * weights).sum().backward()
        gradient = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        found.append((logs.detach(), entropy.detach() * mask[:, -most:], gradient))
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0.01
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_the_plan_and_what_is_refused(dataset: Path, sft: Path, tiny_base: Path) -> None:
    planned = plan(prepare(dataset, config(tiny_base, sft), Letters()))
    assert (planned.rows, planned.steps, planned.config.batch_size) == (10, 3, 4)
    assert any("calls of replies run in 0 of 12 contexts" in line for line in planned.warnings)
    with pytest.raises(UserError, match="Raise --max-length"):
        prepare(dataset, config(tiny_base, sft, max_length=20), Letters())
    with pytest.raises(UserError, match="give --batch-size"):
        make_config({"base": "tiny", "method": "grpo", "step_tokens": 9})
    usual = prepare(dataset, TrainConfig(base=str(tiny_base), method="grpo", adapter=str(sft)), Letters()).config
    assert (usual.epochs, usual.batch_size, usual.step_tokens, usual.generations) == (1, 8, None, 8)


def test_the_command_counts_before_it_draws(
    sft: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contexts of train tasks alone, from a real run and a real dataset; what is missing is said in one line."""
    play = "eval --suite micro --split train --held-out 45 --model oracle --max-steps 4 --tests never --rollouts 1"
    result(capsys, *play.split(), "--out", tmp_path / "runs")
    result(capsys, "build", tmp_path / "runs", "--gate", "run_passed=off", "--out", tmp_path / "data")
    words = ["train", tmp_path / "data", "--base", tiny_base, "--method", "grpo", "--dry-run", "--reply-tokens", 32]
    planned = result(capsys, *words, "--contexts", tmp_path / "runs", "--per-task", 3, "--batch-size", 4)
    contexts = planned["rows"]
    assert contexts and planned["tasks"] * 2 <= contexts <= planned["tasks"] * 3 and planned["seconds"] is None
    assert planned["steps"] == -(-contexts // 4) and not any(
        "judged by their form" in one for one in planned["warnings"]
    )
    code, said, _ = run(capsys, *words, "--contexts", tmp_path / "runs", "--per-task", 3)
    assert code == 0 and f"{8 * contexts:,}, of at most 32 tokens each" in said
    for more, wrong in (
        ([], "no recorded contexts"),
        (["--contexts", tmp_path / "data"], "no event of a trace"),
        (["--contexts", tmp_path / "runs", "--adapter", sft], "was made for other tools"),
        (["--contexts", tmp_path / "runs", "--method", "sft"], "--contexts is of --method grpo"),
    ):
        code, _, err = run(capsys, *words, *more)
        assert code == 2 and wrong in err, err


def test_a_stopped_run_resumes_with_the_same_replies_and_weights(
    dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = config(tiny_base, sft, epochs=2)

    def interrupt(step: int, *_: Any) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train(dataset, tmp_path / "whole", settings, environment=Letters())
    with pytest.raises(Stopped, match="after step 3"):
        train(dataset, tmp_path / "stopped", settings, interrupt, environment=Letters())
    other = train(dataset, tmp_path / "stopped", settings, resume=True, environment=Letters())
    assert other.resumed_at == [3] and whole.evals == other.evals
    for one, two in zip(whole.losses, other.losses, strict=True):
        assert (one.loss, one.reward, one.drawn) == (two.loss, two.reward, two.drawn)
    assert adapter_hash(tmp_path / "whole") == adapter_hash(tmp_path / "stopped")


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from rewarding import Letters
from test_cli import result, run
from repo_agent.train.config import TrainConfig
from repo_agent.train.local import train
dataset, out, settings, kill, resume = sys.argv[2:]
def on_step(step, total, loss, speed=None):
    print(step, loss.hex(), flush=True)
    if step == int(kill):
        os.kill(os.getpid(), signal.SIGKILL)
settings = TrainConfig.model_validate_json(settings)
train(Path(dataset), Path(out), settings, on_step, resume=resume == "yes", environment=Letters())
"""


def in_a_process(dataset: Path, out: Path, settings: TrainConfig, kill: int = 0, resume: bool = False) -> list[str]:
    words = [
        str(Path(__file__).parent),
        str(dataset),
        str(out),
        settings.model_dump_json(exclude_unset=True),
        str(kill),
    ]
    words.append("yes" if resume else "no")
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_replies_and_weights(
    dataset: Path, sft: Path, tiny_base: Path, tmp_path: Path
) -> None:
    settings = config(tiny_base, sft, epochs=2, checkpoints=4)
    whole = in_a_process(dataset, tmp_path / "whole", settings)
    before = in_a_process(dataset, tmp_path / "killed", settings, kill=len(whole) - 1)
    after = in_a_process(dataset, tmp_path / "killed", settings, resume=True)
    assert before == whole[:-1] and after == whole[-len(after) :] and 1 <= len(after) < len(whole)
    one, other = read_record(tmp_path / "whole"), read_record(tmp_path / "killed")
    assert one.evals == other.evals and [step.reward for step in one.losses] == [step.reward for step in other.losses]
    assert adapter_hash(tmp_path / "whole") == adapter_hash(tmp_path / "killed")
