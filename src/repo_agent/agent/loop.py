"""The loop: query → verdict → execute → observe, until a final or a limit. It emits events and opens no files.

A bad turn gets one short error as its observation, costs a step and is counted; nothing is asked again behind the
model's back. History is append-only, and outputs are cut once, when they are produced, so every prompt is a prefix of
the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from msgspec.structs import replace

from repo_agent.agent.seen import Seen, text_before
from repo_agent.agent.spec import AgentSpec
from repo_agent.errors import InfraError, boundary
from repo_agent.messages import Message, ToolCall, read_spoken, seed_of, total
from repo_agent.models import LARGE, Completion, Model, Request, Sampling
from repo_agent.models.tokens import TokenCounter
from repo_agent.tools.registry import Registry, ToolResult, cut
from repo_agent.tools.verdict import Verdict, executed, judge, lenient_ok
from repo_agent.traces import events

Emit = Callable[[events.Event], None]
RunTests = Callable[[events.When], Awaitable[events.Tests]]
"""Run the tests on the workspace as it is; the argument says when: write or final."""
THREADS = 64
"""How many tools and other short pieces of disk work run at once, whatever the number of rollouts."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass
class Rollout:
    """One rollout under way: what was said, and what it cost."""

    model: Model
    spec: AgentSpec
    root: Path
    run_tests: RunTests | None
    """None where tests never run."""
    emit: Emit
    sampling: Sampling
    seed: int
    constrain: bool = False
    guarded: Registry | None = None
    """The same tools where the task says what may be written; None: those of the spec."""
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, object]] | None = None
    """What the protocol sends beside the messages."""
    sent: int = 1
    steps: int = 0
    bad_in_row: int = 0
    any_call: bool = False
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    """As reported; None once a reply came without a count."""
    counter: TokenCounter = field(default_factory=TokenCounter)
    counted: int = 0
    """Reply tokens so far as the limit counts them: as reported, else by `counter`."""
    seen: Seen = field(default_factory=Seen)
    parallel: bool = False
    """Whether a reply may hold several calls, which are then judged and not run: a replay of another agent."""

    def __post_init__(self) -> None:
        self.protocol, self.limits = self.spec.protocol, self.spec.limits
        self.registry = self.guarded or self.spec.registry

    async def run(self, goal: str) -> str:
        """Play the rollout to its end; returns how it ended (see `events.RunEnd.ended`).

        Raises InfraError when the model's server, a tool or the grader fails by our own fault.
        """
        schema = self.protocol.schema(self.registry) if self.constrain else None
        self.tools = self.protocol.tools(self.registry)
        self.messages = [Message("system", self.spec.system), Message("user", f"GOAL:\n{goal}")]
        self.seen.show(goal)
        while True:
            ended = self._limit() or await self._step(schema)
            if ended:
                return ended

    async def replay(
        self, context: Sequence[Message], earlier: Sequence[ToolCall], tools: list[dict[str, object]] | None
    ) -> str:
        """Play one turn after the messages of another rollout, whose `earlier` writes are made again first; returns how
        it ended, `replayed` where the model did not end it. `tools` are sent beside the messages, as that rollout sent
        them. A call of a tool without a function is judged, not run.

        Raises what `run` raises.
        """
        schema = self.protocol.schema(self.registry) if self.constrain else None
        self.tools = tools
        self.messages, self.sent = list(context), int(context[0].role == "system")
        for message in context:
            self.seen.show(message.content)
        for call in earlier:
            with boundary("tool"):
                await in_thread(self._run, call)
        return await self._step(schema) or "replayed"

    def _limit(self) -> str | None:
        if self.bad_in_row >= self.limits.max_bad_turns:
            return "max_bad_turns"
        if self.steps >= self.limits.max_steps:
            return "max_steps"
        return "max_tokens" if self.counted >= self.limits.max_completion_tokens else None

    async def _step(self, schema: dict[str, object] | None) -> str | None:
        """One turn: query, verdict, execute, observe. Returns how the rollout ended, or None."""
        completion, seconds = await self._query(schema)
        if completion.finish_reason == "context":
            return "context_limit"
        counted_by = await self._count(completion)
        with boundary("verdict"):
            verdict, lenient, reply = await _aside(len(completion.text), self._judge, completion)
        text, tool_calls = read_spoken(completion.text) if self.protocol.name == "native" else (completion.text, [])
        action = events.LlmAction(
            t=self.steps,
            text=text,
            tool_calls=tool_calls,
            raw_unknown=completion.raw_unknown,
            finish_reason=completion.finish_reason,
            seed=self._seed(),
            served=asdict(completion.served) if completion.served else None,
            prompt_tokens=completion.usage.prompt_tokens,
            completion_tokens=completion.usage.completion_tokens,
            counted_by=counted_by,
            seconds=round(seconds, 4),
            turn_class=verdict.turn_class or "ok",
            lenient_ok=lenient,
            calls=[{"name": call.name, "args": call.args} for call in verdict.calls],
            error=verdict.error,
            prompt_ids_hash=completion.prompt_ids_hash,
            tokenizer=completion.tokenizer,
        )
        self.messages.append(reply)
        return await self._act(action, verdict)

    def _judge(self, completion: Completion) -> tuple[Verdict, bool, Message]:
        """The verdict, whether a forgiving parse finds a call that the schema takes, and the reply as a message."""
        parsed = self.protocol.parse(completion.text, self.registry.specs)
        truncated = completion.finish_reason == "length"
        verdict = judge(parsed, self.registry, truncated=truncated, any_call=self.any_call, parallel=self.parallel)
        lenient = not verdict.turn_class and parsed.lenient is parsed.call
        lenient = lenient or lenient_ok(parsed, self.registry, self.parallel)
        verdict = replace(verdict, error=cut(verdict.error, self.limits.observation_chars)[0])
        return verdict, lenient, self.protocol.reply(completion.text)

    async def _count(self, completion: Completion) -> Literal["tokenizer", "characters"] | None:
        """Count a reply against the limit. Returns how, None where its server told the number."""
        reported = completion.usage.completion_tokens
        if reported is not None:
            self.counted += reported
            return None
        with boundary("model"):
            count = self.counter.count
            found = await in_thread(count, completion.text) if self.counter.base else count(completion.text)
        self.counted += found.tokens
        return found.by

    def _seed(self) -> int:
        return seed_of(self.seed, self.steps)

    async def _query(self, schema: dict[str, object] | None) -> tuple[Completion, float]:
        fresh = [events.WireMessage(**message.to_dict()) for message in self.messages[self.sent :]]
        self.emit(events.LlmRequest(t=self.steps, sent=self.sent, messages=fresh))
        self.sent = len(self.messages) + 1
        asked = time.monotonic()
        with boundary("model"):
            request = Request(tuple(self.messages), self.sampling, self._seed(), schema, self.tools)
            completion = await self.model.complete(request)
        if completion.finish_reason != "context":
            self.prompt_tokens = total((self.prompt_tokens, completion.usage.prompt_tokens))
            self.completion_tokens = total((self.completion_tokens, completion.usage.completion_tokens))
        return completion, time.monotonic() - asked

    async def _act(self, action: events.LlmAction, verdict: Verdict) -> str | None:
        """Execute a call, or answer a bad turn with its error, or end on a final."""
        turn = self.steps
        self.steps += 1
        if verdict.turn_class == "final":
            await self._write(action, len(action.text))
            if self.limits.tests == "on_final":
                tests = await self._show_tests("final")
                if tests.outcome != "passed":
                    self.emit(events.DriverNote(t=turn, note="the tests fail: the final was sent back"))
                    self._observe(f"[tests] {tests.output}")
                    return None
            await self._write(events.Final(t=turn, value=verdict.final or {}), len(action.text))
            return "final"
        if verdict.turn_class:
            await self._write(action, len(action.text))
            self._observe(f"error {verdict.turn_class}: {verdict.error}", bad=True)
            return None
        assert verdict.call is not None
        return await self._execute(action, verdict.call)

    async def _execute(self, action: events.LlmAction, call: ToolCall) -> str | None:
        turn = action.t
        if self.registry.specs[call.name].fn is None:
            await self._write(action, len(action.text))
            return None
        try:
            with boundary("tool"):
                result, unseen = await in_thread(self._run, call)
        except InfraError as failure:
            action.turn_class, action.error = "infra_error", failure.cause
            await self._write(action, len(action.text))
            raise
        action.turn_class = executed(result)
        action.error = "" if result.ok else result.output
        await self._write(action, len(action.text))
        # The reply is written with its result, so their size counts together.
        done = events.ToolResultEvent(
            t=turn, ok=result.ok, code=result.code, output=result.output, cut=result.cut, unseen=unseen
        )
        await self._write(done, len(action.text))
        self.any_call = True
        if not result.ok:
            self._observe(f"error {result.code}: {result.output}", bad=True)
            return None
        text = result.output
        if self.registry.specs[call.name].writes and self.limits.tests == "on_write":
            tests = await self._show_tests("write")
            text += f"\n[tests] {tests.output}"
            if self.limits.stop_on_pass and tests.outcome == "passed":
                return "tests_passed"
        self._observe(text)
        return None

    def _run(self, call: ToolCall) -> tuple[ToolResult, list[str] | None]:
        """What a call answers, and of a write what it kept or took away unseen."""
        spec = self.registry.specs[call.name]
        path = call.args.get(spec.overwrites)
        old = text_before(self.root, path) if spec.overwrites else None
        result = self.registry.execute(call, self.root, self.limits.observation_chars, self.limits.read_chars)
        unseen = self.seen.unseen(str(path), old) if spec.overwrites and result.ok else None
        if result.ok:
            self.seen.found(call.args.values())
        if unseen is not None:
            for written in call.args.values():
                self.seen.wrote(str(written))
        return result, unseen

    async def _write(self, event: events.Event, characters: int) -> None:
        await _aside(characters, self.emit, event)

    async def _show_tests(self, when: events.When) -> events.Tests:
        assert self.run_tests is not None
        with boundary("grade"):
            tests = await self.run_tests(when)
        tests.t = self.steps - 1
        self.emit(tests)
        return tests

    def _observe(self, text: str, *, bad: bool = False) -> None:
        """Answer the last turn. A lone surrogate, which no tokenizer takes, becomes a question mark."""
        self.bad_in_row = self.bad_in_row + 1 if bad else 0
        self.seen.show(text)
        self.messages += self.protocol.observe(self.messages[-1], text.encode(errors="replace").decode())


async def _aside(characters: int, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Do work that grows with a text of so many characters: at once, or in a thread where that would take long."""
    return await in_thread(work, *args, **kwargs) if characters > LARGE else work(*args, **kwargs)


async def in_thread(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Do blocking work in one of THREADS threads, so that no other rollout waits for it."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(work, *args, **kwargs))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="rollout")
