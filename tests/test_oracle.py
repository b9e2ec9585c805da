"""The generated tasks and the teacher that plays their fixes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from repo_agent.demo.corpus import transcript
from repo_agent.errors import UserError
from repo_agent.protocols import PROTOCOLS
from repo_agent.rollout.oracle import SLIP_RATE, oracle, plan
from repo_agent.tasks.bundled import bundled_suite
from repo_agent.tasks.micro import TASKS, micro_suite
from repo_agent.tasks.names import NamePool, in_suite_pool
from repo_agent.tasks.task import Task
from repo_agent.tools.files import default_registry

JSON = PROTOCOLS["json"]
MICRO = micro_suite(0)


def names(task: Task) -> set[str]:
    """The names that a micro task coins: folders, modules and functions."""
    words = {part.removesuffix(".py").removeprefix("test_") for path in task.files for part in path.split("/")}
    words |= {line.split("(")[0].removeprefix("def ").removeprefix("test_") for text in task.files.values()
              for line in text.splitlines() if line.startswith("def ")}  # fmt: skip
    return words - {"tests", "src", "lib", "app"}


def test_the_seed_fixes_the_suite() -> None:
    assert micro_suite(0).hash == MICRO.hash != micro_suite(1).hash
    assert len(MICRO.tasks) == TASKS == len({task.id for task in MICRO.tasks})


def test_no_name_occurs_in_two_tasks_or_in_pre_training() -> None:
    seen: set[str] = set()
    for task in MICRO.tasks:
        mine = names(task)
        assert not mine & seen and all(map(in_suite_pool, mine))
        seen |= mine
    pool = NamePool(random.Random(0), suite=False)
    assert not any(in_suite_pool(pool.draw()) for _ in range(500))
    corpus = "\n".join(message.content for seed in range(20) for message in transcript(seed))
    assert not [name for name in seen if len(name) > 5 and name in corpus]


def test_a_fix_changes_the_one_place_that_the_goal_quotes() -> None:
    for task in MICRO.tasks:
        ((path, right),) = (task.fix or {}).items()
        quoted = task.goal.split("`")[1::2]
        wrong = task.files[path]
        assert wrong.replace(*quoted) == right or wrong.replace(*reversed(quoted)) == right
        assert path not in task.goal and len(right.splitlines()) <= 6


def test_groups_split_by_hash_and_never_in_two() -> None:
    split = MICRO.split()
    assert len(split.held_out) == 18 and not set(split.train) & set(split.held_out)
    assert len(MICRO.split(5).held_out) == 5
    knots = {"knots-read", "knots-write"}
    for count in range(1, 20):
        held = set(bundled_suite().split(count).held_out)
        assert held & knots in (set(), knots)
    with pytest.raises(UserError, match="--held-out"):
        MICRO.split(48)


@pytest.mark.parametrize("suite", [MICRO, bundled_suite()], ids=["micro", "bundled"])
def test_the_oracle_uses_only_what_it_was_told_or_shown(suite, tmp_path: Path) -> None:
    registry = default_registry()
    for task in suite.tasks:
        for path, text in task.files.items():
            target = tmp_path / task.id / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for seed in range(4):
            known = task.goal
            for call in plan(task, random.Random(seed)):
                assert registry.check(call) is None
                path = call.args.get("rel_path", ".")
                assert path in known or path == ".", (task.id, call)
                if call.name != "write_file":
                    result = registry.execute(call, tmp_path / task.id, 9000)
                    assert result.ok and "[no hits]" not in result.output
                    known += result.output


def test_the_oracle_varies_without_padding_and_slips_now_and_then() -> None:
    plans = {seed: plan(MICRO.tasks[0], random.Random(seed)) for seed in range(40)}
    assert len({json.dumps([(call.name, call.args) for call in calls]) for calls in plans.values()}) > 15
    assert {len(calls) for calls in plans.values()} <= {3, 4, 5}
    bad = 0
    for seed in range(200):
        model = oracle(MICRO.tasks[0], JSON, seed)
        parsed = [JSON.parse(reply) for reply in model._replies]
        assert parsed[-1].final is not None
        bad += any(p.call is None or default_registry().check(p.call) or "/" not in p.call.args.get("rel_path", "/")
                   for p in parsed[:-1])  # fmt: skip
    assert 0.5 * SLIP_RATE < bad / 200 < 1.5 * SLIP_RATE


def test_the_oracle_needs_a_fix() -> None:
    task = Task("t", "goal", {"a.py": ""}, ("test_a.py",))
    with pytest.raises(UserError, match="known fix"):
        oracle(task, JSON, 0)
