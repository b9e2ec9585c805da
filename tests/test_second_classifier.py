"""The verdict beside a second reading of the docs (`second_classifier.py`), over replies made at random."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import second_classifier
from made_replies import TOOLS, Maker
from second_classifier import Reply

from repo_agent.messages import spoken
from repo_agent.protocols import protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import judge, lenient_ok
from repo_agent.traces.read import read_traces

REGISTRY = Registry.from_openai(TOOLS)
EXPLAINED: dict[str, str] = {}
"""Replies on which the two may differ, with the reason. There are none."""


def made(count: int, seed: int) -> Iterator[Reply]:
    maker = Maker(seed)
    for _ in range(count):
        reply = maker.reply()
        yield reply
        if len(reply.calls) > 1:
            yield replace(reply, parallel=True)


def differences(replies: Iterable[Reply], registry: Registry = REGISTRY) -> Iterator[tuple[str, str, str]]:
    """Replies with the two answers, where they differ in class or in the lenient column."""
    for reply in replies:
        text = spoken(reply.text, reply.calls) if reply.calls else reply.text
        parsed = protocol_named(reply.protocol).parse(text, registry.specs)
        verdict = judge(
            parsed, registry, truncated=reply.truncated, any_call=reply.after_a_call, parallel=reply.parallel
        )
        ours = f"{verdict.turn_class or 'ok'} {lenient_ok(parsed, registry, reply.parallel)}"
        theirs = f"{second_classifier.classify(reply)} {second_classifier.lenient(reply)}"
        if ours != theirs and text not in EXPLAINED:
            yield f"{reply.protocol}: {text!r}", ours, theirs


@pytest.mark.parametrize("seed", range(4))
def test_two_readings_of_the_docs_give_the_same_classes(seed: int) -> None:
    assert list(differences(made(1_500, seed))) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_so_they_do_on_a_hundred_thousand_replies() -> None:
    found = list(differences(made(100_000, 77)))
    assert len(found) <= 100 and found == []


def test_every_class_before_execution_is_among_the_replies() -> None:
    maker = Maker(5)
    seen = {second_classifier.classify(maker.reply()) for _ in range(4_000)}
    assert seen == {
        "truncated",
        "no_call",
        "multiple_calls",
        "wrapped",
        "json_invalid",
        "envelope_invalid",
        "unknown_tool",
        "missing_arg",
        "unexpected_arg",
        "wrong_type",
        "bad_value",
        "ok",
        "final",
        "early_final",
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("protocol", "temperature"), [("json", 1.0), ("json", 1.6), ("json", 2.2), ("hermes", 1.2)])
def test_so_they_do_on_replies_of_a_real_model(tmp_path: Path, protocol: str, temperature: float) -> None:
    run = tmp_path / "run"
    words = f"eval --suite micro --split held-out --model local:tiny --protocol {protocol} --temperature {temperature}"
    more = f"--rollouts 3 --max-steps 8 --max-tokens 150 --out {run}"
    done = subprocess.run([sys.executable, "-m", "repo_agent.cli", *words.split(), *more.split()], capture_output=True)
    assert done.returncode == 0, done.stderr
    texts = [turn.text or "" for trace in read_traces([run])[0] for turn in trace.turns]
    registry = default_registry()
    replies = [Reply(text, wire, registry.schemas(), True) for text in texts for wire in ("json", "hermes", "native")]
    assert len(texts) > 150 and list(differences(replies, registry)) == []
