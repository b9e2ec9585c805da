"""The loop: every turn class reaches its observation, every limit ends it, every prompt is a prefix of the next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.errors import InfraError
from repo_agent.messages import Message, ToolCall, Usage
from repo_agent.models import Completion, Request, Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools.files import default_registry
from repo_agent.traces import events

JSON = PROTOCOLS["json"]
LIST = JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 5}))
READ = JSON.render_call(ToolCall("read_file", {"rel_path": "a.py", "max_chars": 99}))
LOST = JSON.render_call(ToolCall("read_file", {"rel_path": "b.py", "max_chars": 99}))
WRITE = JSON.render_call(ToolCall("write_file", {"rel_path": "a.py", "content": "x = 2\n"}))
FINAL = JSON.render_final("done")
BAD = "no call at all"


class Play:
    """One rollout over a folder with `a.py`; the tests pass when it holds `x = 2`."""

    def __init__(self, root: Path, replies: Sequence[str | Completion], **limits: Any) -> None:
        root.mkdir(exist_ok=True)
        (root / "a.py").write_text("x = 1\n")
        self.root, self.log, self.prompts = root, list[events.Event](), list[tuple[Message, ...]]()
        self.model = _Recorded(replies, self.prompts)
        self.rollout = Rollout(
            self.model,
            AgentSpec(default_registry(), JSON, Limits(**limits)),
            root,
            self._tests,
            self.log.append,
            Sampling(),
            7,
        )
        self.ended = asyncio.run(self.rollout.run("set x to 2"))

    async def _tests(self, when: events.When) -> events.Tests:
        good = (self.root / "a.py").read_text() == "x = 2\n"
        return events.Tests(
            when=when, outcome="passed" if good else "failed", passed=int(good), failed=int(not good), skipped=0,
            expected=1, output="1 passed" if good else "1 failed",
        )  # fmt: skip

    def classes(self) -> list[str]:
        return [event.turn_class for event in self.log if isinstance(event, events.LlmAction)]

    def observations(self) -> list[str]:
        return [message.content for message in self.rollout.messages[2:] if message.role == "user"]


class _Recorded(Scripted):
    def __init__(self, replies: Sequence[str | Completion], prompts: list[tuple[Message, ...]]) -> None:
        super().__init__([])
        self._all, self.prompts = iter(replies), prompts

    async def complete(self, request: Request) -> Completion:
        self.prompts.append(request.messages)
        reply = next(self._all, None)
        if reply is None:
            raise InfraError("model", "nothing left")
        return reply if isinstance(reply, Completion) else Completion(reply, "stop", Usage(10, 3))


def test_a_clean_rollout(tmp_path: Path) -> None:
    play = Play(tmp_path, [LIST, READ, WRITE, FINAL])
    assert (play.ended, play.classes()) == ("final", ["ok", "ok", "ok", "final"])
    assert play.observations() == [
        "[tool_result] a.py",
        "[tool_result] x = 1\n",
        "[tool_result] wrote a.py\n[tests] 1 passed",
    ]
    assert (play.rollout.prompt_tokens, play.rollout.completion_tokens) == (40, 12)


def test_every_prompt_is_a_prefix_of_the_next_and_events_carry_only_what_is_new(tmp_path: Path) -> None:
    play = Play(tmp_path, [LIST, BAD, LOST, WRITE, FINAL])
    for earlier, later in zip(play.prompts, play.prompts[1:], strict=False):
        assert later[: len(earlier)] == earlier
    requests = [event for event in play.log if isinstance(event, events.LlmRequest)]
    rebuilt = [play.prompts[0][0]]
    for request, action in zip(requests, play.prompts, strict=True):
        assert request.sent == len(rebuilt)
        rebuilt += [Message(message.role, message.content) for message in request.messages]
        assert tuple(rebuilt) == action
        rebuilt.append(play.rollout.messages[len(rebuilt)])


def test_a_bad_turn_is_answered_and_counted(tmp_path: Path) -> None:
    play = Play(
        tmp_path, [BAD, FINAL, LOST, f"Sure! {READ}", READ.replace("99", '"99"'), WRITE, FINAL], max_bad_turns=9
    )
    assert play.classes() == ["no_call", "early_final", "exec_error", "wrapped", "wrong_type", "ok", "final"]
    assert play.ended == "final" and play.rollout.steps == 7
    assert [text.split(":")[0] for text in play.observations()[:5]] == [
        f"[tool_result] error {name}" for name in ("no_call", "early_final", "not_found", "wrapped", "wrong_type")
    ]


@pytest.mark.parametrize(
    ("replies", "limits", "ended", "steps"),
    [
        ([BAD] * 9, {"max_bad_turns": 3}, "max_bad_turns", 3),
        ([BAD, BAD, LIST, BAD, BAD, LIST, FINAL], {"max_bad_turns": 3}, "final", 7),
        ([LIST] * 9, {"max_steps": 5}, "max_steps", 5),
        ([LIST] * 9, {"max_completion_tokens": 7}, "max_tokens", 3),
        ([Completion(LIST, "stop")] * 9, {"max_completion_tokens": 3 * len(LIST) // 4}, "max_tokens", 3),
        ([LIST, Completion(LIST, "stop"), *[LIST] * 7], {"max_completion_tokens": 38}, "max_tokens", 7),
        ([LIST, Completion("", "context")], {}, "context_limit", 1),
        ([LIST, WRITE, FINAL], {"stop_on_pass": True}, "tests_passed", 2),
    ],
)
def test_limits_end_it(tmp_path: Path, replies: list[Any], limits: dict[str, Any], ended: str, steps: int) -> None:
    play = Play(tmp_path, replies, **limits)
    assert (play.ended, play.rollout.steps) == (ended, steps)


def test_a_cut_reply_is_truncated_whatever_it_holds(tmp_path: Path) -> None:
    play = Play(tmp_path, [Completion(LIST, "length"), LIST, FINAL])
    assert play.classes() == ["truncated", "ok", "final"]


@pytest.mark.parametrize(("policy", "runs", "ended"), [("on_write", 1, "final"), ("never", 0, "final")])
def test_test_policies(tmp_path: Path, policy: str, runs: int, ended: str) -> None:
    play = Play(tmp_path, [WRITE, FINAL], tests=policy)
    assert sum(isinstance(event, events.Tests) for event in play.log) == runs and play.ended == ended
    assert ("[tests]" in play.observations()[0]) == (policy == "on_write")


def test_on_final_sends_a_failing_final_back(tmp_path: Path) -> None:
    play = Play(tmp_path, [READ, FINAL, WRITE, FINAL], tests="on_final")
    assert play.classes() == ["ok", "final", "ok", "final"] and play.ended == "final"
    assert play.observations()[1] == "[tool_result] [tests] 1 failed"
    assert sum(isinstance(event, events.Final) for event in play.log) == 1


def test_our_failure_is_no_ending(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="nothing left"):
        Play(tmp_path, [LIST])


def test_a_lone_surrogate_stops_nothing(tmp_path: Path) -> None:
    path = '{"type":"tool_call","name":"write_file","args":{"rel_path":"s\\ud83d.py","content":"x"}}'
    content = '{"type":"tool_call","name":"write_file","args":{"rel_path":"a.py","content":"\\ud83d"}}'
    play = Play(tmp_path, [path, content, READ, WRITE, FINAL])
    assert play.classes() == ["bad_value", "exec_error", "ok", "ok", "final"]
    assert play.observations()[2] == "[tool_result] x = 1\n"
    for event in play.log:
        assert json.loads(event.line())


def test_one_reply_without_a_count_does_not_switch_the_token_limit_off(tmp_path: Path) -> None:
    """It counts by its characters, four a token, rounded up, and its event says so."""
    play = Play(tmp_path, [LIST, Completion("x" * 41, "stop", Usage(10, None)), *[LIST] * 7], max_completion_tokens=20)
    counted = [(event.completion_tokens, event.counted_by) for event in play.log if isinstance(event, events.LlmAction)]
    assert counted == [(3, None), (None, "characters"), (3, None), (3, None)]
    assert play.ended == "max_tokens" and play.rollout.counted == 3 + 11 + 3 + 3
    assert play.rollout.completion_tokens is None and play.rollout.prompt_tokens == 40


def test_limits_know_no_clock() -> None:
    assert not [name for name in asdict(Limits()) if "second" in name or "time" in name]


def test_an_error_that_repeats_what_the_model_wrote_is_cut_like_any_observation(tmp_path: Path) -> None:
    call = JSON.render_call(ToolCall("list_files", {"rel_dir": ".", "max_files": 5, "x" * 100_000: 1}))
    play = Play(tmp_path, [call, LIST, FINAL], observation_chars=500)
    assert play.classes()[0] == "unexpected_arg" and len(play.observations()[0]) < 700
    assert sum(len(event.line()) for event in play.log) < 2.5 * len(call)
