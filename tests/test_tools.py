"""The registry's strict check, the four tools, contained paths, and another agent's schemas."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_agent.errors import InfraError, UserError
from repo_agent.messages import ToolCall
from repo_agent.tools.files import default_registry
from repo_agent.tools.registry import Registry, ToolResult, cut, tool
from repo_agent.tools.verdict import executed

REGISTRY = default_registry()


def run(root: Path, name: str, **args: Any) -> ToolResult:
    call = ToolCall(name, args)
    assert REGISTRY.check(call) is None
    return REGISTRY.execute(call, root, 4000)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("def one():\n    return 1\n")
    (root / "b.py").write_text("x = 2\n")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "b.pyc").write_bytes(b"\0")
    (tmp_path / "secret.txt").write_text("secret")
    return root


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("read_file", {"rel_path": "b.py", "max_chars": 20}, None),
        ("open", {}, "unknown_tool"),
        ("run_tests", {}, "unknown_tool"),
        ("list_files", {"rel_path": "."}, "missing_arg"),
        ("read_file", {"rel_path": "b.py"}, "missing_arg"),
        ("read_file", {"rel_path": "b.py", "max_chars": 20, "thought": "x"}, "unexpected_arg"),
        ("read_file", {"rel_path": "b.py", "max_chars": "20"}, "wrong_type"),
        ("read_file", {"rel_path": "b.py", "max_chars": True}, "wrong_type"),
        ("read_file", {"rel_path": "b.py", "max_chars": 20.0}, "wrong_type"),
        ("read_file", {"rel_path": None, "max_chars": 20}, "wrong_type"),
        ("read_file", {"rel_path": "../b.py", "max_chars": 20}, "bad_value"),
        ("read_file", {"rel_path": "/etc/passwd", "max_chars": 20}, "bad_value"),
        ("read_file", {"rel_path": "b.py", "max_chars": 0}, "bad_value"),
        ("grep", {"pattern": "(", "rel_dir": ".", "max_hits": 5}, "bad_value"),
        ("grep", {"pattern": "x", "rel_dir": ".", "max_hits": 10**9}, None),
        ("write_file", {"rel_path": "n.py", "content": 3}, "wrong_type"),
    ],
)
def test_the_first_fault_of_a_call(name: str, args: dict[str, Any], expected: str | None) -> None:
    fault = REGISTRY.check(ToolCall(name, args))
    assert (fault and fault.turn_class) == expected


def test_a_missing_argument_is_named() -> None:
    fault = REGISTRY.check(ToolCall("grep", {"pattern": "x"}))
    assert fault and fault.message == "grep needs rel_dir, max_hits"


def test_the_tools_work(repo: Path) -> None:
    assert run(repo, "list_files", rel_dir=".", max_files=9).output == "b.py\nsrc/a.py"
    assert run(repo, "list_files", rel_dir=".", max_files=1).output == "b.py\n[... 1 more files]"
    assert run(repo, "read_file", rel_path="src/a.py", max_chars=900).output == "def one():\n    return 1\n"
    assert run(repo, "grep", pattern=r"def \w+", rel_dir="src", max_hits=5).output == "src/a.py:1:def one():"
    assert run(repo, "grep", pattern="nothing", rel_dir=".", max_hits=5) == ToolResult(True, "[no hits]")
    assert run(repo, "write_file", rel_path="new/deep/c.py", content="a\r\nb").ok
    assert (repo / "new/deep/c.py").read_bytes() == b"a\r\nb"


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [
        ("read_file", {"rel_path": "a.py", "max_chars": 9}, "not_found"),
        ("read_file", {"rel_path": "src", "max_chars": 9}, "is_a_directory"),
        ("list_files", {"rel_dir": "b.py", "max_files": 9}, "not_a_directory"),
        ("list_files", {"rel_dir": "lib", "max_files": 9}, "not_found"),
        ("write_file", {"rel_path": "src", "content": ""}, "is_a_directory"),
        ("write_file", {"rel_path": "b.py/c.py", "content": ""}, "not_writable"),
        ("write_file", {"rel_path": "s.py", "content": "\ud83d"}, "not_writable"),
        ("read_file", {"rel_path": "x" * 400, "max_chars": 9}, "bad_path"),
    ],
)
def test_a_tool_refuses_with_a_code(repo: Path, name: str, args: dict[str, Any], code: str) -> None:
    result = run(repo, name, **args)
    assert (result.ok, result.code, executed(result)) == (False, code, "exec_error")


TOO_LONG = {
    "folders": "a/" * 100 + "x",
    "parts": "a/" * 1500 + "x",
    "dots": "./" * 3000 + "x",
    "slashes": "a" + "/" * 3000 + "x",
    "letters": "x/" + "y" * 1000,
}


@pytest.mark.parametrize("path", TOO_LONG.values(), ids=TOO_LONG)
def test_a_path_that_is_too_long_is_a_bad_value(repo: Path, path: str) -> None:
    calls = {
        "write_file": {"rel_path": path, "content": "x"},
        "read_file": {"rel_path": path, "max_chars": 9},
        "list_files": {"rel_dir": path, "max_files": 9},
        "grep": {"rel_dir": path, "pattern": "x", "max_hits": 9},
    }
    for name, args in calls.items():
        call = ToolCall(name, args)
        fault = REGISTRY.check(call)
        assert fault and fault.turn_class == "bad_value"
        assert REGISTRY.execute(call, repo, 4000).code == "path_escape"  # a loop that does not check first
    assert run(repo, "write_file", rel_path="d/" * 63 + "x", content="x").ok


@pytest.mark.parametrize(("raised", "code"), [(MemoryError, "too_much"), (RecursionError, "too_much")])
def test_memory_and_recursion_that_a_call_uses_up_are_the_models(
    repo: Path, raised: type[Exception], code: str
) -> None:
    def greedy(root: Path, text: str) -> str:
        """Take much."""
        raise raised

    result = Registry([tool(greedy)]).execute(ToolCall("greedy", {"text": "x"}), repo, 99)
    assert (result.ok, result.code, executed(result)) == (False, code, "exec_error")


@pytest.mark.parametrize("link", ["folder", "file"])
def test_no_way_out_through_a_link(repo: Path, link: str) -> None:
    target = repo.parent if link == "folder" else repo.parent / "secret.txt"
    os.symlink(target, repo / "out")
    path = "out/secret.txt" if link == "folder" else "out"
    read = run(repo, "read_file", rel_path=path, max_chars=99)
    write = run(repo, "write_file", rel_path=path, content="changed")
    assert [read.code, write.code, executed(read)] == ["path_escape", "path_escape", "bad_value"]
    assert (repo.parent / "secret.txt").read_text() == "secret"
    assert "secret" not in run(repo, "grep", pattern="secret", rel_dir=".", max_hits=9).output
    assert "secret.txt" not in run(repo, "list_files", rel_dir=".", max_files=99).output


def test_a_hostile_pattern_ends_and_stops_nobody_else(repo: Path) -> None:
    (repo / "long.txt").write_text("a" * 60_000 + "b\n")
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    watch = threading.Thread(target=tick)
    watch.start()
    result = run(repo, "grep", pattern="(a+)+(a+)+(a+)+c", rel_dir=".", max_hits=5)
    done.set()
    watch.join()
    assert result.code == "timeout"
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 1.0


@pytest.mark.timeout(20)
def test_pipes_are_no_files(repo: Path) -> None:
    os.mkfifo(repo / "pipe")
    assert run(repo, "read_file", rel_path="pipe", max_chars=9).code == "not_found"
    assert run(repo, "write_file", rel_path="pipe", content="x").code == "is_a_directory"
    assert run(repo, "grep", pattern="x", rel_dir=".", max_hits=9).output == "b.py:1:x = 2"
    assert "pipe" not in run(repo, "list_files", rel_dir=".", max_files=9).output


def test_a_refused_write_leaves_the_file_as_it_was(repo: Path) -> None:
    assert run(repo, "write_file", rel_path="b.py", content="\ud83d").code == "not_writable"
    assert (repo / "b.py").read_text() == "x = 2\n"


def test_output_is_cut_once_with_head_tail_and_a_mark(repo: Path) -> None:
    (repo / "long.txt").write_text("H" + "x" * 9000 + "T")
    call = ToolCall("read_file", {"rel_path": "long.txt", "max_chars": 20_000})
    result = REGISTRY.execute(call, repo, 300)
    assert result.output.startswith("Hxx") and result.output.endswith("xxT") and len(result.output) == 300
    assert f"[... {result.cut} characters cut ...]" in result.output
    assert cut("short", 5) == ("short", 0)


@given(st.text(max_size=300), st.integers(0, 300))
def test_a_cut_text_fits_and_its_mark_is_true(text: str, limit: int) -> None:
    shown, left_out = cut(text, limit)
    assert len(shown) <= max(limit, len(text) if not left_out else 0) and (left_out > 0) == (len(text) > limit)
    if left_out:
        head, _mark, tail = shown.partition(f"\n[... {left_out} characters cut ...]\n")
        assert len(head) + len(tail) + left_out == len(text)
        assert text.startswith(head) and text.endswith(tail)


@pytest.mark.parametrize(("asked", "shown"), [(1_000, 1_000), (9_000, 9_000), (50_000, 16_000)])
def test_read_file_shows_what_is_asked_for_up_to_a_limit_of_its_own(repo: Path, asked: int, shown: int) -> None:
    (repo / "long.txt").write_text("x" * 40_000)
    call = ToolCall("read_file", {"rel_path": "long.txt", "max_chars": asked})
    assert len(REGISTRY.execute(call, repo, 4_000, 16_000).output) == shown
    listing = ToolCall("grep", {"pattern": "x", "rel_dir": ".", "max_hits": 9})
    assert len(REGISTRY.execute(listing, repo, 100, 16_000).output) <= 100


def test_another_agents_schemas_are_checked_but_not_run(tmp_path: Path) -> None:
    parameters = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "mode": {"type": "string", "enum": ["a", "b"]}},
        "required": ["id"],
    }
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([{"type": "function", "function": {"name": "fetch", "parameters": parameters}}]))
    registry = Registry.load(path)
    calls = [{"id": 1}, {"id": 1, "mode": "b"}, {"mode": "a"}, {"id": 1, "x": 2}, {"id": "1"}, {"id": 1, "mode": "c"}]
    faults = [registry.check(ToolCall("fetch", args)) for args in calls]
    classes = [fault and fault.turn_class for fault in faults]
    assert classes == [None, None, "missing_arg", "unexpected_arg", "wrong_type", "bad_value"]
    with pytest.raises(InfraError, match="no function"):
        registry.execute(ToolCall("fetch", {"id": 1}), tmp_path, 100)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"type": "web_search"}]', '[{"name": "x", "parameters": {"type": "nonsense"}}]']
)
def test_a_file_that_holds_no_schemas_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tools\.json"):
        Registry.load(path)
