"""A training run at Together that is killed anywhere: the same command with --resume ends with one job and one adapter.

Each case kills the real command with SIGKILL while one request is under way, before or after the server has done what
it asks for, and then gives the command again. No file holds the key, then or later.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import run
from test_together import CREATE, DOWNLOAD, KEY, PAUSE, Case, archive, case, dataset, server  # noqa: F401
from together_server import TogetherServer

from repo_agent.errors import InfraError
from repo_agent.train.record import read_record
from repo_agent.train.together.job import JobFolder

STAGES: dict[str, tuple[str, Any, str, int, int]] = {
    # what is killed: the request that hangs, how, the stage on record then, and afterwards all uploads and all posts
    "upload, before it is known": ("POST /v1/files", "hang", "prepared", 1, 1),
    "upload, address told": ("POST /v1/files", ("after", "hang"), "prepared", 1, 1),
    "upload, bytes on the way": ("PUT /moved/ID", "hang", "prepared", 2, 1),
    "upload, bytes there": ("PUT /moved/ID", ("after", "hang"), "prepared", 1, 1),
    "upload, being read": ("POST /v1/files/ID/preprocess", ("after", "hang"), "prepared", 1, 1),
    "validation": ("GET /v1/files/ID", "hang", "uploaded", 1, 1),
    "preview": ("POST /v1/fine-tunes/preview", "hang", "validated", 1, 1),
    "price": ("POST /v1/fine-tunes/estimate-price", "hang", "previewed", 1, 1),
    "create, no job made": (CREATE, "hang", "creating", 1, 2),
    "create, job made": (CREATE, ("after", "hang"), "creating", 1, 1),
    "follow, state": ("GET /v1/fine-tunes/ID", "hang", "created", 1, 1),
    "follow, events": ("GET /v1/fine-tunes/ID/events", "hang", "created", 1, 1),
    "follow, metrics": ("GET /v1/fine-tunes/ID/metrics", "hang", "created", 1, 1),
    "checkpoints": ("GET /v1/fine-tunes/ID/checkpoints", "hang", "completed", 1, 1),
    "download, address": (DOWNLOAD, "hang", "completed", 1, 1),
    "download, bytes": ("GET /storage/ID", "hang", "completed", 1, 1),
}
QUICK = ("create, no job made", "create, job made")


def words(case: Case, *more: str) -> list[str]:  # noqa: F811
    given = f"--base {case.base} --out {case.out} --backend together --together-model Tiny/Base-Instruct --yes"
    settings = f"--rank 8 --alpha 16 --lr 2e-4 --epochs 2 --together-poll-seconds {PAUSE}"
    return ["train", str(case.dataset), *given.split(), *settings.split(), *more]


def keyless(folder: Path) -> bool:
    return not any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def killed(server: TogetherServer, case: Case, *more: str) -> str:  # noqa: F811
    """Run the command until a request hangs, and kill it; returns what it printed."""
    command = [sys.executable, "-m", "repo_agent.cli", *words(case, *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout
        hangs = server.reached.wait(240)
        one.kill()
        said = one.stdout.read()
    assert hangs, said
    server.release.set()
    return said


@pytest.mark.parametrize(
    "stage", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STAGES]
)
def test_killed_and_resumed_there_is_one_job_and_one_adapter(
    server: TogetherServer,  # noqa: F811
    case: Case,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    route, fault, reached, uploads, posts = STAGES[stage]
    server.faults[route] = [fault]
    said = killed(server, case)
    folder = JobFolder(case.out)
    assert folder.read().stage == reached and not case.out.exists()
    assert KEY not in said and keyless(case.out.parent)

    code, _, error = run(capsys, *words(case))
    assert code == 2 and "is under way" in error and len(server.jobs) <= 1
    code, out, error = run(capsys, *words(case, "--resume", "--json"))
    assert code == 0, error
    assert len(server.jobs) == 1 and server.asked(CREATE) == posts and server.asked("PUT /upload/ID") == uploads
    assert json.loads(out) == read_record(case.out).model_dump(mode="json") and not folder.path.exists()
    assert KEY not in out + error and keyless(case.out.parent)


def test_killed_after_the_adapter_is_whole(server: TogetherServer, case: Case) -> None:  # noqa: F811
    """The job's folder is the last thing to go: where both are there, only it is removed."""
    folder, kept = JobFolder(case.out), case.out.with_name("kept")
    right, server.archive = server.archive, b"no archive"
    with pytest.raises(InfraError, match="cannot be unpacked"):
        case.train()
    shutil.copytree(folder.path, kept)
    server.archive = right
    record = case.train(resume=True)
    kept.rename(folder.path)
    asked = len(server.requests)
    assert case.train(resume=True) == record and not folder.path.exists() and len(server.requests) == asked


def test_a_dying_server_is_waited_for_and_the_job_not_lost(
    server: TogetherServer,  # noqa: F811
    case: Case,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After many failed looks the command gives up; the job goes on, and --resume follows it."""
    monkeypatch.setattr("repo_agent.train.together.follow._TOLERATED", 0)
    server.faults["GET /v1/fine-tunes/ID"] = [503] * 5
    with pytest.raises(InfraError, match=r"ft-1 keeps running at Together and is billed.*--resume"):
        case.train()
    case.train(resume=True)
    assert len(server.jobs) == 1
