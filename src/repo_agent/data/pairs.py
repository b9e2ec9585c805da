"""Preference pairs: two turns in one context, of which one was a valid call that ran and the other was not.

A second recipe over the trajectories of traces. Every bad turn is a candidate; what is preferred to it is looked for
among all runs that were given:

    sample        another turn of the same model in the very same context (of another rollout, or of `replay`)
    constrained   the same, under a grammar
    corrected     the call by which the same rollout recovered, after an error in the form of a call
    other         another model's turn in the very same context, a teacher's for example

Where outcomes are wanted too, a valid turn of a rollout that failed is one more candidate:

    passed        what a rollout that passed said in the very same context

A call that was refused changed nothing, so a corrected one would have run where the bad one stood, too. What a call
that ran has answered, though, the model did not know before: no turn after it corrects what came before it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from repo_agent.data.classify import Registries
from repo_agent.data.gates import GATES, GateContext
from repo_agent.data.trajectories import Label, Trajectory, trajectories_of
from repo_agent.data.work import source_of
from repo_agent.errors import UserError
from repo_agent.messages import Message, canonical_json, digest, said_key
from repo_agent.protocols.contract import Contract
from repo_agent.traces.read import iter_traces
from repo_agent.traces.trace import Trace

HOWS = ("sample", "constrained", "corrected", "other")
"""Where a preferred turn comes from, the best first: the model's own style teaches the call and nothing else."""
PASSED = "passed"
CHOICES = (*HOWS, PASSED)
SAFE = ("split", "broken_context", "secret", "encodable", "control_token")
"""Gates of a build that both turns of a pair must pass."""
CUT = "truncated"
PAIR_GATES = (CUT, "no_chosen", "duplicate", "per_task", "contrast", "printed", "within_length")
"""Gates of the pair itself: after `contract` and those of the turns."""
_NOTHING = {
    False: "no turn in this context is a valid call that ran, nor did its rollout recover",
    True: "no rollout that passed came by this context",
}
_FINE = frozenset({"ok", "final", "unjudged", "infra_error"})


class Place(NamedTuple):
    """Where a turn stands, to read its context again."""

    trace: Path
    number: int
    """Of the trajectory in its trace."""
    at: int


@dataclass(frozen=True)
class Said:
    """One turn in one context."""

    id: str
    context: str
    """Hash of the contract and of the messages before it, but for the ids of calls."""
    place: Place
    task: str
    group: str
    model: str
    constrained: bool
    turn_class: str
    why: str
    """What was wrong with it."""
    reply: Message
    prompt_ids: tuple[str, str] | None

    @property
    def text(self) -> str:
        calls = [[call.name, call.args] for call in self.reply.tool_calls]
        return self.reply.content + (canonical_json(calls) if calls else "")


class Pair(NamedTuple):
    """A bad turn, and one that is preferred to it in the same context."""

    rejected: Said
    chosen: Said
    how: str


@dataclass(frozen=True)
class Wanted:
    """What pairs are made of."""

    train: frozenset[str] | None
    """Tasks that may be trained on; None where the split is off."""
    hows: Sequence[str] = HOWS
    per_task: int = 20
    seed: int = 0


@dataclass
class Found:
    """The pairs of one contract, and why other bad turns are in none: (gate, task) → turns."""

    contract: Contract
    pairs: list[Pair] = field(default_factory=list)
    candidates: int = 0
    dropped: list[tuple[Said, str, str]] = field(default_factory=list)
    """Bad turn, gate, why."""
    sources: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    """`work.source_of` a trace → traces."""
    problems: list[str] = field(default_factory=list)


@dataclass
class _Pool:
    """The turns of one contract."""

    contract: Contract
    good: dict[str, dict[tuple[str, str, bool], Said]] = field(default_factory=lambda: defaultdict(dict))
    """Context → text, model and whether it was constrained → the first such turn."""
    bad: list[Said] = field(default_factory=list)
    passed: dict[str, dict[tuple[str, str], Said]] = field(default_factory=lambda: defaultdict(dict))
    """Context → text and model → the first such turn of a rollout that passed."""
    failed: list[Said] = field(default_factory=list)
    """Valid turns of rollouts that failed."""
    corrected: dict[str, Said] = field(default_factory=dict)
    """Id of a bad turn → the turn by which its rollout recovered."""
    unfit: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id of a bad turn that no pair may hold → gate and why."""

    def candidates(self, hows: Sequence[str]) -> list[Said]:
        """What may be rejected: bad turns, and the turns of failed rollouts where they are wanted."""
        return (self.bad if set(hows) & set(HOWS) else []) + (self.failed if PASSED in hows else [])


def find_pairs(traces: Sequence[Path], wanted: Wanted, context: GateContext, registries: Registries) -> Found:
    """Pairs out of these traces, of the contract that most bad turns have.

    `context` is what the gates of a build decide by. Raises UserError where no trace can be read.
    """
    pools: dict[str, _Pool] = {}
    sources: Counter[tuple[Any, ...]] = Counter()
    problems: list[str] = []
    for _, trace, met in iter_traces(traces):
        problems += met
        if trace is None:
            continue
        sources[source_of(trace)] += 1
        for number, trajectory in enumerate(trajectories_of(trace, registries.of(trace))):
            pool = pools.setdefault(trajectory.contract.hash, _Pool(trajectory.contract))
            _add(pool, trace, trajectory, number, context)
    if not pools:
        places = ", ".join(map(str, traces[:3])) or "nothing"
        raise UserError("no trace with a whole line in it", places, "Give run directories or folders of traces")
    most = max(pools.values(), key=lambda pool: (len(pool.candidates(wanted.hows)), pool.contract.hash))
    found = Found(most.contract, sources=sources, problems=[*problems, *dict.fromkeys(registries.problems)])
    for pool in pools.values():
        candidates = pool.candidates(wanted.hows)
        found.candidates += len(candidates)
        if pool is not most:
            why = f"made for the contract {pool.contract.hash}, these pairs are for {most.contract.hash}"
            found.dropped += [(bad, "contract", why) for bad in candidates]
    _choose(most, wanted, found)
    return found


def _add(pool: _Pool, trace: Trace, trajectory: Trajectory, number: int, context: GateContext) -> None:
    keys = _keys(trajectory)
    streak: list[Said] = []
    for turn in trajectory.turns:
        bad = turn.turn_class not in _FINE
        unfit = _unfit(turn, trajectory, context, SAFE if bad else (*SAFE, "executed_ok", "no_repeat", "unseen"))
        said = Said(
            id=f"{trajectory.id}:{turn.t}",
            context=keys[turn.at],
            place=Place(trace.path, number, turn.at),
            task=trajectory.task,
            group=trajectory.group,
            model=trace.model or "",
            constrained=(trace.arm or "").endswith("+constrained"),
            turn_class=turn.turn_class,
            why=turn.error,
            reply=turn.reply,
            prompt_ids=turn.prompt_ids,
        )
        if bad:
            pool.bad.append(said)
            streak = [] if turn.turn_class == "exec_error" else [*streak, said]
            if not unfit and turn.turn_class == CUT:
                unfit = (CUT, "cut off by the limit of tokens, so nobody knows how it ends")
            if unfit:
                pool.unfit[said.id] = unfit
            continue
        if not unfit and (turn.turn_class != "final" or trajectory.passed):
            pool.good[said.context].setdefault((said.text, said.model, said.constrained), said)
            pool.corrected |= {one.id: said for one in streak if turn.turn_class == "ok"}
            if trajectory.passed:
                pool.passed[said.context].setdefault((said.text, said.model), said)
        if trajectory.passed is False and turn.turn_class in ("ok", "final"):
            _add_failed(pool, said, _unfit(turn, trajectory, context, SAFE))
        streak = []


def _add_failed(pool: _Pool, said: Said, unfit: tuple[str, str] | None) -> None:
    pool.failed.append(replace(said, why="its rollout failed"))
    if unfit:
        pool.unfit[said.id] = unfit


def _unfit(turn: Label, trajectory: Trajectory, context: GateContext, names: Iterable[str]) -> tuple[str, str] | None:
    return next(((name, why) for name in names if (why := GATES[name](turn, trajectory, context))), None)


def _keys(trajectory: Trajectory) -> Mapping[int, str]:
    """Place of each turn → hash of what was said before it."""
    wanted = {turn.at for turn in trajectory.turns}
    running, keys = hashlib.sha256(trajectory.contract.hash.encode()), {}
    for place, message in enumerate((*trajectory.messages, None)):
        if place in wanted:
            keys[place] = running.hexdigest()[:16]
        if message is not None:
            running.update(said_key(message))
    return keys


def _choose(pool: _Pool, wanted: Wanted, found: Found) -> None:
    """For each bad turn that may be in a pair, one that is preferred to it; in an order that is a hash's, so that what
    a limit leaves out is no matter of names."""
    taken: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    used: Counter[str] = Counter()
    for bad in sorted(pool.candidates(wanted.hows), key=lambda one: digest([wanted.seed, one.id])):
        unfit = pool.unfit.get(bad.id)
        if unfit:
            found.dropped.append((bad, *unfit))
            continue
        options = list(_options(pool, bad, wanted.hows))
        if not options:
            found.dropped.append((bad, "no_chosen", _NOTHING[bad.turn_class in _FINE]))
            continue
        if (bad.context, bad.text) in seen:
            found.dropped.append((bad, "duplicate", "the same was said in the same context"))
            continue
        if taken[bad.task] >= wanted.per_task:
            found.dropped.append((bad, "per_task", f"{bad.task} has its {wanted.per_task} pairs"))
            continue
        how, good = min(options, key=lambda option: _order(option, bad.model, used))
        rivals = [one for _, one in options] if how == PASSED else [good]
        if _bare(bad) in map(_bare, rivals):
            found.dropped.append((bad, "contrast", "both say the same but for white space"))
            continue
        seen.add((bad.context, bad.text))
        taken[bad.task] += 1
        used[good.id] += 1
        found.pairs.append(Pair(bad, good, how))


def _order(option: tuple[str, Said], model: str, used: Mapping[str, int]) -> tuple[Any, ...]:
    how, good = option
    return CHOICES.index(how), good.model != model, used[good.id], good.id


def _bare(said: Said) -> str:
    return "".join(said.text.split())


def _options(pool: _Pool, bad: Said, hows: Sequence[str]) -> Iterator[tuple[str, Said]]:
    if bad.turn_class in _FINE:
        yield from ((PASSED, good) for good in pool.passed.get(bad.context, {}).values())
        return
    for good in pool.good.get(bad.context, {}).values():
        how = "other" if good.model != bad.model else "constrained" if good.constrained else "sample"
        if how in hows:
            yield how, good
    if "corrected" in hows and bad.id in pool.corrected:
        yield "corrected", pool.corrected[bad.id]


def contexts(pairs: Sequence[Pair], registries: Registries) -> Iterator[tuple[Pair, Sequence[Message]]]:
    """Each pair with the messages before both turns, read again from the traces, a trace at a time."""
    by_trace: dict[Path, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_trace[pair.rejected.place.trace].append(pair)
    for path, here in by_trace.items():
        for _, trace, _ in iter_traces([path]):
            if trace is not None:
                found = trajectories_of(trace, registries.of(trace))
                for pair in here:
                    place = pair.rejected.place
                    yield pair, found[place.number].messages[: place.at]
