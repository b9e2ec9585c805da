"""The command line: what it prints, and that bad input ends in one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from repo_agent.cli import main
from repo_agent.traces.read import read_trace

TEACHER = "eval --suite micro --split held-out --held-out 3 --model oracle --rollouts 2".split()


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of one command, in this process."""
    before, sys.argv = sys.argv, ["repo-agent", *map(str, words)]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return code, said.out, said.err


def result(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    record: dict[str, Any] = json.loads(out)
    return record


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the oracle on train tasks."""
    out = tmp_path_factory.mktemp("cli") / "teacher"
    words = "eval --suite micro --split train --held-out 45 --model oracle --rollouts 2 --out".split()
    subprocess.run([sys.executable, "-m", "repo_agent.cli", *words, str(out)], check=True, capture_output=True)
    return out


def test_an_eval_and_what_it_leaves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = result(capsys, *TEACHER, "--out", out)
    assert (record["rollouts"], record["passed"], record["pending"]) == (6, 6, 0)
    assert record["turns"]["final"] == 6 and record["stopped"] is record["tokens"] is record["cost_usd"] is None
    again = result(capsys, *TEACHER, "--out", out)
    assert again["turns"] == record["turns"]
    trace = read_trace(next(out.glob("traces/*/0.jsonl")))
    assert trace.whole and trace.passed and not trace.problems
    code, said, _ = run(capsys, "show", trace.path)
    assert code == 0 and "GOAL" in said and "write_file" in said and "passed" in said


def test_another_setting_is_another_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = "eval --suite micro --split held-out --held-out 1 --model oracle".split()
    result(capsys, *words, "--out", tmp_path / "run")
    code, _, err = run(capsys, *words, "--max-steps", 9, "--seed", 4, "--out", tmp_path / "run")
    assert code == 2 and "limits, seed" in err and err.count("\n") == 1


def test_build_and_inventory_agree(capsys: pytest.CaptureFixture[str], teacher: Path, tmp_path: Path) -> None:
    counts = result(capsys, "inventory", teacher)
    built = result(capsys, "build", teacher, "--out", tmp_path / "data")
    assert counts["runs"] == counts["passed"] == 6
    assert built["rows"] == counts["kept"] == built["candidates"] - sum(built["funnel"].values())
    assert built["candidates"] == sum(counts["turns"].values())
    assert {"candidates", "funnel", "rows", "merged_rows", "trained_tokens", "tokens_steps", "tokens_merged"} <= set(
        built
    )


def test_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["spec"] for entry in result(capsys, "suite", "list")["suites"]] == [
        "micro[=SEED]", "bundled", "quixbugs=PATH", "humanevalfix=PATH", "file=PATH", "outside=PATH",
    ]  # fmt: skip
    shown = result(capsys, "suite", "show", "bundled")
    assert len(shown["tasks"]) >= 20
    split = result(capsys, "suite", "split", "bundled", "--held-out", 2)
    assert len(split["train"]) + len(split["held_out"]) == len(shown["tasks"])


def _torn(folder: Path, source: Path, edit: str) -> Path:
    folder.mkdir()
    lines = next(source.glob("traces/*/*.jsonl")).read_text().splitlines(keepends=True)
    if edit == "middle":
        lines[3] = lines[3][:20] + "\n"
    elif edit == "missing":
        del lines[3]
    else:
        lines[3] = lines[3].replace('"kind":"', '"kind":"un', 1)
    (folder / "t.jsonl").write_text("".join(lines))
    return folder


EVAL = "eval --suite micro --split all"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval --suite nope --split all --model oracle --out {new}", "unknown suite"),
        ("suite show micro --task micro0-09-sickl", "Known: micro0-09-sickle, "),
        ("suite show bundled --task nope", " more."),
        ("eval --suite quixbugs={tmp} --split all --model oracle --out {new}", "no QuixBugs checkout"),
        ("eval --suite micro --split some --model oracle --out {new}", "--split"),
        ("EVAL --model gpt --out {new}", "no such model"),
        ("EVAL --model local:{tmp}/no --out {new}", "no model there"),
        ("EVAL --model local:tiny+{tmp}/no --out {new}", "no"),
        ("EVAL --model oracle --out {full}", "run directory"),
        ("inventory {tmp}/no", "not there"),
        ("build {middle} --out {new} --no-split", "t.jsonl:4"),
        ("build {missing} --out {new} --no-split", "t.jsonl"),
        ("build {unknown} --out {new} --no-split", "t.jsonl:4"),
        ("build {teacher} --out {full}", "already exists"),
        ("build {teacher} --out {new} --max-length 10", "within_length"),
        ("train {teacher} --base tiny --out {new}", "dataset"),
        ("train {data} --base ./no/model --out {new}", "no model there"),
        ("train {data} --base tiny --out {full}", "already exists"),
        ("train {data} --base tiny --out {new} --rank 0", "--rank"),
        ("train {data} --base tiny --out {new} --backend moon", "--backend"),
        ("compare {teacher} --out {new}", "two run"),
        ("compare {teacher} {full} --out {new}", "run.json"),
        ("show {tmp}/no.jsonl", "no.jsonl"),
        ("suite split micro --held-out 48", "--held-out"),
        ("show {teacher}", "Give one trace file"),
        ("inventory {data}", "no event of a trace"),
        ("audit {data} --html {new}/page.html", "Make it first"),
        ("replay {teacher} --split train --model oracle --out {new}", "no language model"),
        ("replay {teacher} --split held-out --model local:tiny --out {new}", "other side of the split"),
        ("tools {teacher} --out {new}/schema.json", "Make it first"),
        ("build {teacher} --out {full}/file/data", "cannot be made"),
        ("mark {tmp}/no x passed", "`record` or `import`"),
        ("demo --out {full}", "holds no commands.jsonl"),
        ("train {data} --base tiny --out {new} --backend together", "needs a key"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], teacher: Path, tmp_path: Path, words: str, said: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places: dict[str, Path] = {"tmp": tmp_path, "new": tmp_path / "new", "full": tmp_path / "full", "teacher": teacher}
    for edit in ("middle", "missing", "unknown"):
        places[edit] = _torn(tmp_path / edit, teacher, edit)
    if "{data}" in words:
        places["data"] = tmp_path / "data"
        result(capsys, "build", teacher, "--out", tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(capsys, *words.replace("EVAL", EVAL).format(**places).split())
    assert code == 2 and said in err, err
    assert err.startswith("repo-agent: ") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_an_adapter_of_another_contract_is_refused(
    capsys: pytest.CaptureFixture[str], teacher: Path, tmp_path: Path
) -> None:
    result(capsys, "build", teacher, "--out", tmp_path / "data")
    words = ["train", tmp_path / "data", "--base", "tiny", "--epochs", 1, "--lr", "1e-3", "--out", tmp_path / "adapter"]
    assert result(capsys, *words, "--evals", 0)["rows"] == 6
    record = tmp_path / "adapter" / "run_record.json"
    changed = json.loads(record.read_text())
    record.write_text(json.dumps({**changed, "contract": "0" * 16}))
    model = f"local:tiny+{tmp_path / 'adapter'}"
    words = ["eval", "--suite", "micro", "--split", "held-out", "--model", model, "--out", tmp_path / "run"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "0" * 16 in err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_without_doing_anything_twice(tmp_path: Path) -> None:
    words = "eval --suite micro --split train --model oracle --rollouts 2 --jobs 2".split()
    command = [sys.executable, "-m", "repo_agent.cli", *words, "--out"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    seen: dict[Path, float] = {}
    for wanted in (5, 20, 50):
        process = subprocess.Popen([*command, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(broken.glob("traces/*/*.jsonl"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT if wanted == 20 else signal.SIGKILL)
        process.wait()
        finished = {path: path.stat().st_mtime for path in broken.glob("traces/*/*.jsonl")}
        assert seen.items() <= finished.items()
        seen = finished
    for out in (broken, whole):
        subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert seen.items() <= {path: path.stat().st_mtime for path in broken.glob("traces/*/*.jsonl")}.items()
    assert _classes(broken) == _classes(whole) and len(_classes(whole)) == 60
    assert not list(broken.rglob("*.part"))


@pytest.mark.slow
def test_jobs_and_a_kill_change_no_turn_class(tmp_path: Path) -> None:
    words = "eval --suite micro=1 --split held-out --held-out 12 --model local:tiny --rollouts 2".split()
    runs = {jobs: tmp_path / f"jobs-{jobs}" for jobs in (1, 8)}
    for jobs, out in runs.items():
        _finish([*words, "--jobs", str(jobs), "--out", str(out)])
    killed = [*words, "--jobs", "8", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "repo_agent.cli", *killed], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("traces/*/*.jsonl"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _finish(killed)
    assert _classes(runs[1]) == _classes(runs[8]) == _classes(tmp_path / "killed")
    assert len({tuple(classes) for classes in _classes(runs[1]).values()}) > 3


def _finish(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "repo_agent.cli", *words], check=True, capture_output=True)


def _classes(run_dir: Path) -> dict[str, list[str | None]]:
    """Turn classes, in order, of every rollout."""
    traces = {str(path.relative_to(run_dir)): read_trace(path) for path in run_dir.glob("traces/*/*.jsonl")}
    return {name: [turn.turn_class for turn in trace.turns] for name, trace in sorted(traces.items())}
