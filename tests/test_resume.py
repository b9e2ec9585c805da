"""Runs that are killed, stopped, shared or out of disk: whole traces, nothing twice, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import FINAL, GREP, LIST, serving

from repo_agent.traces import events
from repo_agent.traces.read import read_events, read_trace
from repo_agent.traces.store import RunDir

pytestmark = pytest.mark.slow
RUN = "eval --suite micro --split train --rollouts 4 --jobs 8 --tests never --max-tokens 99".split()
"""30 tasks, 120 rollouts."""


def command(model: str, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "repo_agent.cli", *RUN, "--model", model, "--out", str(out), *words]


def start(model: str, out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(model, out, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(out: Path, traces: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("traces/*/*.jsonl"))) < traces and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def whole(out: Path) -> dict[str, tuple[int, bytes]]:
    """Every whole trace: its inode and content."""
    traces = RunDir(out).traces()
    return {str(path.relative_to(out)): (path.stat().st_ino, path.read_bytes()) for path in traces}


def check_whole(out: Path, count: int) -> None:
    """As many whole traces, each of a rollout of its own, nothing else under traces/."""
    traces = [read_trace(path) for path in RunDir(out).traces()]
    assert len(traces) == len({(trace.task, trace.rollout) for trace in traces}) == count
    assert all(trace.whole and not trace.problems and len(trace.turns) == 3 for trace in traces)
    assert not list(out.rglob("*.part")) and len(RunDir(out).rows()) == count


def seeds_of(out: Path) -> dict[tuple[str, int | None], int]:
    """The seed of each whole rollout."""
    starts = [read_events(path)[0][0] for path in RunDir(out).traces()]
    return {(one.task, one.rollout): one.seed for one in starts if isinstance(one, events.RunStart)}


def test_killed_twenty_times_nothing_is_lost_or_done_again(tmp_path: Path) -> None:
    rng, out, seen = random.Random(20), tmp_path / "run", dict[str, tuple[int, bytes]]()
    with serving(tmp_path, (LIST, GREP, FINAL), "--latency", "0.2") as server:
        kills = 0
        while kills < 20:
            process = start(server.model, out, "--json")
            if kills % 4:  # the moment hangs on the work done, not on the speed of the machine
                wait_for(out, len(seen) + rng.randint(0, 3), process)
                time.sleep(rng.uniform(0, 0.2))
            else:
                time.sleep(rng.uniform(0.1, 1.0))
            assert process.poll() is None, process.communicate()
            kills += 1
            process.send_signal(signal.SIGKILL)
            process.communicate()
            finished = whole(out)
            assert seen.items() <= finished.items()
            seen = finished
        time.sleep(2)  # what the last kill left under way is answered and logged
        before = server.asked()
        done = subprocess.run(command(server.model, out, "--json"), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        after = server.asked()
    assert seen.items() <= whole(out).items()
    check_whole(out, 120)
    # The last run asked for three replies of each pending rollout, and for none besides.
    assert (after - before).total() == 3 * (120 - len(seen))
    # Every reply that was paid for and recorded counts, those of killed rollouts too.
    recorded = sum(b'"kind":"llm_action"' in line for path in out.rglob("*.jsonl") for line in path.open("rb"))
    assert 360 <= recorded <= after.total() and RunDir(out).spent()
    print(f"\n20 kills, {len(seen)} whole before the last run, {after.total()} requests, {recorded} replies recorded")


def test_two_processes_share_a_run_and_do_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(tmp_path, (LIST, GREP, FINAL), "--latency", "0.05") as server:
        both = [start(server.model, out) for _ in range(2)]
        ends = [(process.communicate(timeout=200), process.returncode) for process in both]
        asked = server.asked()
    check_whole(out, 120)
    assert asked.total() == 360 and set(asked.values()) == {1}
    assert all(code == 0 or "claimed by another process" in said[1] for said, code in ends), ends


def test_ctrl_c_waits_for_replies_and_keeps_what_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(tmp_path, (LIST, GREP, FINAL), "--latency", "0.5") as server:
        process = start(server.model, out)
        wait_for(out, 4, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "stopping:" in err and "same command resumes" in err, err
        assert "Traceback" not in err and not list(out.rglob("*.part"))
        # Every reply that the server sent is recorded.
        recorded = sum(b'"kind":"llm_action"' in line for path in out.rglob("*.jsonl") for line in path.open("rb"))
        assert recorded == server.asked().total()
        stopped = [read_events(path)[0][-1] for path in out.glob("errors/*/*.jsonl")]
        assert stopped and {end.ended for end in stopped if isinstance(end, events.RunEnd)} == {"stopped"}


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serving(tmp_path, (LIST, FINAL), "--latency", "60") as server:
        process = start(server.model, out)
        deadline = time.monotonic() + 30
        while len(list(out.glob("traces/*/*.part"))) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=55)
        assert process.returncode == 130 and time.monotonic() - began < 50 and "Traceback" not in err, err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 192 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_said_and_the_run_goes_on_once_there_is_space(small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "run"
    with serving(tmp_path) as server:
        full = subprocess.run(command(server.model, out), capture_output=True, text=True, check=False)
        assert full.returncode == 1 and "No space left" in full.stderr and "make space" in full.stderr, full.stderr
        assert "Traceback" not in full.stderr
        kept = whole(out)
        assert 0 < len(kept) < 120 and all(read_trace(path).whole for path in RunDir(out).traces())
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        again = subprocess.run(command(server.model, out), capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    assert kept.items() <= whole(out).items()
    check_whole(out, 120)
    shutil.rmtree(out)
