"""Settings of a training run: flags, TOML, presets, and what `--dry-run` promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_train import trajectory, write_dataset

from repo_agent.errors import UserError
from repo_agent.train.config import TrainConfig, make_config
from repo_agent.train.local import identity, train
from repo_agent.train.plan import plan
from repo_agent.train.prepare import origin, prepare
from repo_agent.train.presets import Size, resolve, steps, warnings

SMALL, LARGE = Size(135_000_000, 50, 16_000), Size(7_600_000_000, 4_000, 1_600_000)


def test_a_file_gives_settings_and_a_flag_goes_before_it(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('[train]\nbase = "tiny"\nlr = 0.1\nepochs = 2\n[train.together]\nmodel = "a/b"\nsuffix = "x"\n')
    config = make_config({"lr": 0.2, "epochs": None, "report_to": [], "together_suffix": "y", "yes": True}, file)
    assert (config.base, config.lr, config.epochs) == ("tiny", 0.2, 2)
    assert (config.together.model, config.together.suffix, config.together.yes) == ("a/b", "y", True)


def test_all_problems_are_listed_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text('[train]\nepoch = 2\nschedule = "square"\ntogether = {poll_seconds = 0}\n[eval]\nx = 1\n')
    given = {"lr": 2.0, "step_tokens": 9, "batch_size": 9, "report_to": ["paper"], "budget_usd": -1}
    with pytest.raises(UserError) as error:
        make_config(given, file)
    said = str(error.value)
    for part in (
        f"{file}: no table eval", f"{file}: epoch: there is no such setting", f"{file}: schedule: ", "--lr: ",
        "--base is missing", "--step-tokens and --batch-size", "--report-to: no tracker 'paper'",
        "--budget-usd: ", f"{file}: together.poll_seconds: ",
    ):  # fmt: skip
        assert part in said, part
    with pytest.raises(UserError, match="cannot be read as TOML"):
        make_config({}, tmp_path / "none.toml")


def test_presets_fill_in_what_is_not_given() -> None:
    small, large = (resolve(TrainConfig(base="x"), size) for size in (SMALL, LARGE))
    assert (small.lr, large.lr, large.epochs) == (1e-3, 2e-4, 3)
    assert 50 <= steps(small, SMALL) <= 150 and steps(large, LARGE) > 500
    planned = resolve(TrainConfig(base="x", preset="plan"), LARGE)
    assert (planned.lr, planned.epochs, planned.batch_size) == (1e-5, 3, 8)
    given = resolve(TrainConfig(base="x", lr=0.3, epochs=1, batch_size=4), LARGE)
    assert (given.lr, given.epochs, given.batch_size, given.step_tokens) == (0.3, 1, 4, None)


def test_a_rate_that_teaches_nothing_is_told_before_it_is_paid_for() -> None:
    """The three runs of SmolLM2-135M with 39 steps: 1e-5 and 2e-4 did not suffice, 1e-3 did."""

    def told(lr: float | None, preset: str = "recommended", count: int = 39) -> str:
        config = TrainConfig(base="x", lr=lr, preset=preset, step_tokens=400, epochs=1)
        return " ".join(warnings(resolve(config, SMALL), SMALL.parameters, count))

    assert "too little to move the model" in told(1e-5) and "too little" in told(2e-4)
    assert told(1e-3) == "" and told(None) == ""
    assert "100 times under" in told(None, "plan") and "30 to 100 times" in told(None, "plan")
    assert "may diverge" in told(0.1)


def test_a_dry_run_promises_what_the_run_then_does(tiny_base: Path, tmp_path: Path) -> None:
    found = [trajectory(n, 3 + n % 3, dropped=1 if n == 1 else None) for n in range(6)]
    dataset = write_dataset(tmp_path / "set", found)
    config = TrainConfig(base=str(tiny_base), epochs=2, step_tokens=120, eval_share=0.3, evals=2, early_stop=0)
    planned = plan(prepare(dataset, config), usd_per_hour=3600.0)
    assert any("no task out" in line for line in planned.warnings)
    record = train(dataset, tmp_path / "out", config)
    assert (planned.rows, planned.steps, planned.eval_tasks) == (record.rows, len(record.losses), record.eval_tasks)
    assert (planned.tokens, planned.trained_tokens) == (record.tokens, record.trained_tokens)
    assert planned.read_tokens == 2 * record.tokens == sum(one.tokens or 0 for one in record.losses)
    assert len(planned.eval_tasks) == 2 and not {*planned.eval_tasks} & {*record.train_tasks}
    assert planned.memory is not None and planned.memory.weights == 4 * (planned.parameters or 0)
    assert planned.seconds is not None and planned.usd == pytest.approx(planned.seconds, abs=0.01)


def test_rows_that_were_edited_are_another_dataset_and_that_is_said(tiny_base: Path, tmp_path: Path) -> None:
    dataset, config = tmp_path / "set", TrainConfig(base=str(tiny_base), epochs=1, step_tokens=120)
    write_dataset(dataset, [trajectory(n, 3) for n in range(4)])
    made = prepare(dataset, config)
    assert not any("edited" in line for line in made.warnings(100))
    rows = dataset / "trajectories.jsonl"
    rows.write_text(rows.read_text().replace("def f()", "def g()"))
    edited = prepare(dataset, config)
    assert edited.size == made.size and identity(edited) != identity(made)
    assert any("edited" in line for line in edited.warnings(100))
    assert (
        origin(edited.dataset, config, made.renderer)["dataset"]
        != origin(made.dataset, config, made.renderer)["dataset"]
    )
