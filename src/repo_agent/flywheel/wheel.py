"""The flywheel: rounds of commands until a rule, a budget or the last round ends it, and what came of each round."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repo_agent.errors import NothingLeft, Stopped, UserError
from repo_agent.evaluate.arms import load_arm
from repo_agent.evaluate.verdict import BETTER_LABELS
from repo_agent.flywheel.chain import RESUME, Chain, Run, Say, is_done
from repo_agent.flywheel.plan import Plan, refuse
from repo_agent.flywheel.stages import (
    Stage,
    every_stage,
    gathering,
    held_out,
    material,
    opening,
    routes,
    training,
    verdict,
)
from repo_agent.report.rounds import Point, write_rounds
from repo_agent.traces.store import RunDir

Check = Callable[[Sequence[str]], str]
"""What is wrong with a command's words; "" where nothing is."""


def check_plan(plan: Plan, check: Check, where: str) -> None:
    """Raise UserError that lists what is wrong with any command of the plan, before the first one runs."""
    stages = list(every_stage(plan))
    problems = [f"{stage.made}: {problem}" for stage in stages if (problem := check(stage.words))]
    if plan.budget_usd is not None and not any(stage.prices or stage.hosted for stage in stages):
        problems.append("budget_usd: no command of this plan has a price: leave it out, or give price_in and price_out")
    refuse(list(dict.fromkeys(problems)), where)


def turn(plan: Plan, run: Run, say: Say) -> dict[str, Any]:
    """Play the rounds; returns the command's JSON, which `rounds.json` holds too.

    Raises UserError where a folder was made by another plan, Stopped where a budget is spent, and what the commands
    raise; the same call again resumes.
    """
    with Chain(plan.out, run, say) as chain:
        wheel = _Wheel(plan, chain)
        try:
            return wheel.summary(wheel.go())
        except Stopped as stop:
            if wheel.played:
                wheel.summary(stop.reason)
            raise


class _Wheel:
    def __init__(self, plan: Plan, chain: Chain) -> None:
        self.plan, self.chain = plan, chain
        self.played = 0
        """Rounds that have a verdict."""
        self._told: list[dict[str, Any]] = []

    def go(self) -> str:
        """Everything that is to be done; returns why it ended."""
        for stage in opening(self.plan):
            self.do(stage)
        ended = ""
        for place in range(len(self.plan.round)):
            ended = ended or self.round(place)
        if self.played:
            self.do(routes(self.plan, self.played))
        return ended or "all rounds are done"

    def do(self, stage: Stage) -> None:
        """Run a stage within what the budgets leave. Raises Stopped where one is spent."""
        if is_done(stage.words, stage.made):
            self.chain.do(stage.words, stage.made)
            return
        more: list[str] = []
        if self.plan.budget_usd is not None and (stage.prices or stage.hosted):
            left = self.plan.budget_usd - self._usd(but=stage)
            if left <= 0:
                raise Stopped(f"the budget of {self.plan.budget_usd:g} USD is spent", 3, _MORE)
            more = ["--budget-usd", f"{left:.6g}"]
        with self._deadline():
            self.chain.do(stage.words, stage.made, more)

    def round(self, place: int) -> str:
        """Play a round; returns why no other is to follow, "" where one is."""
        plan, one = self.plan, self.plan.round[place]
        told: dict[str, Any] = {"round": one.name, "route": one.route, "begin": plan.beginning(place)}
        self._told.append(told)
        try:
            for stage in gathering(plan, place):
                self.do(stage)
            told["rows"] = rows_of(material(plan, one))
        except NothingLeft:
            told["rows"] = 0
        if told["rows"] < one.min_rows:
            told["ended"] = f"too few rows in round {one.name}: {told['rows']}, and {one.min_rows} are asked for"
            return str(told["ended"])
        for stage in (training(plan, place), held_out(plan, one.name), verdict(plan, place)):
            self.do(stage)
        told["verdict"] = json.loads((plan.out / "reports" / one.name / "comparison.json").read_text())["verdict"]
        self.played = place + 1
        return self._enough(one.name, told["verdict"])

    def _enough(self, name: str, verdict: dict[str, Any]) -> str:
        """Why the flywheel ends after this verdict, "" where it does not."""
        if self.plan.stop_unless_better and verdict["label"] not in BETTER_LABELS:
            return f"round {name} is not shown to be better: {verdict['title']}"
        reached, target = self._point(name).validity, self.plan.target_validity
        if target is not None and reached is not None and reached >= target:
            return f"round {name} reached a validity of {reached:.1%}, and {target:.1%} is asked for"
        return ""

    def _point(self, arm: str) -> Point:
        return Point.of(arm, load_arm(self.plan.out / "runs" / arm))

    def summary(self, ended: str) -> dict[str, Any]:
        """What came of the rounds so far, also as rounds.json and rounds.svg."""
        plan = self.plan
        arms = [stage.made.name for stage in opening(plan)] + [one.name for one in plan.round[: self.played]]
        points = [self._point(arm) for arm in arms]
        result = {
            "ended": ended,
            "rounds": self._told,
            "arms": [point.to_json() for point in points],
            "seconds": round(sum(self.chain.seconds.values()), 1),
            "usd": self._usd(),
        }
        write_rounds(plan.out, result, points)
        return result

    def _usd(self, but: Stage | None = None) -> float:
        """What all stages spent, of those that have a price; without one of them."""
        return sum(_spent(one) for one in every_stage(self.plan) if but is None or one.made != but.made)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Stop the block as Ctrl-C does when the minutes are over. Raises Stopped then, and where they are already."""
        if self.plan.budget_minutes is None:
            yield
            return
        spent = Stopped(f"the budget of {self.plan.budget_minutes:g} minutes is spent", 3, _MORE)
        left = 60 * self.plan.budget_minutes - sum(self.chain.seconds.values())
        if left < _LEAST:
            raise spent
        over, main = threading.Event(), threading.get_ident()

        def stop() -> None:
            over.set()
            signal.pthread_kill(main, signal.SIGINT)

        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # of what a shell runs in the background
        if ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(left, stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (Stopped, KeyboardInterrupt):
            if not over.is_set():
                raise
            raise spent from None
        finally:
            timer.cancel()
            if ignored:
                signal.signal(signal.SIGINT, signal.SIG_IGN)


_LEAST = 1.0
"""Seconds under which no command is started."""
_MORE = f"raise the budget, and {RESUME}"


def _spent(stage: Stage) -> float:
    """USD that went into a stage so far, also into what will be played again."""
    if stage.hosted and stage.made.exists():
        hosted = json.loads((stage.made / "run_record.json").read_text())["hosted"] or {}
        return float(hosted.get("price_usd") or hosted.get("estimate_usd") or 0.0)
    tokens = RunDir(stage.made).spent() if stage.prices and stage.made.exists() else None
    return stage.prices.cost(*tokens) if stage.prices and tokens else 0.0


def rows_of(folder: Path) -> int:
    """Step rows of a dataset, or pairs of a folder of them."""
    for name, counted in (("pairs.json", "pairs"), ("dataset.json", "rows")):
        if (folder / name).is_file():
            return int(json.loads((folder / name).read_text())["counts"][counted])
    raise UserError("holds neither rows nor pairs", str(folder), "Remove it to have it made anew")
