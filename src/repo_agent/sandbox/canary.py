"""Which layer holds on this machine: each is tried on a program that behaves and on one that does not."""

from __future__ import annotations

import compileall
import shutil
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path

from repo_agent.errors import InfraError, UserError
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import CHILD, LAYERS, UNSAFE, Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.results import Grade
from repo_agent.sandbox.watch import Bounds
from repo_agent.sandbox.workspace import Workspace

PROGRAM = "def good():\n    return 1\n\n\ndef bad():\n    return 2\n"
TESTS = """import os, socket, subprocess, sys
import pytest
from program import bad, good


def test_good_passes():
    assert good() == 1


def test_bad_fails():
    assert bad() == 1


def test_a_process_starts():
    assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True, check=True).stdout == b"7\\n"


def test_no_write_outside():
    with pytest.raises(OSError):
        open({outside!r}, "w")


def test_no_read_outside():
    with pytest.raises(OSError):
        open({secret!r})


def test_modes_inside_alone():
    open("own", "w").close()
    os.chmod("own", 0o600)
    assert os.stat("own").st_mode & 0o777 == 0o600
    with pytest.raises(OSError):
        os.chmod({secret!r}, 0o777)


def test_no_connection():
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", {port}), timeout=1).close()
"""
BOUNDS = Bounds(wall_seconds=300.0)
"""So much that a layer is not given up because the machine is busy."""
REMEDY = "Install bubblewrap (apt-get install bubblewrap), allow user namespaces, or accept the risk: --unsafe-local"


def choose(unsafe_local: bool = False) -> Isolation:
    """The best layer that works here, tried once a process.

    Raises UserError with what was wrong with each where none works, unless `unsafe_local` allows limits alone.
    """
    reasons = []
    for name in LAYERS:
        reason = fault(name)
        if not reason:
            return Isolation(name)
        reasons.append(f"{name}: {reason}")
    if unsafe_local:
        return Isolation(UNSAFE)
    raise UserError(f"code that a model wrote cannot be contained here ({'; '.join(reasons)})", "sandbox", REMEDY)


@cache
def fault(name: str) -> str:
    """What is wrong with a layer on this machine; "" where it holds."""
    if sys.platform != "linux":
        return "this is no Linux"
    missing = {"bubblewrap": "bwrap", "namespaces": "unshare"}.get(name, "sh")
    if shutil.which(missing) is None:
        return f"there is no {missing}"
    compileall.compile_dir(CHILD, quiet=2)
    try:
        return _tried(Isolation(name))
    except InfraError as error:
        return error.cause
    except UserError as error:
        return error.what
    except ImportError:
        return "there is no libseccomp (apt-get install libseccomp2)"


def _tried(layer: Isolation) -> str:
    with (
        tempfile.TemporaryDirectory(prefix="repo-agent-canary-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        outside, secret = Path(folder, "outside"), Path(folder, "secret")
        secret.write_text("secret")
        Path(folder).chmod(0o777)
        text = TESTS.format(outside=str(outside), secret=str(secret), port=listener.getsockname()[1])
        job = TestJob(tests=("test_program.py",), pristine={"test_program.py": text}, test_seconds=30.0, bounds=BOUNDS)
        with Workspace({"program.py": PROGRAM}) as workspace:
            result = grade_now(workspace.root, job, layer)
        return _judged(result) or ("a file was written outside" if outside.exists() else "")


def _judged(result: Grade) -> str:
    if (result.passed, result.failed) == (6, 1) and "test_bad_fails: AssertionError: assert 2 == 1" in result.output:
        return ""
    return result.output.replace("\n", "; ")
