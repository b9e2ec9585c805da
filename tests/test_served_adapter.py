"""`eval --adapter` ties a served name to its run record; a base is known by its weights; a + may be part of a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, said
from test_cli import run as cli
from test_servers import _options

from repo_agent.chat.base import base_hash
from repo_agent.chat.tokenizer import TINY
from repo_agent.errors import UserError
from repo_agent.evaluate.arms import load_arm
from repo_agent.models.resolve import parts
from repo_agent.protocols.contract import contract_of
from repo_agent.rollout.live import run_eval
from repo_agent.rollout.options import EvalOptions, chosen, setting
from repo_agent.rollout.record import run_record
from repo_agent.tasks import load_suite
from repo_agent.tools.files import default_registry
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import RECORD, RunRecord

FINAL = '{"type":"final","summary":"done"}'
Adapter = Callable[..., Path]


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    """An adapter directory as `train` leaves it, but for what makes the weights weights."""

    def make(name: str = "adapter", **changes: Any) -> Path:
        known: dict[str, Any] = {
            "config": TrainConfig(base="tiny"), "dataset": "d",
            "contract": contract_of(default_registry(), "json").hash,
            "protocol": "json", "base": "tiny", "base_hash": base_hash("tiny"), "tokenizer": "t", "seed": 0,
            "device": "cpu", "versions": {}, "train_tasks": ["some-task"], "rows": 1, "dropped_too_long": 0,
            "tokens": 9, "trained_tokens": 3, "losses": [], "seconds": 1.0,
        }  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / RECORD).write_text(RunRecord(**known | changes).model_dump_json())
        (folder / "adapter_model.safetensors").write_bytes(b"weights of " + name.encode())
        return folder

    return make


def options(out: Path, model: str, **more: Any) -> EvalOptions:
    return EvalOptions(suite="micro", split="held-out", held_out=2, model=model, out=out, **more)


def recorded(given: EvalOptions) -> dict[str, Any]:
    """run.json as `eval` would write it."""
    suite = load_suite(given.suite)
    return run_record(given, suite, chosen(suite, given), setting(given, suite))


def test_the_run_keeps_the_prompts_that_its_adapter_was_trained_on(tmp_path: Path, adapter: Adapter) -> None:
    known = adapter("known", system_prompts=["0123456789abcdef"])
    for folder, kept in ((known, ["0123456789abcdef"]), (adapter("older"), None)):
        given = options(tmp_path / "run", f"local:tiny+{folder}")
        assert recorded(given)["trained_prompts"] == kept


def test_the_run_says_which_adapter_the_server_runs(tmp_path: Path, adapter: Adapter) -> None:
    folder = adapter()
    with FaultServer(lambda body, seen: said(FINAL, usage=None)) as server:
        run_eval(_options(tmp_path / "run", server, adapter=folder))
        run_eval(_options(tmp_path / "run", server, adapter=Path(f"{folder}/")))  # the same one, written otherwise
        bare = _options(tmp_path / "bare", server)
        run_eval(bare)
        with pytest.raises(UserError, match="differing: adapter"):
            run_eval(replace(bare, out=tmp_path / "run"))
    arm = load_arm(tmp_path / "run")
    assert arm.adapted and not arm.adapter_unknown and load_arm(tmp_path / "bare").adapter_unknown
    assert arm.record["adapter"]["train_tasks"] == ["some-task"] and arm.record["adapter"]["base"] == "tiny"
    assert arm.record["adapter_dir"] == str(folder) and arm.record["base_hash"] == base_hash("tiny")
    trace = next((tmp_path / "run" / "traces").rglob("*.jsonl")).read_text()
    assert '"counted_by":"tokenizer"' in trace, "the adapter names the base, and so the tokenizer"


def test_contract_leak_and_kind_are_checked_as_for_a_local_adapter(
    tmp_path: Path, adapter: Adapter, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = load_suite("micro").split(2).held_out
    for folder, cause in (
        (adapter("other", contract="c"), "was trained for contract c"),
        (adapter("leaky", train_tasks=list(held_out)), "was trained on 2 of these held-out tasks"),
        (tmp_path, "has no readable run_record.json"),
    ):
        with pytest.raises(UserError, match=cause):
            recorded(options(tmp_path / "run", "openai:m@http://127.0.0.1:9/v1", adapter=folder))
    words = ["eval", "--suite", "micro", "--split", "held-out", "--adapter", adapter("a"), "--out", tmp_path / "run"]
    for model in ("local:tiny", "oracle"):
        code, _, err = cli(capsys, *words, "--model", model)
        assert code == 2 and "local:BASE+ADAPTER" in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("cards", "cause"),
    [
        ([], None),
        ([{"id": "m"}], None),
        ([{"id": "m", "parent": "tiny"}, {"id": "tiny"}], None),
        ([{"id": "m", "parent": "alias"}, {"id": "alias", "root": "{copy}"}], None),
        ([{"id": "m", "parent": "Other/Base"}, {"id": "Other/Base", "root": "Other/Base"}], "runs .* on Other/Base"),
        ([{"id": "m", "parent": "alias"}, {"id": "alias", "root": "{changed}"}], "on alias = "),
    ],
)
def test_a_server_that_runs_it_on_another_base_is_refused(
    tmp_path: Path, adapter: Adapter, cards: list[dict[str, Any]], cause: str | None
) -> None:
    """vLLM names the base of an adapter as its `parent`, and where that came from as the base's `root`."""
    places = {"copy": str(tiny_copy(tmp_path / "copy")), "changed": str(tiny_copy(tmp_path / "changed", b"x"))}
    told = [{key: value.format(**places) for key, value in card.items()} for card in cards]
    with FaultServer(lambda body, seen: said(FINAL), models=told) as server:
        given = _options(tmp_path / "run", server, adapter=adapter())
        if cause is None:
            assert run_eval(given)["rollouts"] == 2
        else:
            with pytest.raises(UserError, match=cause):
                run_eval(given)
            assert server.asked == [] and not (tmp_path / "run").exists()


# --- a base is its weights


def tiny_copy(folder: Path, more: bytes = b"") -> Path:
    shutil.copytree(TINY, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: -len(more) or None] + more)
    return folder


def test_a_base_is_the_same_by_its_weights_not_by_its_spelling(
    tmp_path: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_copy(tmp_path / "copy")
    (tmp_path / "link").symlink_to(TINY)
    folder = adapter()
    for base in ("tiny", "./copy", "~/copy", "link", str(TINY)):
        record = recorded(options(tmp_path / "run", f"local:{base}+{folder}"))
        assert record["base_hash"] == base_hash("tiny"), base
    tiny_copy(tmp_path / "changed", b"other")
    with pytest.raises(UserError, match=r"was trained on tiny, not on \./changed"):
        recorded(options(tmp_path / "run", f"local:./changed+{folder}"))
    older = adapter("older", base_hash=None)
    assert recorded(options(tmp_path / "run", f"local:tiny+{older}"))
    with pytest.raises(UserError, match="was trained on tiny, not on link"):
        recorded(options(tmp_path / "run", f"local:link+{older}"))


def test_a_change_anywhere_in_large_weights_is_another_base(tmp_path: Path) -> None:
    """Of files above 16 MiB pieces are read, from end to end."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "_name_or_path": "a"}))
    weights = bytearray(b"\1" * 40_000_000)
    (folder / "model.safetensors").write_bytes(weights)
    before = base_hash(str(folder))
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "b", "hidden_size": 8}))
    assert before and base_hash(str(folder)) == before
    for place in (0, len(weights) - 1):
        changed = bytearray(weights)
        changed[place] = 2
        (folder / "model.safetensors").write_bytes(changed)
        assert base_hash(str(folder)) != before
    changed = bytearray(byte ^ 1 if at % 150_000 < 100_000 else byte for at, byte in enumerate(weights[:4_000_000]))
    (folder / "model.safetensors").write_bytes(changed + weights[4_000_000:])
    assert base_hash(str(folder)) != before


def test_a_base_that_is_not_on_this_machine_has_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_hash("Nobody/NoSuchModel") is None
    with pytest.raises(UserError, match="no model there"):
        base_hash("./nowhere")


# --- a + in a path


def test_a_plus_in_a_path_is_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("models/a+b", "adapters/x+y", "adapters/t"):
        (tmp_path / folder).mkdir(parents=True)
    assert parts("local:models/a+b") == ("local", "models/a+b", "")
    assert parts(f"local:{tmp_path}/models/a+b") == ("local", f"{tmp_path}/models/a+b", "")
    assert parts("local:models/a+b+adapters/t") == ("local", "models/a+b", "adapters/t")
    assert parts("local:tiny+adapters/x+y") == ("local", "tiny", "adapters/x+y")
    assert parts("local:tiny+adapters/gone") == ("local", "tiny", "adapters/gone")
    assert parts("openai:a+b@http://h/v1") == ("openai", "a+b", "")


CANARY = {
    "tools": None,
    "max_tokens": 32,
    "contexts": [
        {"messages": [{"role": "user", "content": goal}], "base": f"base {goal}", "tuned": f"{kind} {goal}"}
        for goal, kind in (("a", "tuned"), ("b", "tuned"), ("same", "base"))
    ],
}  # fmt: skip
"""Base and adapter say the same to the third context, so it shows nothing."""


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        ({"a": "tuned a", "b": "tuned b"}, None),
        ({"a": "rounded otherwise", "b": "tuned b"}, None),
        ({"a": "base a", "b": "base b"}, "of 2 replies none is the adapter's, and 2 are the base's"),
        ({"a": "another adapter", "b": "base b"}, "none is the adapter's, and 1 are the base's"),
    ],
)
def test_a_server_that_does_not_run_the_adapter_is_refused_before_any_rollout(
    tmp_path: Path, adapter: Adapter, says: dict[str, str], cause: str | None
) -> None:
    folder = adapter()
    (folder / "canary.json").write_text(json.dumps(CANARY))

    def answer(body: dict[str, Any], seen: int) -> dict[str, Any]:
        first = body["messages"][0]["content"]
        if first in says:
            assert (body["temperature"], body["max_tokens"]) == (0.0, 32)
        return said(says.get(first, FINAL))

    with FaultServer(answer) as server:
        given = _options(tmp_path / "run", server, adapter=folder)
        if cause:
            with pytest.raises(UserError, match=cause):
                run_eval(given)
            assert len(server.asked) == 2 and not list(tmp_path.glob("run/traces/*/*"))
        else:
            assert run_eval(given)["rollouts"] == 2
            kept = (tmp_path / "run" / "canary.jsonl").read_text().splitlines()
            assert [json.loads(line)["text"] for line in kept] == list(says.values())
