"""The user's own tools: modules of decorated functions in our loop, schemas alone for gates."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from serving import FINAL, JSON, serving
from test_cli import run as cli

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec
from repo_agent.errors import InfraError, UserError
from repo_agent.messages import ToolCall
from repo_agent.models import Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.rollout.oracle import playable
from repo_agent.tools.own import load_tools
from repo_agent.tools.registry import Registry, tool
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

MODULE = '''
from pathlib import Path

from repo_agent.tools.paths import resolve
from repo_agent.tools.registry import PositiveInt, RelPath, ToolError, tool

@tool
def show(root: Path, rel_path: RelPath, first: PositiveInt) -> str:
    """Show a file from line `first` on.

    This paragraph is not for the model.
    """
    path = resolve(root, rel_path)
    if not path.is_file():
        raise ToolError("not_found", f"there is no file {rel_path}")
    lines = path.read_text().splitlines()
    return "\\n".join(lines[first - 1:])

@tool(writes=True)
def replace(root: Path, rel_path: RelPath, old: str, new: str) -> str:
    """Replace text in a file."""
    path = resolve(root, rel_path)
    path.write_text(path.read_text().replace(old, new))
    return f"replaced in {rel_path}"

@tool
def odd(root: Path, kind: str) -> str:
    """Fail."""
    return {"text": "fine", "number": 7}[kind]
'''
SHOW = JSON.render_call(ToolCall("show", {"rel_path": "a.py", "first": 1}))
LOST = JSON.render_call(ToolCall("show", {"rel_path": "b.py", "first": 1}))
AWAY = JSON.render_call(ToolCall("show", {"rel_path": "../b.py", "first": 1}))
REPLACE = JSON.render_call(ToolCall("replace", {"rel_path": "a.py", "old": "1", "new": "2"}))


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return path


def roll(module: Path, *replies: str) -> tuple[str, list[events.Event]]:
    """How a rollout over `a.py` ended, and its events."""
    root, log = module.parent / "workspace", list[events.Event]()
    root.mkdir(exist_ok=True)
    (root / "a.py").write_text("x = 1\n")

    async def tests(when: events.When) -> events.Tests:
        return events.Tests(when=when, outcome="failed", passed=0, failed=1, skipped=0, expected=1, output="1 failed")

    model, tools = Scripted(replies), load_tools(str(module))
    rollout = Rollout(model, AgentSpec(tools, JSON), root, tests, log.append, Sampling(), 0)
    return asyncio.run(rollout.run("set x to 2")), log


async def unused(when: events.When) -> events.Tests:
    raise AssertionError(when)


def test_a_module_of_tools_runs_in_our_loop(module: Path) -> None:
    ended, log = roll(module, SHOW, LOST, AWAY, REPLACE, FINAL)
    actions = [event for event in log if isinstance(event, events.LlmAction)]
    assert ended == "final"
    assert [action.turn_class for action in actions] == ["ok", "exec_error", "bad_value", "ok", "final"]
    assert "there is no file b.py" in actions[1].error
    assert sum(isinstance(event, events.Tests) for event in log) == 1  # after the one that writes
    prompt = JSON.describe(load_tools(str(module)))
    assert "show(rel_path: string (relative path), first: integer >= 1) - Show a file from line `first` on." in prompt
    assert "This paragraph" not in prompt and "list_files" not in prompt


@pytest.mark.parametrize(
    ("kind", "said"), [("none", r"KeyError: 'none' \(mine.py:\d+\)"), ("number", "int, and a tool's result is a str")]
)
def test_any_other_failure_of_a_tool_is_ours_and_names_the_line(module: Path, kind: str, said: str) -> None:
    assert roll(module, JSON.render_call(ToolCall("odd", {"kind": "text"})), FINAL)[0] == "final"
    model, log = Scripted([JSON.render_call(ToolCall("odd", {"kind": kind}))]), list[events.Event]()
    rollout = Rollout(model, AgentSpec(load_tools(str(module)), JSON), module.parent, unused, log.append, Sampling(), 0)
    with pytest.raises(InfraError, match=rf"tool odd: .*{said}"):
        asyncio.run(rollout.run("fail"))
    assert isinstance(log[-1], events.LlmAction) and log[-1].turn_class == "infra_error"


def test_a_dotted_module_and_a_list_of_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "agent_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tools.py").write_text(f"{MODULE}\nTOOLS = [replace, show]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert list(load_tools("agent_of_mine.tools").specs) == ["replace", "show"]
    ours = load_tools("repo_agent.tools.files")
    playable(AgentSpec(ours, JSON), ())
    assert list(ours.specs) == ["list_files", "read_file", "grep", "write_file"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "ends the process"),
        ("x = 1", "no @tool function"),
        (MODULE + "TOOLS = [show, replace, type(odd)('show', '', {}, print)]", "two tools of the name show"),
        (MODULE.replace("root: Path, kind: str", "kind: str"), "first parameter"),
        (MODULE.replace("kind: str", "kind"), "needs a type"),
        (MODULE.replace("kind: str", "*kind: str"), "no \\*args"),
    ],
)
def test_a_module_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        load_tools(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for missing in (tmp_path / "no.py", "no_such_module_anywhere"):
        with pytest.raises(UserError, match="cannot be imported"):
            load_tools(str(missing))


def test_an_argument_with_a_default_may_be_left_out(module: Path) -> None:
    module.write_text(MODULE.replace("first: PositiveInt", "first: PositiveInt = 1"))
    bare = JSON.render_call(ToolCall("show", {"rel_path": "a.py"}))
    ended, log = roll(module, bare, SHOW, FINAL)
    assert [event.turn_class for event in log if isinstance(event, events.LlmAction)] == ["ok", "ok", "final"]
    outputs = [event.output for event in log if isinstance(event, events.ToolResultEvent)]
    assert ended == "final" and outputs[0] == outputs[1]
    spec = AgentSpec(load_tools(str(module)), JSON)
    assert "show(rel_path: string (relative path), first?: integer >= 1)" in spec.system
    assert "Arguments marked ? may be left out" in spec.system and "Every argument is required" not in spec.system


def test_nested_arguments_keep_their_definitions() -> None:
    import pydantic

    class Span(pydantic.BaseModel):
        first: int

    def cut(root: Path, span: Span) -> str:
        """Cut."""
        return str(span)

    cut.__annotations__ = {"root": Path, "span": Span, "return": str}
    registry = Registry([tool(cut)])
    assert registry.check(ToolCall("cut", {"span": {"first": 1}})) is None
    assert registry.check(ToolCall("cut", {"span": {"first": "1"}}))


def test_eval_plays_them_and_build_takes_them(capsys: pytest.CaptureFixture[str], module: Path, tmp_path: Path) -> None:
    words = "eval --suite micro --split held-out --held-out 1 --tests never --json".split()
    out = tmp_path / "run"
    with serving(tmp_path, (LOST, FINAL.replace("final", "finale"), LOST, LOST, LOST)) as server:
        words += ["--model", server.model, "--out", str(out)]
        code, shown, err = cli(capsys, *words, "--tools", module)
        assert code == 0 and json.loads(shown)["turns"]["exec_error"] >= 1, err
        record = RunDir(out).record
        assert record["tools"]["module"] == str(module) and len(record["tools"]["hash"]) == 16
        code, _, err = cli(capsys, *words)
        assert code == 2 and "contract" in err
        module.write_text(MODULE.replace("replaced in", "changed in"))
        code, _, err = cli(capsys, *words, "--tools", module)
        assert code == 2 and "differing: tools" in err
        schema = tmp_path / "schema.json"
        schema.write_text(json.dumps(load_tools(str(module)).schemas()))
        code, _, err = cli(capsys, *words, "--tools", schema)
        assert code == 2 and "a schema without a function cannot run" in err and err.count("\n") == 1
    for tools in (module, schema):
        code, shown, err = cli(capsys, "inventory", out, "--tools", tools, "--json")
        assert code == 0 and json.loads(shown)["turns"]["exec_error"] >= 1, err
    oracle = "eval --suite micro --split all --model oracle --out".split()
    code, _, err = cli(capsys, *oracle, tmp_path / "new", "--tools", module)
    assert code == 2 and "four tools" in err and "list_files" in err and not (tmp_path / "new").exists()
