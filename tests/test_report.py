"""The report: both files or neither, every link leads somewhere, nothing from a trace becomes markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from test_evaluate import BAD, OK, TUNED, make_run, varied, weak

from repo_agent.errors import UserError
from repo_agent.evaluate.verdict import Comparison
from repo_agent.report.page import compare, render

HOSTILE = "</pre></script><img src=x onerror=alert(1)>{{ 7 * 7 }} & $x^2$"


class Page(HTMLParser):
    """Collects what a browser would see: tags, ids, links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value for key, value in attrs if key in ("href", "xlink:href", "src") and value]


def three_arms(folder: Path, **changes: object) -> list[Path]:
    return [
        make_run(folder / "base", weak(9), passed=False, **changes),
        make_run(folder / "base+constrained", varied(9, 3), constrain=True, **changes),
        make_run(folder / "tuned", [[OK, OK]] * 9, model=TUNED, **changes),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """A comparison of three arms, and its folder `reports/first` beside their `runs`."""
    home = tmp_path_factory.mktemp("report")
    return compare(three_arms(home / "runs"), home / "reports" / "first"), home / "reports" / "first"


def test_the_report_is_one_file_whose_links_lead_somewhere(report: tuple[Comparison, Path]) -> None:
    comparison, out = report
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "report.html"]
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(comparison.to_json()))
    text = (out / "report.html").read_text()
    page = Page(text)
    assert {"script", "img", "link", "iframe", "image"}.isdisjoint(page.tags)
    assert page.tags.count("svg") == 4 and len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids) and {f"task-9-{arm}" for arm in (1, 2, 3)} <= inside
    traces = {(out / unquote(link)).resolve() for link in page.links if not link.startswith("#")}
    assert traces == {path.resolve() for path in (out.parent.parent / "runs").glob("*/traces/*/*.jsonl")}
    assert "http" not in re.sub(r'(xmlns(:\w+)?|PUBLIC)="[^"]*"', "", text)


def test_the_page_opens_with_the_verdict(report: tuple[Comparison, Path]) -> None:
    comparison, out = report
    text = (out / "report.html").read_text()
    assert comparison.verdict.label == "better"
    assert text.index(comparison.verdict.sentence) < text.index("<table")
    assert "no evidence about a real model" in text and "made sloppy on purpose" in text
    assert "lenient (executed or not)" in text and "Leak" not in text
    assert "missing_arg (6)" in text and "bubblewrap" in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """In replies, errors, and the settings of a run; also as a task's name on a plot."""
    runs = three_arms(tmp_path / "runs", text=HOSTILE, contract=HOSTILE)
    compare(runs, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<img" not in text and "</script" not in text and "{{ 7 * 7 }}" in text
    assert "&lt;/pre&gt;&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in text


def test_hostile_task_names_stay_text_and_their_links_hold(tmp_path: Path) -> None:
    name = '<img src="x">/../$a^b$ "q" %2F'
    runs = [make_run(tmp_path / "a", [[BAD]], tasks=[name]), make_run(tmp_path / "b", [[OK]], tasks=[name])]
    compare(runs, tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "img" not in page.tags
    assert all((tmp_path / "out" / unquote(link)).is_file() for link in page.links if not link.startswith("#"))


def test_plots_are_well_formed_take_the_ink_of_the_page_and_repeat(report: tuple[Comparison, Path]) -> None:
    comparison, out = report
    text = (out / "report.html").read_text()
    assert render(comparison, out) == text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
        assert "currentColor" in svg and "#000" not in svg and "<text" in svg


def test_a_report_of_what_was_not_measured(tmp_path: Path) -> None:
    """No scored turn in an arm, owed rollouts, no variance: a page all the same, and never NaN or None."""
    runs = [
        make_run(tmp_path / "base", [[["infra_error"]], [OK], [["final"]]], wanted=2, split="train"),
        make_run(tmp_path / "tuned", [[OK], [OK], []], wanted=2, model=TUNED, split="train"),
    ]
    for allow_owed in (False, True):
        out = tmp_path / f"out{allow_owed}"
        label = compare(runs, out, allow_owed).verdict.label
        assert label == ("inconclusive" if allow_owed else "incomplete")
        text = (out / "report.html").read_text()
        assert not re.search(
            r"\b(nan|NaN|None|null)\b", re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", text, flags=re.S)
        )
        assert "base has no scored turn, hence no validity, on: t00, t02." in text
        assert "training may have seen them" in text and "1 turns ended by our own error" in text
    assert "repo-agent eval --suite micro" in (tmp_path / "outFalse" / "report.html").read_text()


def test_a_rollout_without_a_turn_is_shown_as_it_ended(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "base", [[BAD]]), make_run(tmp_path / "tuned", [[[]]], model=TUNED)]
    compare(runs, tmp_path / "out")
    assert "passed, max_steps, 0 steps" in (tmp_path / "out" / "report.html").read_text()


def test_an_output_folder_that_exists_is_refused_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    runs = three_arms(tmp_path / "runs")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        compare(runs, tmp_path / "out")
    (runs[0] / "run.json").write_text("{}")
    with pytest.raises(UserError, match="lacks"):
        compare(runs, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_leak_stands_in_red_right_below_the_verdict(tmp_path: Path) -> None:
    runs = three_arms(tmp_path / "runs", adapter={"hash": "h", "train_tasks": ["t01", "t02"]})
    compare(runs, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    below = text[text.index('<p class="lead">') :].split("<p ")[2]
    assert below.startswith('class="leak"') and "trained on 2 of these 9 tasks" in below
    assert "train_tasks 2 tasks" in text and "['t01'" not in text


def test_another_base_than_the_tiny_one_is_not_called_sloppy(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [[BAD]], model="local:b"), make_run(tmp_path / "b", [[OK]], model="local:b+t")]
    compare(runs, tmp_path / "out")
    assert "sloppy" not in (tmp_path / "out" / "report.html").read_text()


def test_no_home_folder_in_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs under a home folder, compared from elsewhere; owed rollouts put their path into the next step."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    runs = [make_run(home / name / "a", [[BAD]], arm="same", wanted=2) for name in ("x", "y")]
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    compare(runs, home / "out")
    for name in ("report.html", "comparison.json"):
        text = (home / "out" / name).read_text()
        assert str(home) not in text and "~/x/a" in text
