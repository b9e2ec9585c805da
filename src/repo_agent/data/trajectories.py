"""A trajectory is the unit of a dataset: one conversation, kept once, and its turns as labels on places in it.

Steps (a context and the turn that follows) and rows (a conversation with several trained turns) are views, made when
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import msgspec

from repo_agent.data.classify import called_before, classify
from repo_agent.data.rerender import RERENDERED, homeless, rerendered
from repo_agent.messages import Message, ToolCall, key_of
from repo_agent.protocols.contract import Contract
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import Verdict
from repo_agent.traces.trace import Trace, Turn

_READS = re.compile(r"(list|read|grep|find|search|view|show|get|open|cat|ls|glob)(_|$)")
"""Names of tools that leave the workspace as it is. Any other call may change it, so what follows is no repeat."""
_UNSERVED = ("local:", "oracle", "scripted")
"""Models whose prompts no server tokenised."""


class Dropped(NamedTuple):
    """Why a turn is not trained on."""

    gate: str
    why: str


class Label(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is known of one assistant turn. `messages[:at]` of its trajectory is the context."""

    t: int
    at: int
    turn_class: str
    error: str
    """What the verdict found wrong."""
    reply: Message
    """The turn as the model said it."""
    sent_back: bool
    """Whether the next request holds that very message."""
    call: ToolCall | None
    last: bool
    """Whether the rollout, or another agent's exchange with its user, ends with this turn."""
    repeats: bool
    """Whether the same call was made earlier in the conversation, with no write between."""
    after_bad: bool
    """Whether the turn before was a bad one, so that this one recovers, or fails again."""
    raw_unknown: bool
    unseen: tuple[str, ...] | None
    """What a write kept or took away unseen; None where that is unknown."""
    redacted: bool
    prompt_ids: tuple[str, str] | None
    """Hash of the prompt's token ids when it ran, and the tokenizer's fingerprint."""
    more: tuple[ToolCall, ...] = ()
    """Of parallel calls: those after the first."""
    broken_context: bool = False
    """Whether a call that no server takes back was said before; see `Turn.broken_context`."""
    unchecked: frozenset[str] = frozenset()
    """What of the tool's schema would have taken too long to check; see `registry.Checked`."""
    dropped: Dropped | None = None

    @property
    def what(self) -> str:
        """The tool that the turn calls, several with a +, or `final`, or its turn class."""
        names = [call.name for call in (self.call, *self.more) if call]
        return "+".join(names) if names else "final" if self.turn_class == "final" else self.turn_class


@dataclass(frozen=True)
class Trajectory:
    """One conversation of one rollout."""

    id: str
    task: str
    group: str
    run: str
    """Name of the run directory, or of the folder that the trace is in."""
    rollout: int | None
    trace: str
    """Path inside the run directory; the file's name where there is none."""
    contract: Contract
    passed: bool | None
    served: bool
    """Whether a server made the prompts, whose special tokens nobody can keep apart from text."""
    reconstructed: bool
    messages: Sequence[Message]
    turns: tuple[Label, ...]

    @property
    def kept(self) -> list[Label]:
        return [turn for turn in self.turns if turn.dropped is None]

    def with_turns(self, turns: Iterable[Label]) -> Trajectory:
        return replace(self, turns=tuple(turns))


class NextTurn(NamedTuple):
    """A recorded context in which a model may be asked for its next turn."""

    messages: Sequence[Message]
    contract: Contract


class Row(NamedTuple):
    """A conversation with loss on the messages `targets`."""

    id: str
    messages: list[Message]
    targets: list[int]


def rows(trajectory: Trajectory) -> Iterator[Row]:
    """The training rows of a trajectory: one, and another after each kept turn that its agent did not send back as it
    was said, since no later context continues it."""
    targets: list[int] = []
    number = 0
    for turn in trajectory.kept:
        targets.append(turn.at)
        if not turn.sent_back:
            yield Row(f"{trajectory.id}#{number}", [*trajectory.messages[: turn.at], turn.reply], targets)
            targets, number = [], number + 1
    if targets:
        yield Row(f"{trajectory.id}#{number}", list(trajectory.messages[: targets[-1] + 1]), targets)


def steps(trajectory: Trajectory) -> Iterator[tuple[Label, Sequence[Message]]]:
    """Each kept turn and its context."""
    for turn in trajectory.kept:
        yield turn, trajectory.messages[: turn.at]


def trajectories_of(
    trace: Trace, registry: Registry, *, rerender: bool = False, rewrite_home: bool = False
) -> list[Trajectory]:
    """The trajectories of a trace, its turns judged by `registry`: one, or more where a request's history was no
    continuation of the one before.

    `rerender`: those of another contract in our JSON protocol. `rewrite_home`: home folders written as ~. Both are
    marked as reconstructed; nothing else ever changes a text.
    """
    own = Contract(trace.tools if trace.tools is not None else registry.schemas(), trace.protocol)
    ours = Contract(registry.schemas(), RERENDERED)
    foreign = rerender and (own.hash != ours.hash or _is_foreign(trace))
    verdicts = classify(trace, registry)
    turns, verdicts = rerendered(trace, registry, verdicts) if foreign else (list(trace.turns), verdicts)
    repeats = _repeats(called_before(trace, registry), verdicts)
    labels = _labels(turns, verdicts, repeats, trace.source != "loop")
    run, name = _provenance(trace)
    found: list[Trajectory] = []
    for _, group in groupby(zip(turns, labels, strict=True), key=lambda pair: id(pair[0].messages)):
        pairs = list(group)
        trajectory = Trajectory(
            id=f"{run}/{name}" + (f"~{len(found)}" if found else ""),
            task=trace.task,
            group=trace.group,
            run=run,
            rollout=trace.rollout,
            trace=name,
            contract=ours if foreign else own,
            passed=trace.passed,
            served=trace.source != "loop" or not (trace.model or "").startswith(_UNSERVED),
            reconstructed=foreign,
            messages=pairs[0][0].messages,
            turns=tuple(label for _, label in pairs),
        )
        found.append(_homeless(trajectory) if rewrite_home else trajectory)
    return found


def _is_foreign(trace: Trace) -> bool:
    return trace.source != "loop" or trace.shape == "older"


def _labels(turns: Sequence[Turn], verdicts: Sequence[Verdict], repeats: Sequence[bool], foreign: bool) -> list[Label]:
    labels, after_bad = [], False
    for turn, verdict, repeat in zip(turns, verdicts, repeats, strict=True):
        turn_class = verdict.turn_class or "ok"
        labels.append(
            Label(
                t=turn.t,
                at=turn.at,
                turn_class=turn_class,
                error=verdict.error,
                reply=turn.reply,
                sent_back=turn.sent_back,
                call=verdict.call,
                more=verdict.more,
                last=turn is turns[-1] or (foreign and turn_class == "final"),
                broken_context=turn.broken_context,
                repeats=repeat,
                after_bad=after_bad,
                raw_unknown=turn.text is None or turn.raw_unknown,
                unseen=turn.unseen,
                redacted=turn.redacted,
                unchecked=verdict.unchecked,
                prompt_ids=turn.prompt_ids,
            )
        )
        after_bad = turn_class not in ("ok", "final", "unjudged")
    return labels


def _repeats(before: Sequence[ToolCall], verdicts: Iterable[Verdict]) -> list[bool]:
    """`before`: the calls in what was said before the first turn; how they fared is not asked."""
    seen: set[bytes] = set()
    repeats = []
    for calls, ran in [
        *(((call,), True) for call in before),
        *((one.calls, one.turn_class == "ok") for one in verdicts),
    ]:
        keys = [key_of([call.name, call.args]) for call in calls]
        repeats.append(bool(keys) and seen.issuperset(keys))
        if ran and not all(_READS.match(call.name) for call in calls):
            seen.clear()
        seen.update(keys)
    return repeats[len(before) :]


def _homeless(trajectory: Trajectory) -> Trajectory:
    """The trajectory without home folders; reconstructed where that changed something."""
    messages = [homeless(message) for message in trajectory.messages]
    turns = [msgspec.structs.replace(turn, reply=homeless(turn.reply)) for turn in trajectory.turns]
    same = messages == list(trajectory.messages) and all(
        new.reply == old.reply for new, old in zip(turns, trajectory.turns, strict=True)
    )
    if same:
        return trajectory
    return replace(trajectory, messages=messages, turns=tuple(turns), reconstructed=True)


def _provenance(trace: Trace) -> tuple[str, str]:
    path = trace.path
    if trace.run is None:
        return path.absolute().parent.name, path.name
    return trace.run.name, path.absolute().relative_to(trace.run).as_posix()
