"""The report: both files or neither, every link leads somewhere, nothing from a trace becomes markup."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from made_runs import BAD, OK, TUNED, make_run, varied, weak
from test_cli import run as cli

from repo_agent.errors import UserError
from repo_agent.evaluate.comparison import Comparison
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
    assert text.index(comparison.sentence) < text.index("<table")
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


@pytest.mark.parametrize(("wanted", "label"), [(1, "not_measured"), (2, "unfinished")])
def test_a_report_of_what_was_not_measured(tmp_path: Path, wanted: int, label: str) -> None:
    """No scored turn in an arm, pending rollouts, no variance: a page all the same, and never NaN or None."""
    base = [[["infra_error"]], [["final"]] if wanted == 1 else [OK], *[[["final"]]] * 5]
    runs = [
        make_run(tmp_path / "base", base, wanted=wanted, split="train"),
        make_run(tmp_path / "tuned", [[OK], [OK], *[[OK] if wanted == 1 else []] * 5], wanted=wanted, model=TUNED,
                 split="train"),
    ]  # fmt: skip
    out = tmp_path / "out"
    assert compare(runs, out).verdict.label == label
    text = (out / "report.html").read_text()
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", text, flags=re.S)
    assert not re.search(r"\b(nan|NaN|None|null)\b", bare.replace("adapter unknown", ""))
    assert "base has no scored turn, hence no validity, on: t00," in text
    assert "training may have seen them" in text and "1 turns ended by our own error" in text
    assert ("repo-agent eval --suite micro" in text) == (label == "unfinished")


ODD = '{"type":"tool_call","name":"grep","args":{"\ud83d":"\ud83d"}}'
FORMULA = r"sum-$\frac{$-of"


def test_what_utf8_or_a_font_cannot_carry_stops_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate in what a model wrote, and a task whose id looks like a formula that does not end."""
    tasks = [FORMULA, *(f"t{t}\x1b[1m\x00" for t in range(6))]
    runs = [
        make_run(tmp_path / name, [[turns]] * 7, tasks=tasks, text=ODD, **more)
        for name, turns, more in (("base", BAD, {}), ("tuned", OK, {"model": TUNED}))
    ]
    code, said, err = cli(capsys, "compare", *runs, "--out", tmp_path / "out")
    assert code == 0 and "Better" in said, err
    text = (tmp_path / "out" / "report.html").read_text()
    assert "sum-$\\frac{$-of" in text and r"&#34;\ud83d&#34;:&#34;\ud83d&#34;" in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    code, said, err = cli(capsys, "compare", *runs, "--out", tmp_path / "again", "--json")
    assert code == 0 and json.loads(said) == json.loads((tmp_path / "again" / "comparison.json").read_text()), err


@pytest.mark.parametrize("name", ["tuned", "Qwen/Qwen2.5-Coder-7B-Instruct-with-a-very-long-name+constrained"])
def test_terminal_tables_fit_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    runs = three_arms(tmp_path)
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | {"arm": name + run.name}))
    code, said, _ = cli(capsys, "compare", *runs, "--out", tmp_path / "out")
    tables = said[: said.index("Better")]
    assert code == 0 and max(map(len, tables.splitlines())) <= 80
    assert re.search(r"validity +\+[\d.]+ +\+[\d.]+ to \+[\d.]+ +0\.0039", tables), tables
    assert "…" not in tables


def test_a_p_below_the_draws_is_a_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        make_run(tmp_path / "base", weak(18), passed=False), make_run(tmp_path / "tuned", [[OK, OK]] * 18, model=TUNED)
    ]  # fmt: skip
    code, said, _ = cli(capsys, "compare", *runs, "--out", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert code == 0 and "< 0.0001" in said and "<td>&lt; 0.0001</td>" in text and "e-05" not in said + text


def test_both_metrics_stand_in_the_verdict_with_their_intervals(report: tuple[Comparison, Path]) -> None:
    comparison, out = report
    box = (out / "report.html").read_text().split('<section class="verdict better"')[1].split("</section>")[0]
    for line in (comparison.sentence, *comparison.evidence, comparison.recommendation, comparison.step.text):
        assert line.replace("'", "&#39;").replace("<", "&lt;") in box
    assert re.search(r"Pass rate: \+100\.0 points \(95% interval \+100\.0 to \+100\.0; p = ", box)


def test_sixty_tasks_and_several_arms_take_seconds(tmp_path: Path) -> None:
    """About 3 s on two idle cores."""
    runs = [
        make_run(tmp_path / f"arm{number}", varied(60, number), model=f"local:tiny+{number}", arm=f"arm{number}")
        for number in range(1, 6)
    ]
    started = time.monotonic()
    comparison = compare(runs, tmp_path / "out")
    assert len(comparison.pairs) == 10 * 9 and time.monotonic() - started < 60


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
    """Runs under a home folder, compared from elsewhere; pending rollouts put their path into the next step."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    runs = [make_run(home / name / "a", [[BAD]], arm="same", wanted=2) for name in ("x", "y")]
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    compare(runs, home / "out")
    for name in ("report.html", "comparison.json"):
        text = (home / "out" / name).read_text()
        assert str(home) not in text and "~/x/a" in text
