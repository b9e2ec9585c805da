"""Benchmarks that nobody runs here for their figures: that they run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "train_7b.py"


@pytest.mark.slow
def test_the_benchmark_of_training_runs_at_a_tiny_shape(tmp_path: Path) -> None:
    """A machine with a GPU is rare: what it is lent for must not fail at the first line."""
    words = ["--steps", "2", "--suite", "micro=0", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["trl"]["trained_tokens"] == found["ours"]["trained_tokens"] > 0
    assert found["token_ratio"] > 1.2 and found["ours"]["generated_tokens"] == 8
    assert len(found["most_time"]) == 3 and 0 < sum(found["most_time"].values()) <= 1
    for arm in (found["trl"], found["ours"]):
        assert (
            arm["tokens_per_second"] > 0
            and arm["epoch_seconds"] > 0
            and arm["mfu_6n"] == pytest.approx(1.5 * arm["mfu_4n"])
        )
