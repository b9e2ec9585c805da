"""A local run under way: what it is made of, and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.train.config import TrainConfig
from repo_agent.train.dpo import Reference
from repo_agent.train.folder import RunFolder
from repo_agent.train.measure import Evaluations, Probe, evaluating, token_nll
from repo_agent.train.prepare import Prepared
from repo_agent.train.record import Evaluation, Say
from repo_agent.train.step import Passes
from repo_agent.train.world import World


@dataclass
class Run:
    """A run under way."""

    prepared: Prepared[Any]
    folder: RunFolder
    world: World
    model: Any
    """The transformers model; it gets the LoRA."""
    passes: Passes[Any]
    attention: str
    evaluations: Evaluations
    probe: Probe | None
    say: Say
    reference: Reference | None = None
    """Of preferences."""
    trainer: Any = None

    @property
    def config(self) -> TrainConfig:
        return self.prepared.config

    def measure(self, step: int) -> tuple[Evaluation, bool]:
        """Evaluate the weights after a step, and keep them where they are the best so far."""
        tuned = self.trainer.model
        nll, tasks = token_nll(tuned, self.prepared.held, self.passes.most)
        preferences = self.reference.compare(tuned) if self.reference else {}
        valid, replayed = self._replay(tuned)
        found = Evaluation(
            step=step,
            eval_nll=nll,
            tasks=tasks,
            validity=valid / replayed if replayed else None,
            replayed=replayed,
            **preferences,
        )
        best = self.evaluations.add(found)
        if self.world.main:
            self.folder.log(found.model_dump())
            self.say(f"step {step}: {_told(found)}{' (best so far)' if best else ''}")
        if best:
            self.save(self.folder.path / f"best-{step}")
        return found, self.evaluations.enough

    def _replay(self, tuned: Any) -> tuple[int, int]:
        """On the main process; weights that are divided over processes cannot generate by themselves."""
        if self.probe is None or not self.config.replays or not self.world.main or self.world.sharded:
            return 0, 0
        with evaluating(tuned):
            return self.probe(tuned, self.prepared.renderer, list(self.prepared.held_turns()), self.config.replays)

    def save(self, folder: Path) -> None:
        """Write the adapter; every process takes part where weights are divided."""
        state = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped) if self.world.sharded else None
        if self.world.main:
            tuned = self.trainer.accelerator.unwrap_model(self.trainer.model)
            tuned.save_pretrained(str(folder), state_dict=state, selected_adapters=["default"])
        self.world.wait()


def _told(found: Evaluation) -> str:
    said = [f"eval_nll {found.eval_nll:.4f}"]
    if found.preference_loss is not None:
        said.append(f"preference loss {found.preference_loss:.4f}, {found.preferred:.0%} preferred")
    if found.validity is not None:
        said.append(f"{found.validity:.0%} of {found.replayed} replayed calls valid")
    return ", ".join(said)
