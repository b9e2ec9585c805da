"""Whatever others wrote, no command sends it to a terminal as a sequence or a control character."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress as RichProgress
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text
from test_cli import run as cli
from test_evaluate import BAD, OK, make_run
from upstream import upstream

from repo_agent.cli.show import Show
from repo_agent.cli.terminal import Terminal
from repo_agent.escape import visible, visible_json

EVIL = "A\x1b]52;c;ZXZpbA==\x1b\\B\x1b[2J\x9b31mC\x1b[31mRED\u202eD\x1b]8;;http://evil\x07E\x7fF\x00\u2066\x85\x08"
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r")
"""What Rich writes for colours, bars and the cursor."""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
CLI = [sys.executable, "-m", "repo_agent.cli"]


def in_pty(words: list[str]) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}):
        os.close(theirs)
        out = b""
        while chunk := _read(ours):
            out += chunk
    os.close(ours)
    return out.decode(errors="surrogateescape")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other side is closed
        return b""


def in_pipe(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode(errors="surrogateescape")


def check_clean(out: str) -> None:
    assert not RAW.findall(OURS.sub("", out)), ascii(out)
    assert "\x1b[31mRED" not in out and out.strip()


WAYS: dict[str, Callable[[list[str]], str]] = {"pty": in_pty, "pipe": in_pipe}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, a log, a run, a broken trace and two arms of somebody who means no good."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "repo").mkdir()
    (folder / "repo/m.py").write_text("x = 1\n")
    (folder / f"repo/{EVIL.replace('/', '|').replace(chr(0), '')}.py").write_text("")
    (folder / "repo/test_m.py").write_text(f"import m\ndef test_x():\n    assert m.x == 2, {EVIL!r}\n")
    task = {"id": "t", "repo": "repo", "goal": f"G{EVIL}", "test_cmd": f"sh -c 'printf %s {json.dumps(EVIL[2:30])}'"}
    (folder / "suite.json").write_text(json.dumps({"tasks": [task]}))
    turns = [{"role": role, "content": role + EVIL} for role in ("system", "user", "assistant", "user", "assistant")]
    (folder / "log.jsonl").write_text(json.dumps({"messages": turns, "model": EVIL}) + "\n")
    subprocess.run([*CLI, "import", "openai", str(folder / "log.jsonl"), "--out", str(folder / "run")], check=True)
    (folder / "broken").mkdir()
    (folder / f"broken/x{EVIL.replace('/', '|').replace(chr(0), '')}.jsonl").write_text(f'{{"v":1,"kind":"{EVIL[:1]}\n')
    for name, turn in (("base", BAD), ("tuned", OK)):
        make_run(folder / name, [[turn]] * 6, tasks=[f"t{n}{EVIL}" for n in range(6)], text=EVIL, contract=EVIL)
    return folder


COMMANDS = {
    "suite list": "suite list",
    "suite show": "suite show {0}/suite.json",
    "suite show --json": "suite show {0}/suite.json --json",
    "suite show --task": "suite show {0}/suite.json --task t",
    "suite validate": "suite validate {0}/suite.json --unsafe-local",
    "suite split": "suite split {0}/suite.json",
    "show": "show {0}/run/traces/*/0.jsonl",
    "show, a broken one": "show {0}/broken/*.jsonl",
    "show, one of a run": "show {0}/base/traces/*/0.jsonl",
    "import": "import openai {0}/log.jsonl --out {0}/new-{1}",
    "inventory": "inventory {0}/run {0}/broken",
    "inventory --json": "inventory {0}/run {0}/broken --json",
    "build": "build {0}/run --out {0}/data-{1} --no-split",
    "compare": "compare {0}/base {0}/tuned --out {0}/report-{1}",
    "compare --json": "compare {0}/base {0}/tuned --out {0}/report-json-{1} --json",
    "eval": "eval --suite {0}/suite.json --split train --model oracle --out {0}/{2}-{1} --unsafe-local",
    "a wrong task": "suite show {0}/suite.json --task {2}",
    "a wrong file": "suite show {0}/{2}.toml",
}


def words_of(place: Path, name: str, way: str) -> list[str]:
    words = []
    for word in COMMANDS[name].split():
        full = word.format(place, way, EVIL.replace("/", "|").replace("\0", ""))
        words += sorted(map(str, place.glob(full.removeprefix(f"{place}/")))) if "*" in word else [full]
    return words[:2] if name.startswith("show") else words


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_sends_what_others_wrote(place: Path, name: str) -> None:
    check_clean(in_pty([*CLI, *words_of(place, name, "pty")]))


@pytest.mark.parametrize("name", COMMANDS)
def test_nor_does_one_into_a_pipe(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = cli(capsys, *words_of(place, name, "pipe"))
    check_clean(out + err)


@pytest.mark.parametrize("way", WAYS)
def test_a_server_s_words_are_shown(tmp_path: Path, way: str) -> None:
    body = {"error": {"message": f"no such model {EVIL}", "code": "x"}}
    words = f"eval --suite micro --split held-out --held-out 1 --out {tmp_path / 'run'}".split()
    with upstream(lambda request: {"status": 400, "body": body}) as server:
        out = WAYS[way]([*CLI, *words, "--model", f"openai:m@{server.url}"])
    check_clean(out)
    assert "no such model" in out and "\\x1b]52" in out


def everything(show: Show) -> None:
    """Each kind of thing that is printed."""
    show.line(EVIL)
    show.pairs([(EVIL, EVIL)])
    show.fields({"a": [EVIL, EVIL]})
    show.table([{EVIL: EVIL, "n": None}])
    show.validation({"tasks": 1, "fix_passes": 0, "untouched_fails": 0, "no_fix": 1,
                     "unproven": [{"task": EVIL, "what": EVIL}], "odd": [{"task": EVIL, "what": EVIL}],
                     "warnings": [{"task": EVIL, "what": EVIL}], "cures": [{"cure": EVIL, "tasks": EVIL}]})  # fmt: skip
    show.imported(Path(EVIL), {"rollouts": 1, "files": 1, "turns": {EVIL: 1}, "problems": [EVIL]})
    show.recorded(Path(EVIL), {"line": EVIL})
    with show.recording() as live:
        live.start(EVIL, 1)
        live.update(EVIL, EVIL)
    with show.bar(EVIL) as bar:
        bar.count(1, 2)


def test_everything_that_is_printed_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    everything(Show())
    out, err = capsys.readouterr()
    for text in (out, err):
        check_clean(text)
        assert "\\x1b]52" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_that_rich_prints_passes_by(terminal: bool) -> None:
    file = io.StringIO()
    console = Terminal(file=file, force_terminal=terminal, width=200)
    table = Table(EVIL, title=EVIL, caption=EVIL)
    table.add_row(Text(EVIL, style="red"))
    for one in (EVIL, Text(EVIL), Rule(EVIL), Rule(Text(EVIL)), table, Text.assemble((EVIL, "bold"), EVIL)):
        console.print(one)
    with Status(EVIL, console=console), RichProgress(console=console) as progress:
        progress.add_task(EVIL, total=2)
        console.print(EVIL)
    check_clean(file.getvalue())


@given(st.text())
def test_visible_text_is_the_text_where_nothing_is_hidden(text: str) -> None:
    shown = visible(text)
    assert not RAW.search(shown) and visible(shown) == shown
    assert RAW.search(text) or shown == text
    assert json.loads(visible_json({"text": text}))["text"] == text and not RAW.search(visible_json(text))


def test_tables_are_as_wide_as_what_they_show() -> None:
    file = io.StringIO()
    table = Table("a")
    table.add_row("x\x1b[31m" * 3)
    Terminal(file=file, width=80).print(table)
    lines = file.getvalue().splitlines()
    assert "x\\x1b[31mx\\x1b[31mx\\x1b[31m" in file.getvalue() and len({len(line) for line in lines}) == 1
