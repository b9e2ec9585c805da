"""The work on one trace: read, judged, put through the gates, tokenised, written as lines. Runs in any process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from msgspec.structs import replace

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.classify import Registries
from repo_agent.data.dataset import dropped_record, line_of, trajectory_record
from repo_agent.data.gates import LAST, GateContext, GateSettings, apply_gates
from repo_agent.data.rerender import names_home
from repo_agent.data.tally import Tally
from repo_agent.data.texts import Texts
from repo_agent.data.tokens import fitted, prove
from repo_agent.data.trajectories import Dropped, Label, Trajectory, trajectories_of
from repo_agent.protocols.contract import Contract
from repo_agent.tools.own import load_tools
from repo_agent.traces.read import iter_traces
from repo_agent.traces.trace import Trace


@dataclass(frozen=True)
class Job:
    """What to do with each trace; goes to other processes as it is."""

    settings: GateSettings
    train: frozenset[str] | None
    """Tasks that may be trained on; None where the split is off."""
    tokenizer: str
    tools: str | None = None
    rerender: bool = False
    rewrite_home: bool = False
    tokenise: bool = True
    """False leaves out everything that needs token ids: a benchmark of the work before that."""


@dataclass
class Part:
    """What came of some traces, for one contract: counts, and lines of the dataset's files."""

    contract: Contract
    tally: Tally = field(default_factory=Tally)
    rows: list[bytes] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)


@dataclass
class Done:
    """What came of some traces: a part for each contract, and the problems met."""

    parts: dict[str, Part] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds: read, judge, each gate that reads texts, tokens."""


class Worker:
    """Does a job on traces, one after another."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._registries = Registries(load_tools(job.tools) if job.tools else None)
        self._renderers: dict[str, Renderer] = {}
        self._context = GateContext(job.train, Texts(job.settings.allowed_secrets, self._spelt))

    def work(self, paths: Iterable[Path]) -> Done:
        """What came of these trace files. Raises UserError that names the trace."""
        done = Done()
        clock = _Clock(done.seconds)
        for _, trace, problems in iter_traces(paths):
            clock.lap("read")
            done.problems += problems
            if trace is None:
                continue
            registry = self._registries.of(trace)
            found = trajectories_of(trace, registry, rerender=self._job.rerender, rewrite_home=self._job.rewrite_home)
            clock.lap("judge")
            for number, trajectory in enumerate(found):
                part = done.parts.setdefault(trajectory.contract.hash, Part(trajectory.contract))
                if not number:
                    part.tally.sources[source_of(trace)] += 1
                gated = apply_gates(trajectory, self._context, self._job.settings)
                clock.lap("gates")
                self._add(part, gated)
                clock.lap("tokens and lines")
        done.problems += dict.fromkeys(self._registries.problems)
        self._registries.problems.clear()
        return done

    def renderer(self, contract: Contract) -> Renderer:
        if contract.hash not in self._renderers:
            self._renderers[contract.hash] = Renderer(self._tokenizer, contract.printed_tools)
        return self._renderers[contract.hash]

    def _add(self, part: Part, trajectory: Trajectory) -> None:
        tally = part.tally
        if trajectory.kept and self._job.tokenise:
            trajectory = self._fitted(trajectory, tally)
        kept = trajectory.kept
        for turn in trajectory.turns:
            tally.turns[turn.dropped.gate if turn.dropped else "", trajectory.task] += 1
            if turn.dropped:
                part.dropped.append(line_of(dropped_record(trajectory, turn, turn.dropped)))
        if not kept:
            return
        part.rows.append(line_of(trajectory_record(trajectory)))
        self._count(tally, trajectory, kept)

    def _count(self, tally: Tally, trajectory: Trajectory, kept: Sequence[Label]) -> None:
        tally.classes.update(turn.turn_class for turn in kept)
        tally.tools.update(turn.what for turn in kept)
        first = trajectory.messages[0] if trajectory.messages else None
        tally.prompts[first.content if first and first.role == "system" else ""] += len(kept)
        tally.figures.update(
            trajectories=1,
            recoveries=sum(turn.after_bad for turn in kept),
            finals=sum(turn.turn_class == "final" for turn in kept),
            unseen_unknown=sum(turn.unseen is None and _may_write(turn) for turn in kept),
            unchecked=sum(bool(turn.unchecked) for turn in kept),
            reconstructed=trajectory.reconstructed,
            homes=any(names_home(message.content) for message in trajectory.messages[: kept[-1].at + 1]),
        )

    def _fitted(self, trajectory: Trajectory, tally: Tally) -> Trajectory:
        """The trajectory without the turns that do not fit into a row, and what its rows come to, counted."""
        most = self._job.settings.max_length
        gone: dict[int, Dropped] = {}
        for tokens, lost in fitted(trajectory, self.renderer(trajectory.contract), most):
            for turn, span in lost:
                gone[turn.t] = Dropped(LAST, f"ends at token {span.end} of at most {most}")
                tally.lost[turn.what] += span.end - span.start
            if tokens.spans:
                _count_tokens(tally, tokens)
                prove(tally.proof, trajectory, tokens, self._plain.fingerprint())
        if not gone:
            return trajectory
        turns = (replace(turn, dropped=gone[turn.t]) if turn.t in gone else turn for turn in trajectory.turns)
        return trajectory.with_turns(turns)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._job.tokenizer)

    @cached_property
    def _plain(self) -> Renderer:
        return Renderer(self._tokenizer)

    def _spelt(self, text: str) -> list[str]:
        """The special tokens that a text spells; a text without their usual brackets loads no tokenizer."""
        return self._plain.control_tokens(text) if "<" in text or "[" in text else []


class _Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now


def _count_tokens(tally: Tally, tokens: Tokens) -> None:
    size = len(tokens.input_ids)
    tally.lengths[max(size - 1, 0).bit_length()] += 1
    tally.figures.update(
        merged_rows=1,
        trained_tokens=tokens.trained,
        tokens_merged=size,
        tokens_steps=sum(span.end for span in tokens.spans),
    )


def _may_write(turn: Label) -> bool:
    names = [call.name for call in (turn.call, *turn.more) if call]
    return any(word in name for name in names for word in ("write", "edit", "create", "replace"))


def source_of(trace: Trace) -> tuple[Any, ...]:
    """Run, arm, model and suite of a trace."""
    folder = trace.run or trace.path.absolute().parent
    return folder.name, trace.arm, trace.model, trace.suite
