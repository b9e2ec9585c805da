"""A model's patterns: refused by their text before anything compiles them, then compiled and searched in processes that
the kernel bounds. Nothing that a pattern does reaches this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.errors import InfraError
from repo_agent.messages import ToolCall
from repo_agent.protocols import PROTOCOLS
from repo_agent.tools import searchers
from repo_agent.tools.files import default_registry
from repo_agent.tools.patterns import pattern_fault
from repo_agent.tools.registry import ToolResult
from repo_agent.tools.verdict import executed, judge

REGISTRY = default_registry()
LARGE, SELF, OPEN = "the repeats", "may not call", "not complete"


def call(pattern: str, **args: object) -> ToolCall:
    return ToolCall("grep", {"pattern": pattern, "rel_dir": ".", "max_hits": 9, **args})


def grep(root: Path, pattern: str, **args: object) -> ToolResult:
    return REGISTRY.execute(call(pattern, **args), root, 4000)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a{10000000}", LARGE),
        ("a{0,10000000}", LARGE),
        ("a{,99999999}", LARGE),
        ("a{99999999,}?", LARGE),
        ("a{10001}+", LARGE),
        ("(?:a{5000}){5000}", LARGE),
        ("(?:(?:a{30}){30}){30}", LARGE),
        ("(?:" + "[ab]" * 200 + "){9000}", LARGE),
        ("(?:a{9" + "9" * 900 + "})", LARGE),
        ("(?x)a {1 0 0 0 0 0 0}", LARGE),
        ("(?<=a{20000})b", LARGE),
        ("(?V1)[a[b]--c]{20000}", LARGE),
        (r"\p{L}{20000}", LARGE),
        ("(?#(?R))a{20000}", LARGE),
        ("(?R)a|b", SELF),
        ("a(?0)?b", SELF),
        ("(a(?1)?b)", SELF),
        ("(a(?-1)?)", SELF),
        ("(?+1)(a)", SELF),
        ("(?P<n>a(?&n)?)", SELF),
        ("(?P<n>a(?P>n)?)", SELF),
        ("(?(DEFINE)(?P<n>a))", SELF),
        ("a" * 1001, "at most 1,000 characters"),
        ("(", OPEN),
        ("a)", OPEN),
        ("[a", OPEN),
        ("[]", OPEN),
        ("a\\", OPEN),
        (r"m{4s<\g<L", OPEN),
    ],
)
def test_a_pattern_is_refused_by_its_text(pattern: str, said: str) -> None:
    assert said in (pattern_fault(pattern) or "")
    fault = REGISTRY.check(call(pattern))
    assert fault and fault.turn_class == "bad_value"


@pytest.mark.parametrize(
    "pattern",
    ["a{10000}", "(?:ab){100}(?:cd){100}", "(?:a{100}){100}", r"\(?R\)", "[(?R)]", "(?#(?R)", "[]a]", "[^]a]", r"\g",
     "a" * 1000, "(?P<n>a)(?P=n)", "(?i)x", "(?x) a # (\n b", "(?V1)[a[b]c]", r"\N{SPACE}", r"\p{L}+", "{", "a{b}",
     "[[:alpha:]]", "a{,b}",
     "(?:foo){e<=5}", "(?:foo){i<=1:[a-z]}", "(?:abcdefgh){1,9000}", "(*SKIP)a", ""],
)  # fmt: skip
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert pattern_fault(pattern) is None
    regex.compile(pattern)


PIECES = (
    r"a|b|[a-z]|[^]]|[]a]|[[:alpha:]]|(|(?:|(?=|(?<=|(?P<n>|(?>|)|)|)|]|[|*|+|?|{2}|{,3}|{1,}|{e<=1}|\d|\p{L}|\]|\[|\(|\)|"
    r"\g<1>|\1|\g|\x41|(?i)|(?i:|(?#x)|(?#|^|$|.|-| |#|(?x)|(?V1)|&&|{|}|\|(?(1)a)|é|\m"
).split("|")
patterns = st.lists(st.sampled_from([*PIECES, "|", "\n"]), max_size=9).map("".join)
tame = patterns.filter(lambda pattern: pattern_fault(pattern) is None and "{e" not in pattern)
"""Without fuzzy matching, which the library itself does not bound: `(?=a{e<=1})*` takes all memory on one letter."""


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300)
@given(patterns)
def test_what_is_called_not_complete_does_not_compile(pattern: str) -> None:
    if OPEN in (pattern_fault(pattern) or ""):
        with pytest.raises((regex.error, ValueError)):
            regex.compile(pattern)


def reference(pattern: str, text: str) -> list[str] | str:
    """What a search finds, by the library alone."""
    try:
        compiled = regex.compile(pattern)
    except (regex.error, ValueError, RecursionError):
        return "bad_regex"
    lines = text.removesuffix("\n").split("\n") if text else []
    return [f"a.txt:{n}:{line}" for n, line in enumerate(lines, 1) if compiled.search(line)]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100)
@given(tame, st.text("ab-Z]é[ \n\x85", max_size=40))
def test_answers_are_those_of_the_library(tmp_path_factory: pytest.TempPathFactory, pattern: str, text: str) -> None:
    root = tmp_path_factory.mktemp("one")
    (root / "a.txt").write_text(text, newline="")
    expected = reference(pattern, text)
    result = grep(root, pattern, max_hits=200)
    found = result.code if result.code else [] if result.output == "[no hits]" else result.output.split("\n")
    assert found == expected


HOSTILE = {
    "(" * 20 + "a" + ")" * 20 + "*": {"out_of_memory"},
    "(a+)+(a+)+(a+)+c": {"timeout"},
    "(?:abcdefghij){e<=9}c{e<=3}z": None,
    "(?=a{e<=1})*": {"out_of_memory"},
    "(?x)a{1#\n000000}": {"bad_regex"},
    "(?x)a{ 9#c\n999999}": {"bad_regex"},
    "(?x)( ? R)a|b": None,
    "(?if)[\\x00-\\U0010ffff]{9000}": None,
    "(?V1)[[a-z]--[aeiou]]{9000}": None,
    "(?<=(?:a{100}b?){100})c": None,
    "(" * 400 + ")" * 400: None,
    r"\x{" + "F" * 900 + "}": {"bad_regex"},
    r"\N{" + "A" * 900 + "}": {"bad_regex"},
    r"\L<words>": {"bad_regex"},
    "(?i:\u017f|ß|\ufb03){3000}": None,
    "(?b)(?:cats){e<=9}": None,
    "(?|(a)|(b))*?c": None,
    r"\X{9000}\X*+\X": None,
    "(?:a{0,99}){0,99}+b": None,
    "a\0b\ud83d": None,
}
SCRIPT = """
import json, pathlib, resource, sys
from repo_agent.messages import ToolCall
from repo_agent.tools.files import default_registry
from repo_agent.tools import searchers
registry, codes, root = default_registry(), [], pathlib.Path(sys.argv[1])
def call(pattern):
    return ToolCall("grep", {"pattern": pattern, "rel_dir": ".", "max_hits": 9})
for pattern, seconds in json.loads(sys.stdin.read()):
    searchers.SECONDS = seconds
    fault = registry.check(call(pattern))
    codes.append(fault.turn_class if fault else registry.execute(call(pattern), root, 4000).code)
after = registry.execute(call("^abc"), root, 99)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
print(json.dumps([codes, after.output, int(peak.split()[1]) / 1024, seconds, "regex" in sys.modules]))
"""


def test_no_pattern_reaches_our_own_process(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 2**20 + "\n")
    (tmp_path / "b.txt").write_text("abc " * 2000 + "\nZ\n")
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    # What must end for its memory may take the time that a busy machine takes to fill it.
    given = [(pattern, 60 if expected == {"out_of_memory"} else 0.5) for pattern, expected in HOSTILE.items()]
    done = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, check=True)
    codes, after, mebibytes, seconds, loaded = json.loads(done.stdout)
    for (pattern, expected), code in zip(HOSTILE.items(), codes, strict=True):
        assert code in (expected or {None, "timeout", "out_of_memory", "bad_regex", "bad_value"}), pattern
    assert after.startswith("b.txt:1:abc") and mebibytes < 100 and seconds < 3 and not loaded


def test_what_does_not_compile_is_a_bad_value_also_when_judged_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    parsed = PROTOCOLS["json"].parse(PROTOCOLS["json"].render_call(call(r"\g<1>")))
    assert judge(parsed, REGISTRY, truncated=False, any_call=True).turn_class is None  # nothing was compiled
    result = grep(tmp_path, r"\g<1>")
    assert (result.code, executed(result)) == ("bad_regex", "bad_value")
    assert grep(tmp_path, r"\g<1>", rel_dir="none").code == "bad_regex"
    assert grep(tmp_path, "x", rel_dir="none").code == "not_found"


def children(parent: int | None = None) -> set[int]:
    """The search processes that a process has started and not yet buried."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and b"search_child" in (folder / "cmdline").read_bytes():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                found |= {int(folder.name)} if int(stat[1]) == (parent or os.getpid()) else set()
    return found


def test_a_process_is_kept_and_replaced_once_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    assert grep(tmp_path, "x").output == "a.txt:1:x"
    before = children()
    assert grep(tmp_path, "x").output == "a.txt:1:x" and before and children() == before
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert grep(tmp_path, "x").output == "a.txt:1:x"
    assert children() and not children() & before


def test_one_that_is_killed_at_work_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a" * 5000 + "!\n")
    monkeypatch.setattr(searchers, "SECONDS", 1.0)
    with ThreadPoolExecutor(1) as threads:
        before = children()
        waiting = threads.submit(grep, tmp_path, "(a|aa)+$")
        time.sleep(0.3)
        for process in children() | before:
            os.kill(process, signal.SIGKILL)
        assert waiting.result().code == "timeout"  # its own end, in the second process


def test_time_is_that_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the machine does not let run for longer than its limit ends well all the same."""
    (tmp_path / "a.txt").write_text("x\n" * 50_000)
    monkeypatch.setattr(searchers, "SECONDS", 1.0)
    grep(tmp_path, "x")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(grep, tmp_path, "y")
        for process in children():
            os.kill(process, signal.SIGSTOP)
        time.sleep(1.5)
        for process in children():
            os.kill(process, signal.SIGCONT)
        assert waiting.result().output == "[no hits]"


def test_many_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setattr(searchers, "_POOLS", {})
    (tmp_path / "a.txt").write_text("".join(f"line {n}\n" for n in range(64)))
    with ThreadPoolExecutor(64) as threads:
        found = list(threads.map(lambda n: grep(tmp_path, rf"\b{n}$").output, [*range(64)] * 5))
    assert found == [f"a.txt:{n + 1}:line {n}" for n in range(64)] * 5
    assert len(children() - before) <= 4
    for process in children():
        os.kill(process, signal.SIGKILL)
    assert grep(tmp_path, "x").output == "[no hits]"


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    script = (
        "import sys, time; from repo_agent.tools.searchers import search; search('x', [('a', sys.argv[1])], 1);"
        "print('up', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "a.txt")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline()
        (process,) = children(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists()


def test_one_that_does_not_start_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    monkeypatch.setattr(searchers, "_POOLS", {})
    monkeypatch.setattr(searchers, "MEMORY_BYTES", "none")
    with pytest.raises(InfraError, match="does not start"):
        grep(tmp_path, "x")


def test_a_fork_has_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    grep(tmp_path, "x")
    script = (
        "import os, sys; from repo_agent.tools.searchers import search; a = [('a', sys.argv[1])]; search('x', a, 1)\n"
        "pid = os.fork(); word = 'x' if pid else 'y'\n"
        "wrong = sum(search(word, a, 1) != (['a:1:x'] if pid else []) for _ in range(300))\n"
        "sys.exit(wrong or (os.waitpid(pid, 0)[1] if pid else 0))"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "a.txt")]
    assert subprocess.run(words, capture_output=True, text=True, timeout=60).returncode == 0
