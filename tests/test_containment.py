"""Programs that break out, use the machine up or stay behind; each is judged by its effects outside."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import ATTACKS, attacked, leftovers, sandboxed

from repo_agent.sandbox import canary
from repo_agent.sandbox.isolate import LAYERS, Isolation

QUICK = {"double fork and setsid", "8 GB in one process", "10 GB of files", "home folder", "TCP", "write outside"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ATTACKS])
def test_the_default_layer_holds(name: str) -> None:
    layer = canary.choose(unsafe_local=True)
    if layer.name not in LAYERS:
        pytest.skip("this machine gives no layer of isolation")
    assert attacked(name, layer).why == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_holds(name: str, layer: str) -> None:
    if reason := canary.fault(layer):
        pytest.skip(reason)
    assert attacked(name, Isolation(layer)).why == ""


ENDLESS = """import sys
sys.path.insert(0, sys.argv[1])
from attacks import Forgery, forged
from repo_agent.sandbox.isolate import Isolation
forged(Forgery("import time\\nwhile True:\\n    time.sleep(0.1)\\n"), Isolation(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "layer", [LAYERS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in LAYERS[1:]), "unsafe-local"]
)
def test_nothing_outlives_us_when_we_are_killed(layer: str) -> None:
    if layer in LAYERS and (reason := canary.fault(layer)):
        pytest.skip(reason)
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(Path(__file__).parent), layer])
    _until(lambda: len(sandboxed()) > 1)
    process.kill()
    process.wait()
    _until(lambda: not leftovers())


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)
