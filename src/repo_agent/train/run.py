"""A local run under way: what it is made of, and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.train.config import TrainConfig
from repo_agent.train.folder import RunFolder
from repo_agent.train.measure import Evaluations, Probe, evaluating, token_nll
from repo_agent.train.prepare import Prepared
from repo_agent.train.record import Evaluation, Say
from repo_agent.train.step import Passes
from repo_agent.train.world import World


@dataclass
class Run:
    """A run under way."""

    prepared: Prepared
    folder: RunFolder
    world: World
    model: Any
    """The transformers model; it gets the LoRA."""
    passes: Passes
    attention: str
    evaluations: Evaluations
    probe: Probe | None
    say: Say
    trainer: Any = None

    @property
    def config(self) -> TrainConfig:
        return self.prepared.config

    def measure(self, step: int) -> tuple[Evaluation, bool]:
        """Evaluate the weights after a step, and keep them where they are the best so far."""
        tuned = self.trainer.model
        nll, tasks = token_nll(tuned, self.prepared.held, self.passes.most)
        valid, replayed = self._replay(tuned)
        found = Evaluation(
            step=step,
            eval_nll=nll,
            tasks=tasks,
            validity=valid / replayed if replayed else None,
            replayed=replayed,
        )
        best = self.evaluations.add(found)
        if self.world.main:
            self.folder.log(found.model_dump())
            replay = "" if found.validity is None else f", {found.validity:.0%} of {replayed} replayed calls valid"
            self.say(f"step {step}: eval_nll {nll:.4f}{replay}{' (best so far)' if best else ''}")
        if best:
            self.save(self.folder.path / f"best-{step}")
        return found, self.evaluations.enough

    def _replay(self, tuned: Any) -> tuple[int, int]:
        """On the main process; weights that are divided over processes cannot generate by themselves."""
        if self.probe is None or not self.config.replays or not self.world.main or self.world.sharded:
            return 0, 0
        with evaluating(tuned):
            return self.probe(
                tuned, self.prepared.renderer, list(self.prepared.held_trajectories()), self.config.replays
            )

    def save(self, folder: Path) -> None:
        """Write the adapter; every process takes part where weights are divided."""
        state = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped) if self.world.sharded else None
        if self.world.main:
            self.trainer.accelerator.unwrap_model(self.trainer.model).save_pretrained(str(folder), state_dict=state)
        self.world.wait()
