"""What a build counts on its way: small figures that add up, whatever the number of traces and processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Proof:
    """How the prompts of kept turns compare with those that ran: hashes of token ids, recorded when the model ran."""

    equal: int = 0
    different: int = 0
    """Prompts that render otherwise than they ran."""
    first: str = ""
    """The id of the first such turn."""
    other_tokenizer: int = 0
    """Recorded with another tokenizer than this one, or by a server with other ids, so nothing can be compared."""
    not_recorded: int = 0
    """No model that tells its tokens ran them, or the row is reconstructed."""

    @property
    def recorded(self) -> int:
        return self.equal + self.different

    def add(self, turn: str, own: str, fingerprint: str, ran: tuple[str, str] | None) -> None:
        """Count one turn: its own prompt's hash and the tokenizer's fingerprint, and both as they were recorded.

        A server tells ids and no fingerprint (""): equal ids are equal, others may be of another tokenizer.
        """
        if ran is None:
            self.not_recorded += 1
        elif ran[1] not in ("", fingerprint) or (not ran[1] and ran[0] != own):
            self.other_tokenizer += 1
        elif ran[0] == own:
            self.equal += 1
        else:
            self.different += 1
            self.first = self.first or turn

    def merge(self, other: Proof) -> None:
        self.equal += other.equal
        self.different += other.different
        self.first = self.first or other.first
        self.other_tokenizer += other.other_tokenizer
        self.not_recorded += other.not_recorded

    def line(self) -> str:
        """`40 equal of 40 recorded, 0 different; 12 not recorded`."""
        line = f"{self.equal} equal of {self.recorded} recorded, {self.different} different"
        line += f"; {self.not_recorded} not recorded" if self.not_recorded or not self.recorded else ""
        return line + (f"; {self.other_tokenizer} recorded with another tokenizer" if self.other_tokenizer else "")

    def to_dict(self) -> dict[str, int]:
        """The counts."""
        return {key: value for key, value in asdict(self).items() if key != "first"}


@dataclass
class Tally:
    """Counts over the trajectories of one contract."""

    turns: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(gate, task) → turns; gate "" for those that are kept."""
    classes: Counter[str] = field(default_factory=Counter)
    """Turn class → kept turns."""
    tools: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    """System prompt → kept turns."""
    sources: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """(run, arm, model, suite) → traces."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Power of two → rows of at most so many tokens."""
    lost: Counter[str] = field(default_factory=Counter)
    """Tool → trained tokens lost with turns that did not fit a row."""
    figures: Counter[str] = field(default_factory=Counter)
    """trajectories, merged_rows, trained_tokens, tokens_steps, tokens_merged, recoveries, finals, unseen_unknown,
    unchecked, homes, reconstructed."""
    proof: Proof = field(default_factory=Proof)

    @property
    def candidates(self) -> int:
        return sum(self.turns.values())

    @property
    def kept(self) -> int:
        return sum(self.classes.values())

    def add(self, other: Tally) -> None:
        """Add another tally's counts to this one."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Counter):
                mine.update(more)
        self.proof.merge(other.proof)
