"""Rounds of commands: what a plan may say, what a journal keeps from running twice, when a flywheel ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run

from repo_agent.errors import Stopped, UserError
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.flywheel.chain import JOURNAL, Chain, run_commands
from repo_agent.flywheel.plan import make_plan, read_plan
from repo_agent.flywheel.stages import every_stage
from repo_agent.flywheel.wheel import turn

PLAN = """
out = "{out}"
suite = "micro"
base = "tiny"
[[round]]
name = "first"
route = "teacher"
teacher = "oracle"
[round.train]
epochs = 1
lr = 1e-3
[[round]]
name = "own"
route = "self"
"""


def words_of(record: dict[str, Any]) -> list[str]:
    return [" ".join(stage.words) for stage in every_stage(make_plan(record, "plan"))]


ROUND = {"name": "r", "route": "self"}


def plan(tmp_path: Path, *rounds: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"out": tmp_path / "w", "suite": "micro", "base": "tiny", "round": list(rounds), **more}


def test_a_plan_is_plain_commands_in_order(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN.format(out=tmp_path / "w"))
    made = [(stage.words[0], str(stage.made.relative_to(tmp_path / "w"))) for stage in every_stage(read_plan(file))]
    assert made == [
        ("eval", "runs/base"), ("eval", "runs/base-constrained"),
        ("eval", "runs/first-collect"), ("build", "datasets/first"), ("train", "adapters/first"),
        ("eval", "runs/first"), ("compare", "reports/first"),
        ("eval", "runs/own-collect"), ("build", "datasets/own"), ("train", "adapters/own"),
        ("eval", "runs/own"), ("compare", "reports/own"), ("compare", "reports/routes-to-own"),
    ]  # fmt: skip
    first, own = (" ".join(stage.words) for stage in every_stage(read_plan(file)) if "-collect" in stage.made.name)
    assert "--model oracle" in first and "--constrain" not in first and "--split train" in first
    assert f"--model local:tiny+{tmp_path}/w/adapters/first" in own and "--constrain" in own
    train = [" ".join(stage.words) for stage in every_stage(read_plan(file)) if stage.words[0] == "train"]
    assert "--epochs 1 --lr 0.001" in train[0] and "--adapter" not in train[0]
    assert f"--adapter {tmp_path}/w/adapters/first" in train[1]


def test_arms_are_held_out_and_played_alike(tmp_path: Path) -> None:
    """Whatever the routes, all arms have the same tasks, seeds and limits; no round collects on held-out tasks."""
    rounds = [
        {"name": "a", "route": "teacher", "teacher": "oracle", "collect": {"max_steps": 9}},
        {"name": "b", "route": "self", "begin": "base"},
        {"name": "c", "route": "dpo", "begin": "a"},
        {"name": "d", "route": "grpo", "begin": "a", "train": {"generations": 4}},
    ]
    record = plan(tmp_path, *rounds, eval={"max_tokens": 64, "jobs": 2}, seed=3, held_out=5)
    evals = [words.split() for words in words_of(record) if words.startswith("eval")]
    arms = [words for words in evals if words[words.index("--split") + 1] == "held-out"]
    assert len(arms) == 6 and len(evals) == 10
    settings = set()
    for words in arms:
        own = {words.index("--model") + 1, words.index("--out") + 1}
        settings.add(" ".join(word for place, word in enumerate(words) if place not in own and word != "--constrain"))
    assert len(settings) == 1 and "--max-tokens 64" in settings.pop()
    compares = [words for words in words_of(record) if words.startswith("compare")]
    assert "runs/base " in compares[1] and "runs/b " in compares[1]  # b begins from the base, c from a
    assert "runs/a " in compares[2] and "runs/c " in compares[2]
    assert all(f"runs/{arm} " in compares[4] for arm in ("base", "base-constrained", "a", "b", "c", "d"))
    rewarded = words_of(record)[-4]
    assert "--method grpo " in rewarded and f"--contexts {tmp_path}/w/runs/d-collect " in rewarded
    assert f"--adapter {tmp_path}/w/adapters/a " in rewarded and "--generations 4" in rewarded


def test_what_is_kept_is_a_choice(tmp_path: Path) -> None:
    executed, passed = (
        next(words for words in words_of(plan(tmp_path, {**ROUND, "keep": keep})) if words.startswith("build"))
        for keep in ("executed", "passed")
    )
    assert "--gate run_passed=off --gate final_passed" in executed and "--gate" not in passed


def test_everything_wrong_with_a_plan_is_said_at_once(tmp_path: Path) -> None:
    rounds = [{"name": "a b", "route": "moon", "train": {"lr": [1]}}, {"name": "c", "route": "self", "odd": 1}]
    with pytest.raises(UserError) as error:
        make_plan(plan(tmp_path, *rounds, rollouts=0, budget=3), "plan.toml")
    said = str(error.value)
    for part in ("plan.toml", "round 1: name", "round 1: route", "round 1: train.lr", "round 2: odd: there is no such",
                 "rollouts", "budget: there is no such setting"):  # fmt: skip
        assert part in said, part
    assert "\n" not in said and said.startswith("plan.toml: 6 settings are wrong: ")


@pytest.mark.parametrize(
    ("rounds", "more", "said"),
    [
        ([ROUND, ROUND], {}, "the name is taken"),
        ([{**ROUND, "name": "base"}], {}, "the name is taken"),
        ([{**ROUND, "begin": "later"}, {"name": "later", "route": "self"}], {}, "begin names no earlier arm"),
        ([{**ROUND, "begin": "start"}], {}, "begin names no earlier arm"),
        ([{"name": "p", "route": "dpo"}], {}, "dpo begins from an adapter"),
        ([{"name": "t", "route": "teacher"}], {}, "teacher is missing"),
        ([{**ROUND, "teacher": "oracle"}], {}, "teacher is not of the route self"),
        ([{**ROUND, "pairs": {"per_task": 3}}], {}, "pairs is of the route dpo alone"),
        ([{"name": "p", "route": "dpo", "keep": "passed"}], {"adapter": "a"}, "not of the route dpo"),
        ([{**ROUND, "train": {"base": "other"}}], {}, "train.base follows from the rest of the plan"),
        ([ROUND], {"eval": {"model": "local:other"}}, "eval.model follows from the rest of the plan"),
        ([], {}, "round is missing"),
    ],
)
def test_settings_that_do_not_go_together(
    tmp_path: Path, rounds: list[dict[str, Any]], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(plan(tmp_path, *rounds, **more), "plan")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "repo_agent.cli", *map(str, words)]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def test_options_of_every_command_are_checked_before_the_first_runs(tmp_path: Path) -> None:
    file, text = tmp_path / "plan.toml", PLAN.format(out=tmp_path / "w").replace('[[round]]\nname = "own"', "")
    text = text.replace('route = "self"\n', "").replace("lr = 1e-3", "lr = 7\nrank = 0")
    file.write_text(f"budget_usd = 3.0\n{text}\n[round.build]\ngate = ['run_passed=off']\nnonsense = 1\n")
    done = command("flywheel", file)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "w").exists()
    for part in ("--nonsense", "--lr: ", "--rank: ", "budget_usd: no command of this plan has a price", "3 settings"):
        assert part in done.stderr, done.stderr
    file.write_text(text.replace("lr = 7\nrank = 0", "lr = 1e-3"))
    done = command("flywheel", file, "--dry-run")
    assert done.returncode == 0 and done.stdout.count("repo-agent ") == 8 and not (tmp_path / "w").exists(), done.stderr


@pytest.mark.parametrize(
    ("route", "train", "said"),
    [
        ("grpo", 'backend = "together"', "Train on this machine"),
        ("dpo", 'backend = "together"', "Add --together-accept-unchecked"),
        ("dpo", 'backend = "together"\ntogether_accept_unchecked = true', ""),
        ("dpo", 'backend = "moon"', "Choose from: local, together"),
    ],
)
def test_what_a_backend_does_not_train_is_said_before_the_first_runs(
    tmp_path: Path, route: str, train: str, said: str
) -> None:
    head = f'out = "{tmp_path / "w"}"\nsuite = "micro"\nbase = "Qwen/Qwen2.5-7B-Instruct"\nadapter = "first"\n'
    (tmp_path / "plan.toml").write_text(f'{head}[[round]]\nname = "r"\nroute = "{route}"\n[round.train]\n{train}\n')
    done = command("flywheel", tmp_path / "plan.toml", "--dry-run")
    assert (done.returncode, said in done.stderr) == (2 if said else 0, True), done.stderr


class Worker:
    """Runs commands that only make their folder, and counts them."""

    def __init__(self, fail: str = "") -> None:
        self.ran: list[str] = []
        self.fail = fail

    def __call__(self, words: Sequence[str]) -> int | None:
        self.ran.append(words[0])
        if words[0] == self.fail:
            raise Stopped("enough", 130)
        out = Path(words[words.index("--out") + 1])
        if words[0] == "eval":
            make_run(out, [[["ok"]]] * 6)
        else:
            out.mkdir(parents=True)
        return None


def stage(name: str, made: Path, *more: str) -> tuple[list[str], Path]:
    return [name, *more, "--out", str(made)], made


def test_what_is_done_does_not_run_again(tmp_path: Path) -> None:
    out, said = tmp_path / "w", list[str]()
    commands = [stage("eval", out / "run"), stage("build", out / "data"), stage("train", out / "adapter")]
    with pytest.raises(Stopped):
        run_commands(commands, out, Worker("train"), said.append)
    again = Worker()
    seconds = run_commands(commands, out, again, said.append)
    assert again.ran == ["train"] and list(seconds) == ["run", "data", "adapter"]
    assert sum("is there already" in line for line in said) == 2 and sum("$ repo-agent" in line for line in said) == 6
    last = Worker()
    assert run_commands(commands, out, last, said.append) == pytest.approx(seconds, abs=1e-3) and not last.ran


def test_an_unfinished_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "w"
    commands = [stage("eval", out / "run")]
    run_commands(commands, out, Worker(), print)
    next((out / "run").glob("traces/*/*.jsonl")).unlink()
    again = Worker("eval")
    with pytest.raises(Stopped):
        run_commands(commands, out, again, print)
    assert again.ran == ["eval"]


def test_a_folder_that_another_command_made_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "w"
    run_commands([stage("build", out / "data")], out, Worker(), print)
    with pytest.raises(UserError, match="made by another command: repo-agent build --out"):
        run_commands([stage("build", out / "data", "--gate", "no_final")], out, Worker(), print)
    (out / "adapter").mkdir()
    with pytest.raises(UserError, match="made by hand"):
        run_commands([stage("train", out / "adapter")], out, Worker(), print)


def test_a_chain_has_one_process_and_a_folder_of_its_own(tmp_path: Path) -> None:
    with Chain(tmp_path / "w", Worker(), print), pytest.raises(UserError, match="another process"):
        run_commands([], tmp_path / "w", Worker(), print)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match=r"holds no commands\.jsonl"):
        run_commands([], tmp_path / "mine", Worker(), print)


def test_a_command_that_ends_with_a_code_ends_the_chain(tmp_path: Path) -> None:
    out = tmp_path / "w"
    with pytest.raises(Stopped) as stop:
        run_commands([stage("build", out / "a"), stage("build", out / "b")], out, lambda words: 130, print)
    assert stop.value.code == 130 and not (out / "b").exists()


def test_a_journal_that_a_kill_cut_off_is_read_and_its_time_counts(tmp_path: Path) -> None:
    out = tmp_path / "w"
    run_commands([stage("build", out / "a")], out, Worker(), print)
    made = (out / "a").stat().st_mtime
    (out / "b.run").mkdir()
    (out / "b.run" / "log").touch()
    start = {"start": "b", "command": ["train", "--out", str(out / "b")], "at": made - 60}
    with (out / JOURNAL).open("a") as file:
        file.write(json.dumps(start) + '\n{"end": "b", "sec')
    with Chain(out, Worker(), print) as chain:
        assert 59 < chain.seconds["b"] < 90
        chain.do(*stage("train", out / "b"))
    with Chain(out, Worker(), print) as chain:
        assert 59 < chain.seconds["b"] < 90 and set(chain.seconds) == {"a", "b"}


class Wheel(Worker):
    """Plays arms with so many valid turns of six, and compares them for real, but for the page."""

    def __init__(self, valid: dict[str, int], rows: int = 9, fail: str = "") -> None:
        super().__init__(fail)
        self.valid, self.rows, self.budgets = valid, rows, list[str]()

    def __call__(self, words: Sequence[str]) -> int | None:
        self.ran.append(words[0])
        if words[0] == self.fail:
            raise Stopped("enough", 130)
        out = Path(words[words.index("--out") + 1])
        self.budgets += [words[place + 1] for place, word in enumerate(words) if word == "--budget-usd"]
        if words[0] == "eval":
            good = self.valid.get(out.name, 3)
            tasks = [[["ok"] * (good - place % 2) + ["missing_arg"] * (6 - good + place % 2)] for place in range(8)]
            make_run(out, tasks, model=words[words.index("--model") + 1], constrain="--constrain" in words)
        elif words[0] == "compare":
            found = compare_runs([Path(word) for word in words[1 : words.index("--out")]])
            out.mkdir(parents=True)
            (out / "comparison.json").write_text(json.dumps(found.to_json()))
        else:
            out.mkdir(parents=True)
        if words[0] == "build":
            (out / "dataset.json").write_text(json.dumps({"counts": {"rows": self.rows}}))
        return None


def turned(tmp_path: Path, wheel: Wheel, *rounds: str, **more: Any) -> dict[str, Any]:
    record = plan(tmp_path, *({"name": name, "route": "self", "min_rows": 5} for name in rounds), **more)
    return turn(make_plan(record, "plan"), wheel, lambda line: None)


def test_it_ends_after_a_round_that_is_not_better_and_says_so_again(tmp_path: Path) -> None:
    wheel = Wheel({"base": 2, "a": 5, "b": 5, "c": 6})
    result = turned(tmp_path, wheel, "a", "b", "c")
    assert [one["verdict"]["label"] for one in result["rounds"]] == ["better_validity", "inconclusive"]
    assert result["ended"] == "round b is not shown to be better: Inconclusive"
    assert [arm["name"] for arm in result["arms"]] == ["base", "base-constrained", "a", "b"]
    again = Wheel({})
    assert turned(tmp_path, again, "a", "b", "c") == result and not again.ran
    assert json.loads((tmp_path / "w/rounds.json").read_text()) == result
    assert (tmp_path / "w/reports/routes-to-b").is_dir() and "<svg" in (tmp_path / "w/rounds.svg").read_text()
    further = turned(tmp_path, Wheel({"c": 6}), "a", "b", "c", stop_unless_better=False)
    assert further["ended"] == "all rounds are done" and len(further["rounds"]) == 3


def test_it_ends_where_the_target_is_reached(tmp_path: Path) -> None:
    result = turned(tmp_path, Wheel({"base": 2, "a": 5, "b": 6}), "a", "b", target_validity=0.75)
    assert result["ended"] == "round a reached a validity of 75.0%, and 75.0% is asked for"
    arm = result["arms"][-1]
    low, high = arm["validity_interval"]
    assert low <= arm["validity"] <= high and (low, high) == pytest.approx((4 / 6, 5 / 6))
    assert (arm["tasks"], arm["rollouts"]) == (8, 8)


def test_too_few_rows_end_it_with_their_count(tmp_path: Path) -> None:
    wheel = Wheel({}, rows=4)
    result = turned(tmp_path, wheel, "a", "b")
    assert result["ended"] == "too few rows in round a: 4, and 5 are asked for" and "train" not in wheel.ran
    assert "compare" not in wheel.ran and [arm["name"] for arm in result["arms"]] == ["base", "base-constrained"]


def test_a_budget_in_dollars_is_one_for_all(tmp_path: Path) -> None:
    """Each reply of an arm costs 9 and 3 tokens; every command may spend what the others have left."""
    record = plan(tmp_path, {"name": "t", "route": "teacher", "teacher": "openai:x@http://127.0.0.1:1/v1"},
                  {"name": "u", "route": "teacher", "begin": "base", "teacher": "openai:y@http://127.0.0.1:1/v1"},
                  eval={"price_in": 1000.0, "price_out": 2000.0}, stop_unless_better=False)  # fmt: skip
    spent = 8 * 6 * (9 * 1000 + 3 * 2000) / 1e6  # 0.72
    wheel = Wheel({})
    with pytest.raises(Stopped, match=r"the budget of 0\.7 USD is spent") as stop:
        turn(make_plan({**record, "budget_usd": 0.7}, "plan"), wheel, lambda line: None)
    assert stop.value.code == 3 and wheel.budgets == ["0.7"]
    wheel = Wheel({})
    result = turn(make_plan({**record, "budget_usd": 1.0}, "plan"), wheel, lambda line: None)
    assert wheel.budgets == ["0.28"] and result["usd"] == pytest.approx(2 * spent)


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def sigint(request: pytest.FixtureRequest) -> Iterator[Any]:
    """How a process takes SIGINT when it starts: a shell has it ignored in what it runs in the background."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    assert signal.signal(signal.SIGINT, before) is request.param


@pytest.mark.usefixtures("sigint")
def test_a_budget_in_minutes_stops_a_command_under_way_and_counts_what_went_before(tmp_path: Path) -> None:
    class Slow(Wheel):
        def __call__(self, words: Sequence[str]) -> int | None:
            if words[0] == "train":
                self.ran.append("train")
                time.sleep(3600)
            return super().__call__(words)

    with pytest.raises(Stopped, match="enough"):
        turned(tmp_path, Wheel({}, fail="train"), "a")
    with Chain(tmp_path / "w", Worker(), print) as chain:
        minutes = (sum(chain.seconds.values()) + 3) / 60
    slow = Slow({})
    with pytest.raises(Stopped, match=r"the budget of \d+\.\d+ minutes is spent") as stop:
        turned(tmp_path, slow, "a", budget_minutes=minutes)
    assert stop.value.code == 3 and slow.ran == ["train"]
    wheel = Wheel({})
    with pytest.raises(Stopped, match="is spent"):
        turned(tmp_path, wheel, "a", budget_minutes=minutes)
    assert not wheel.ran
    assert turned(tmp_path, wheel, "a")["ended"].startswith("round a is not") and wheel.ran[0] == "train"
