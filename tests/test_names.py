"""What tasks are called comes from strangers: names are confined where they come in, and escaped where they go out."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Play
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_cli import run as cli
from test_evaluate import BAD, OK, make_run
from test_report import Page

from repo_agent.data import card
from repo_agent.data.build import BuildOptions, build
from repo_agent.data.dataset import read_dataset
from repo_agent.errors import UserError
from repo_agent.escape import fit_name, markdown, name_fault, visible
from repo_agent.record.importers import import_logs
from repo_agent.tasks import load_suite
from repo_agent.tasks.humanevalfix import KEYS
from repo_agent.traces.read import read_traces
from repo_agent.traces.store import RunDir

UNSEEN = {
    "line break": "a\nb", "escape": "a\x1b[2J", "C1": "a\x9b", "bidi": "a\u202eb", "half a pair": "a\ud83d", "none": "",
    "long": "a" * 201, "paragraph": "a\u2029b", "tab": "a\tb", "NUL": "a\0", "joiner": "a\u200bb",
}  # fmt: skip
ODD = [
    "a](http://x)", "<img src=x onerror=alert(1)>", "| b |", "`rm -rf`", "*a* _b_ ~~c~~", "1. a", "# a", "- a", "&lt;",
    r"$\frac{$", r"\$", "a_b_c", "www.evil.example", "![x](y)", "[a]: b", "é 漢字", "a" * 200, "{{ 7*7 }}",
]  # fmt: skip


@pytest.mark.parametrize("key", ["id", "group"])
@pytest.mark.parametrize("why", UNSEEN)
def test_a_suite_file_with_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, why: str, key: str) -> None:
    if (key == "group" and why == "none") or why == "half a pair":
        pytest.skip("the group is the id where it is empty; half a pair is no text for the file's reader")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").touch()
    tasks = [{"id": "fine", "repo": "repo", "goal": "g"}, {"id": "t", "repo": "repo", "goal": "g", key: UNSEEN[why]}]
    (tmp_path / "suite.json").write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(UserError, match=r"suite\.json: task n") as caught:
        load_suite(str(tmp_path / "suite.json"))
    shown = str(caught.value)
    assert "number 2" in shown and len(shown) < 400 and visible(shown) == shown and "\n" not in shown


def test_so_it_is_in_every_suite(tmp_path: Path) -> None:
    row = dict.fromkeys(KEYS, "x") | {"task_id": "Python/1\x1b[2J"}
    (tmp_path / "he.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"he\.jsonl: task number 1"):
        load_suite(f"humanevalfix={tmp_path / 'he.jsonl'}")
    for folder in ("python_programs", "correct_python_programs", "python_testcases"):
        (tmp_path / "quix" / folder).mkdir(parents=True)
    for folder, name in (("python_programs", ""), ("correct_python_programs", ""), ("python_testcases", "test_")):
        (tmp_path / "quix" / folder / f"{name}a\x1b[2J.py").touch()
    with pytest.raises(UserError, match="quix: task number 1"):
        load_suite(f"quixbugs={tmp_path / 'quix'}")


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "a b", ""])
def test_a_function_s_name_leads_to_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    row = dict.fromkeys(KEYS, "x") | {"task_id": "Python/1", "entry_point": name}
    (tmp_path / "he.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"he\.jsonl:1: no Python task"):
        load_suite(f"humanevalfix={tmp_path / 'he.jsonl'}")


@given(st.text(), st.text())
def test_a_fit_name_is_a_name_and_tells_names_apart(one: str, other: str) -> None:
    for name in (one, one * 300):
        assert name_fault(fit_name(name)) is None
        assert name_fault(name) or fit_name(name) == name
    assert (fit_name(one) == fit_name(other)) == (one == other)


def test_recorded_and_imported_names_are_made_fit(tmp_path: Path) -> None:
    entries = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "ls", "action": "ls"}]
    (tmp_path / "logs").mkdir()
    for name in ("a\x1b[2J", "a\u202eb", "plain"):
        (tmp_path / "logs" / f"{name}.traj").write_text(json.dumps({"history": entries}))
    import_logs("sweagent", tmp_path / "logs", tmp_path / "run")
    names = {trace.task for trace in read_traces([tmp_path / "run"])[0]}
    assert len(names) == 3 and "plain" in names and all(name_fault(name) is None for name in names)


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


READ = '{"type":"tool_call","name":"read_file","args":{"rel_path":"src/app.py","max_chars":999}}'
FINAL = '{"type":"final","summary":"done"}'
READER = MarkdownIt("gfm-like", {"linkify": False})


def check_cell(name: str) -> None:
    read = Tags(READER.render(card._counts("task", {name: 1})))
    assert read.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert read.cells[0].strip() == " ".join(visible(name).split())
    line = READER.render(f"- train (1): {markdown(name)}")
    assert Tags(line).tags <= {"ul", "li"}
    assert Tags(READER.render(markdown(name))).tags <= {"p"}


@pytest.mark.parametrize("name", [*ODD, *(name for name in UNSEEN.values() if name)])
def test_a_name_is_plain_words_in_markdown(name: str) -> None:
    check_cell(name)


@given(st.text(st.sampled_from("ab1 _*`[]()<>&|~$#+-=!\\.:/{}\"'\n\x1b\t") | st.characters(), min_size=1))
def test_any_name_is(name: str) -> None:
    check_cell(name)


def test_no_bare_link_is_left() -> None:
    assert "://" not in markdown("see http://evil.example") and not re.search(r"www\.", markdown("www.evil.example"))


def test_a_report_takes_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [*ODD[:15], *(name for name in UNSEEN.values() if name and "\ud83d" not in name)]
    runs = [make_run(tmp_path / name, [[turn]] * len(names), tasks=names) for name, turn in (("a$b", BAD), ("b", OK))]
    code, _, err = cli(capsys, "compare", *runs, "--out", tmp_path / "out")
    assert code == 0, err
    text = (tmp_path / "out" / "report.html").read_text()
    assert "img" not in Page(text).tags and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert r"$\frac{$" in text and "a$b" in text


def test_a_card_takes_any_name(tmp_path: Path, tiny_base: Path, play: Play) -> None:
    names = ODD[:12]
    run = RunDir.open(tmp_path / "run", {"train": names, "held_out": [r"$\frac{$ | <b>"]})
    for name in names:
        play(run, name, [READ, FINAL])
    build(BuildOptions([run.path], tokenizer=str(tiny_base)), tmp_path / "data")
    assert set(read_dataset(tmp_path / "data").tasks) == set(names)
    read = Tags(READER.render((tmp_path / "data" / "card.md").read_text()))
    assert {"img", "a", "s", "b"}.isdisjoint(read.tags) and set(names) <= {cell.strip() for cell in read.cells}
