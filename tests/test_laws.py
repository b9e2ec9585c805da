"""Laws 1 to 3 over random conversations: a trajectory is kept once, its text is sacred, what is trained is what ran.

(Laws 4 and 5 are in test_limits.py and test_verdict.py.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import ids_hash
from repo_agent.data.build import BuildOptions, build
from repo_agent.data.dataset import read_dataset
from repo_agent.data.gates import gate_settings
from repo_agent.data.trajectories import rows
from repo_agent.errors import UserError
from repo_agent.messages import Message, ToolCall
from repo_agent.traces import events
from repo_agent.traces.read import read_trace
from repo_agent.traces.store import RunDir

SPECIAL = ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<tool_call>", "</tool_call>"]
ODD = [
    "",
    "\0",
    "a\r\nb\r",
    "\u2028x",
    '{"a": [1, {"b": "\\\\n"}]}',
    "é\u0301🤝",
    "\x1b[31m",
    "\\u0041",
    "x" * 100_000,
    " \n",
]
TEXTS = st.lists(
    st.sampled_from([*SPECIAL, *ODD]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3
)
CONTENT = TEXTS.map("".join)
LARGE = st.sampled_from(["x" * 100_000, "line\n" * 20_000])
ARGS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    CONTENT | st.integers() | st.lists(CONTENT, max_size=2),
    max_size=2,
)
CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), ARGS), min_size=1, max_size=3)
TURNS = st.lists(st.tuples(CONTENT, CALLS, CONTENT), min_size=1, max_size=4)
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "", "parameters": {"type": "object", "additionalProperties": True}},
    }
    for name in "fg"
]


def write(run: RunDir, system: str, goal: str, turns: list[Any], k: int = 0, **about: Any) -> list[Message]:
    """A recorded rollout of native calls, several a turn; returns the conversation that was sent."""
    writer = run.claim("t", k)
    assert writer
    start = {"task": "t", "group": "t", "task_hash": None, "suite": None, "rollout": k, "arm": "record", "model": "m"}
    writer.emit(events.RunStart(**start, protocol="native", system=system, tools=TOOLS, sampling={}, seed=None,
                                isolation=None, source="record"))  # fmt: skip
    said = [Message("system", system)] if system else []
    fresh, sent = [Message("user", goal)], len(said)
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "seconds": 0.1}
    for t, (text, calls, answer) in enumerate(turns):
        writer.emit(events.LlmRequest(t=t, sent=sent, messages=[wire(message) for message in fresh]))
        named = [{"name": name, "arguments": json.dumps(args)} for name, args in calls]
        action = {
            "t": t,
            "text": text,
            "tool_calls": named,
            "turn_class": "ok",
            "lenient_ok": True,
            "raw_unknown": True,
        }
        writer.emit(events.LlmAction(**action, **counts, **about))
        said += [*fresh, Message("assistant", text, tuple(ToolCall(name, args) for name, args in calls))]
        sent = len(said)
        fresh = [Message("tool", answer) for _ in calls]
    writer.emit(events.RunEnd(ended="stopped", passed=True, steps=len(turns), **counts))
    writer.commit()
    return said


def wire(message: Message) -> events.WireMessage:
    return events.WireMessage(role=message.role, content=message.content)


KEEP_ALL = gate_settings(
    ["strict_valid=off", "executed_ok=off", "no_repeat=off", "control_token=off", "within_length=off"]
)


def make(run: RunDir, out: Path, base: Path) -> dict[str, Any]:
    options = BuildOptions([run.path], settings=KEEP_ALL, no_split=True, tokenizer=str(base))
    return build(options, out, say=lambda line: None)


EVERYTHING = "".join([*ODD, *SPECIAL])
FULL = [(EVERYTHING, [("f", {EVERYTHING: EVERYTHING}), ("g", {"x": [EVERYTHING]})], EVERYTHING)] * 2


@settings(max_examples=40, deadline=None)
@example(EVERYTHING, EVERYTHING, FULL)
@given(CONTENT, CONTENT | LARGE, TURNS)
def test_law_2_text_is_sacred(tmp_path_factory, tiny_base: Path, system: str, goal: str, turns: list[Any]) -> None:
    """Contents and argument values in a dataset are those that were recorded, and those those that were sent."""
    folder = tmp_path_factory.mktemp("law")
    run = RunDir.open(folder / "run", {"kind": "record"})
    said = write(run, system, goal, turns)
    assert list(read_trace(run.traces()[0]).turns[-1].messages) == said
    made = make(run, folder / "set", tiny_base)
    (found,) = read_dataset(folder / "set").trajectories()
    assert list(found.messages) == said and made["rows"] == len(turns)
    assert [turn.reply for turn in found.kept] == [message for message in said if message.role == "assistant"]


@settings(max_examples=40, deadline=None)
@given(CONTENT, TURNS)
def test_law_1_a_trajectory_is_kept_once(tmp_path_factory, tiny_base: Path, goal: str, turns: list[Any]) -> None:
    """Each message is written once; rows are views that end with kept turns and hold every one of them once."""
    folder = tmp_path_factory.mktemp("law")
    run = RunDir.open(folder / "run", {"kind": "record"})
    said = write(run, "s", goal, turns)
    make(run, folder / "set", tiny_base)
    (found,) = read_dataset(folder / "set").trajectories()
    line, end = (folder / "set" / "trajectories.jsonl").read_text().split("\n")
    assert len(json.loads(line)["messages"]) == len(said) and not end
    views = list(rows(found))
    assert [place for row in views for place in row.targets] == [turn.at for turn in found.kept]
    assert all(row.messages[-1].role == "assistant" and row.targets[-1] == len(row.messages) - 1 for row in views)
    plain = sum(len(json.dumps(message.to_dict(), ensure_ascii=False)) for message in said)
    assert len(line) < 2 * plain + 1_000 + 300 * len(turns)


def run_hash(tokenizer: Any, said: list[Message], at: int) -> str:
    """The ids of a prompt as a server would make them: the whole text, tokenised at once."""
    messages = [message.to_dict() for message in said[:at]]
    text = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    return ids_hash(tokenizer(text, add_special_tokens=False)["input_ids"])


PLAIN = st.lists(
    st.sampled_from(["", "a\r\nb", "é\u0301🤝", '{"a": 1}', " \n"]) | st.text('ab \n{}"', max_size=8), max_size=3
).map("".join)
PLAIN_TURNS = st.lists(
    st.tuples(
        PLAIN, st.lists(st.tuples(st.just("f"), st.dictionaries(st.just("x"), PLAIN)), min_size=1, max_size=2), PLAIN
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN, PLAIN_TURNS, st.data())
def test_law_3_what_is_trained_is_what_ran(
    tmp_path_factory, tiny_base: Path, goal: str, turns: list[Any], data: Any
) -> None:
    """Every prompt's ids equal those recorded, which were made in another way; one character more stops the build."""
    from repo_agent.chat.render import Renderer

    folder = tmp_path_factory.mktemp("law")
    tokenizer = load_tokenizer(str(tiny_base))
    own = Renderer(tokenizer).fingerprint()
    run = RunDir.open(folder / "run", {"kind": "record"})
    said = write(run, "s", goal, turns)
    path = run.traces()[0]
    places = iter([index for index, message in enumerate(said) if message.role == "assistant"])
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for line in lines:
        if line["kind"] == "llm_action":
            line |= {"prompt_ids_hash": run_hash(tokenizer, said, next(places)), "tokenizer": own}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = make(run, folder / "set", tiny_base)
    assert made["prompts"] == {"equal": len(turns), "different": 0, "other_tokenizer": 0, "not_recorded": 0}
    requests = [line for line in lines if line["kind"] == "llm_request"]
    changed = data.draw(st.sampled_from([message for line in requests for message in line["messages"]]))
    changed["content"] += "z"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="render otherwise than they ran"):
        make(run, folder / "other", tiny_base)
    assert not (folder / "other").exists()


SCRIPT = """
import sys, time
from pathlib import Path
from repo_agent.data.build import BuildOptions, build
from repo_agent.data.gates import gate_settings

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

folder, base, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
every = {"no_split": True, "tokenizer": base, "settings": gate_settings(["within_length=off"])}
build(BuildOptions([folder / "small"], **every), folder / "warm", say=lambda line: None)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before, started = memory("VmRSS"), time.process_time()
made = build(BuildOptions([folder / "run"], **every), folder / "set", say=lambda line: None)
peak = memory("VmHWM") - before
for n in range(1, times):
    build(BuildOptions([folder / "run"], **every), folder / "set" / str(n), say=lambda line: None)
print((time.process_time() - started) / times, peak, made["rows"])
"""


def test_law_1_time_and_memory_are_linear(tmp_path: Path, tiny_base: Path) -> None:
    """A trace of 2,000 turns against one of 200: 12 times the time and the memory at most. Both are measured for as
    long, the small one ten times over, and in turn, since another program only ever adds to a measurement: the least
    of one is held against the least of the other, until they fit."""
    for turns in (200, 2000):
        for name, count in (("small", 5), ("run", turns)):
            run = RunDir.open(tmp_path / str(turns) / name, {"kind": "record"})
            write(run, "s", "go", [("", [("f", {"x": f"{n:05}"})], f"line {n:05}\n" * 40) for n in range(count)])
    least = {200: [float("inf")] * 2, 2000: [float("inf")] * 2}
    for _ in range(8):
        for turns, figures in least.items():
            seconds, kib, kept = _built(tmp_path / str(turns), tiny_base, 2000 // turns)
            assert kept == turns
            figures[:] = min(figures[0], seconds), min(figures[1], kib)
        if least[2000][0] <= 12 * least[200][0] + 0.2:
            break
    assert least[2000][0] <= 12 * least[200][0] + 0.2, least
    assert least[2000][1] <= 12 * max(least[200][1], 4_000), least


def _built(folder: Path, base: Path, times: int) -> tuple[float, float, float]:
    """Processor seconds of a build, KiB of memory, and its rows: the mean of some in a process of its own."""
    alone = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}  # threads that wait for each other take time, too
    command = [sys.executable, "-c", SCRIPT, folder, base, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    subprocess.run(["rm", "-r", folder / "set", folder / "warm"], check=True)
    seconds, kib, kept = map(float, done.stdout.split())
    return seconds, kib, kept
