"""The verdict beside a second reading of the docs (`second_classifier.py`), over replies made at random."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import second_classifier
from made_replies import TOOLS, Maker

from repo_agent.messages import spoken
from repo_agent.protocols import protocol_named
from repo_agent.tools.registry import Registry
from repo_agent.tools.verdict import judge, lenient_ok

REGISTRY = Registry.from_openai(TOOLS)
EXPLAINED: dict[str, str] = {}
"""Replies on which the two may differ, with the reason. There are none."""


def differences(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Replies with the two answers, where they differ in class or in the lenient column."""
    maker = Maker(seed)
    for _ in range(count):
        reply = maker.reply()
        text = spoken(reply.text, reply.calls) if reply.calls else reply.text
        parsed = protocol_named(reply.protocol).parse(text, REGISTRY.specs)
        verdict = judge(parsed, REGISTRY, truncated=reply.truncated, any_call=reply.after_a_call)
        ours = f"{verdict.turn_class or 'ok'} {lenient_ok(parsed, REGISTRY)}"
        theirs = f"{second_classifier.classify(reply)} {second_classifier.lenient(reply)}"
        if ours != theirs and text not in EXPLAINED:
            yield f"{reply.protocol}: {text!r}", ours, theirs


@pytest.mark.parametrize("seed", range(4))
def test_two_readings_of_the_docs_give_the_same_classes(seed: int) -> None:
    assert list(differences(1_500, seed)) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_so_they_do_on_a_hundred_thousand_replies() -> None:
    found = list(differences(100_000, 77))
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
