"""A local run: packs change nothing, a killed run gives the same losses, evaluations are what they say."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_train import lora_model, one_thread, trajectory, write_dataset  # noqa: F401

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.dataset import read_dataset
from repo_agent.data.tokens import training_rows
from repo_agent.errors import Stopped, UserError
from repo_agent.train import attention
from repo_agent.train.batches import packs, shares, steps_of
from repo_agent.train.config import TrainConfig
from repo_agent.train.local import train
from repo_agent.train.measure import Evaluations, token_nll
from repo_agent.train.merge import merge
from repo_agent.train.passes import add_head, choose_attention, pack_tensors
from repo_agent.train.record import Evaluation, RunRecord, read_record
from repo_agent.train.step import Passes
from repo_agent.train.trainer import _check
from repo_agent.train.world import World


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = [trajectory(n, 2 + n % 4, dropped=1 if n == 1 else None) for n in range(8)]
    return write_dataset(tmp_path_factory.mktemp("data") / "set", found)


@pytest.fixture(scope="module")
def rows(dataset: Path, tiny_base: Path) -> list[Tokens]:
    return training_rows(read_dataset(dataset), Renderer(load_tokenizer(str(tiny_base))), None).rows


def config(base: Path, **more: Any) -> TrainConfig:
    given = {"base": str(base), "epochs": 2, "lr": 2e-3, "step_tokens": 150, "evals": 2, "replays": 0}
    return TrainConfig(**{**given, **more})


def gradient_of(model: Any, bundles: list[list[Tokens]]) -> tuple[float, Any]:
    import torch

    model.zero_grad()
    total = 0.0
    for bundle in bundles:
        loss = model(**pack_tensors(bundle, "cpu"))
        loss.backward()
        total += loss.item()
    return total, torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad])


# --- steps and packs


def test_every_row_is_in_one_step_an_epoch_and_in_one_pass_of_it(rows: list[Tokens], tiny_base: Path) -> None:
    for size in ({"step_tokens": 150}, {"step_tokens": None, "batch_size": 3}):
        steps = steps_of(rows, config(tiny_base, **size))
        half = len(steps) // 2
        for epoch in (steps[:half], steps[half:]):
            assert sorted(index for step in epoch for index in step.rows) == list(range(len(rows)))
        assert steps == steps_of(rows, config(tiny_base, **size))
        for step in steps:
            for processes in (1, 2, 3):
                parts = shares(rows, step, processes)
                divided = [pack for part in parts for pack in packs(rows, part, 400)]
                assert sorted(index for pack in divided for index in pack) == sorted(step.rows)
                assert all(len(pack) == 1 or sum(len(rows[i].input_ids) for i in pack) <= 400 for pack in divided)


def test_a_pack_has_the_loss_and_gradient_of_its_rows_alone(rows: list[Tokens], tiny_base: Path) -> None:
    model = lora_model(tiny_base)
    add_head(model.get_base_model())
    assert choose_attention(model.get_base_model(), rows, "auto")[0] == "segments"
    loss, gradient = gradient_of(model, [[row] for row in rows])
    for most in (400, 10_000):
        bundles = [[rows[i] for i in pack] for pack in packs(rows, range(len(rows)), most)]
        assert len(bundles) < len(rows)
        packed_loss, packed = gradient_of(model, bundles)
        assert packed_loss == pytest.approx(loss, rel=1e-10)
        assert ((packed - gradient).norm() / gradient.norm()).item() < 1e-8
    assert gradient.norm().item() > 0.1


def test_attention_over_the_borders_of_rows_is_noticed(
    rows: list[Tokens], tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lora_model(tiny_base).get_base_model()
    add_head(model)
    plain = attention._FUNCTIONS["segments"]
    blind = lambda *args, row_lengths=None, **more: plain(*args, row_lengths=None, **more)  # noqa: E731
    monkeypatch.setitem(attention._FUNCTIONS, "segments", blind)
    kind, why = choose_attention(model, rows, "auto")
    assert kind == "alone" and "beside another" in why


def test_memory_that_does_not_hold_a_pass_makes_passes_smaller_and_steps_stay(
    dataset: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator refuses for real; what asks it for too much stands in for a smaller machine."""
    import torch

    from repo_agent.train import step

    large = config(tiny_base, evals=0, step_tokens=None, batch_size=8)
    whole = train(dataset, tmp_path / "whole", large)
    plain = step.pack_tensors

    def greedy(bundle: Any, device: Any) -> Any:
        if sum(len(row.input_ids) for row in bundle) > 500 and len(bundle) > 1:
            torch.empty(1 << 60)
        return plain(bundle, device)

    monkeypatch.setattr(step, "pack_tensors", greedy)
    said: list[str] = []
    record = train(dataset, tmp_path / "small", large, say=said.append)
    assert [one.loss for one in record.losses] == pytest.approx([one.loss for one in whole.losses], rel=1e-5)
    assert (record.pass_tokens or 0) <= 500 < (whole.pass_tokens or 0) and any("out of memory" in one for one in said)

    def hungry(bundle: Any, device: Any) -> Any:
        torch.empty(1 << 60)

    monkeypatch.setattr(step, "pack_tensors", hungry)
    with pytest.raises(UserError, match="does not fit the memory"):
        train(dataset, tmp_path / "none", large)


# --- evaluations


def test_eval_nll_is_the_mean_over_all_trained_tokens_whatever_the_batch(rows: list[Tokens], tiny_base: Path) -> None:
    import torch

    model = lora_model(tiny_base)
    by_hand, count, alone = 0.0, 0, {}
    for number, row in enumerate(rows):
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        trained = [place for place, label in enumerate(row.labels) if label != -100]
        nll = -sum(logits[place - 1, row.input_ids[place]].item() for place in trained)
        alone[str(number)] = nll / len(trained)
        by_hand, count = by_hand + nll, count + len(trained)
    add_head(model.get_base_model())
    attention.use(model.get_base_model(), "segments")
    tasks = {str(number): [row] for number, row in enumerate(rows)}
    for most in (1, 10_000):  # a row a pass, and all of them in one
        whole, each = token_nll(model, tasks, most)
        assert whole == pytest.approx(by_hand / count, rel=1e-9) and each == pytest.approx(alone, rel=1e-9)
        assert token_nll(model, {"all": rows}, most)[0] == pytest.approx(by_hand / count, rel=1e-9)
    assert sum(alone.values()) / len(alone) != pytest.approx(by_hand / count, rel=1e-4), "a mean of means differs"


def test_the_run_ends_when_evaluations_no_longer_improve_and_keeps_the_best() -> None:
    seen = Evaluations([], patience=2)
    figures = [9.0, 3.0, 2.0, 2.5, 2.1]
    best = [seen.add(Evaluation(step=step, eval_nll=nll)) for step, nll in enumerate(figures)]
    assert best == [False, True, True, False, False] and seen.enough
    patient = Evaluations(seen.all, patience=0)
    assert not patient.enough


def test_an_adapter_holds_the_weights_of_the_best_evaluation(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    """A rate that is far too high: later steps are worse."""
    settings = config(tiny_base, lr=0.5, warmup=0, epochs=4, evals=8, early_stop=2, schedule="constant_with_warmup")
    record = train(dataset, tmp_path / "out", settings)
    known = {one.step: one.eval_nll or 0.0 for one in record.evals if one.step}
    assert record.stopped_early and record.best_step == min(known, key=lambda step: known[step]) != max(known)
    assert nll_of(tiny_base, tmp_path / "out", dataset, record) == pytest.approx(known[record.best_step], rel=1e-4)


def nll_of(base: Path, adapter: Path, dataset: Path, record: RunRecord) -> float:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from repo_agent.train.prepare import prepare

    model = AutoModelForCausalLM.from_pretrained(base)
    add_head(model)
    held = prepare(dataset, record.config.model_copy(update={"base": str(base)})).held
    return token_nll(PeftModel.from_pretrained(model, str(adapter)), held, 1)[0]


# --- stopping and resuming

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from repo_agent.errors import Stopped
from repo_agent.train.config import TrainConfig
from repo_agent.train.local import train
dataset, out, settings, kill, resume = sys.argv[1:]
def on_step(step, total, loss, speed=None):
    print(step, loss.hex(), flush=True)
    if step == int(kill):
        import os, signal
        os.kill(os.getpid(), getattr(signal, "SIGKILL"))
train(Path(dataset), Path(out), TrainConfig.model_validate_json(settings), on_step, resume=resume == "yes")
"""


def in_a_process(dataset: Path, out: Path, settings: TrainConfig, kill: int = 0, resume: bool = False) -> list[str]:
    words = [str(dataset), str(out), settings.model_dump_json(), str(kill), "yes" if resume else "no"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if kill else 0), done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_losses_and_weights(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, checkpoints=5, dropout=0.1)
    whole = in_a_process(dataset, tmp_path / "whole", settings)
    total = len(whole)
    assert total >= 6
    before = in_a_process(dataset, tmp_path / "killed", settings, kill=total - 1)
    assert not (tmp_path / "killed").exists() and (tmp_path / "killed.run").is_dir()
    after = in_a_process(dataset, tmp_path / "killed", settings, resume=True)
    assert before == whole[: total - 1] and after == whole[-len(after) :] and 1 <= len(after) < total
    one, other = read_record(tmp_path / "whole"), read_record(tmp_path / "killed")
    assert [step.loss for step in one.losses] == [step.loss for step in other.losses]
    assert one.evals == other.evals and other.resumed_at == [total - len(after)]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "killed.run").exists()


def test_ctrl_c_saves_and_resume_refuses_other_settings(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "out", config(tiny_base, evals=0)

    def interrupt(step: int, *_: Any) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="after step 3"):
        train(dataset, out, settings, interrupt)
    with pytest.raises(UserError, match="--resume"):
        train(dataset, out, settings)
    with pytest.raises(UserError, match="differs in --lr"):
        train(dataset, out, settings.model_copy(update={"lr": 1e-3}), resume=True)
    record = train(dataset, out, settings.model_copy(update={"pass_tokens": 500}), resume=True)
    assert record.resumed_at == [3] and [one.step for one in record.losses] == list(range(1, len(record.losses) + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_loss_that_is_no_number_ends_the_run(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Lower --lr"):
        train(dataset, tmp_path / "out", config(tiny_base, lr=1.0, alpha=10**20, epochs=9, evals=0, early_stop=0))


def test_a_gradient_that_is_no_number_ends_the_run(tiny_base: Path) -> None:
    _check({"loss": 1.0, "grad_norm": 3.0}, 1, config(tiny_base))
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="norm of the gradient is"):
            _check({"loss": 1.0, "grad_norm": wrong}, 1, config(tiny_base))


# --- several processes


def in_two_processes(dataset: Path, out: Path, settings: TrainConfig) -> RunRecord:
    """By gloo, on the CPU."""
    script = out.with_name("go.py")
    script.write_text(SCRIPT)
    words = [str(dataset), str(out), settings.model_dump_json(), "0", "no"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return read_record(out)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    """By gloo, on the CPU; the second has no row in some steps."""
    settings = config(tiny_base, step_tokens=None, batch_size=3, epochs=1)
    one = train(dataset, tmp_path / "one", settings)
    two = in_two_processes(dataset, tmp_path / "two", settings)
    assert two.processes == 2
    assert [step.loss for step in two.losses] == pytest.approx([step.loss for step in one.losses], rel=1e-5)
    for a, b in zip(one.evals, two.evals, strict=True):
        assert math.isclose(a.eval_nll or 0, b.eval_nll or 1, rel_tol=1e-5)


def test_a_process_without_a_row_waits_for_the_others(rows: list[Tokens], tiny_base: Path) -> None:
    (step,) = steps_of(rows[:1], config(tiny_base, epochs=1))
    assert shares(rows[:1], step, 2) == [[0], []]
    assert Passes(rows, [step], 100, World(1, 2), print).steps == [step]


# --- what comes out


def test_a_run_leaves_a_card_a_canary_and_a_picture(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    record = train(dataset, tmp_path / "out", config(tiny_base))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--max-lora-rank 16 --lora-modules out=out" in card and "eval_nll" in card
    assert record.served_nll == next(one.eval_nll for one in record.evals if one.step == record.best_step)
    canary = json.loads((tmp_path / "out" / "canary.json").read_text())
    assert len(canary["contexts"]) == 3 and all(one["base"] or one["tuned"] for one in canary["contexts"])


def test_a_merged_model_says_what_base_and_adapter_say(dataset: Path, tiny_base: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "out", config(tiny_base, lr=2e-2, evals=0))
    exact = merge(tmp_path / "out", tmp_path / "exact", "float32")
    cast = merge(tmp_path / "out", tmp_path / "cast", "bfloat16")
    assert exact is not None and cast is not None and exact < 1e-4 < cast < 1.0
    assert (tmp_path / "exact" / "tokenizer.json").is_file()
    with pytest.raises(UserError, match="already exists"):
        merge(tmp_path / "out", tmp_path / "cast")
    with pytest.raises(UserError, match="no precision"):
        merge(tmp_path / "out", tmp_path / "odd", "float13")
    assert not (tmp_path / "odd").exists()
