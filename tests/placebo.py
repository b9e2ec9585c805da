"""A dataset that teaches nothing true: what is trained on it must not look like a cure."""

from __future__ import annotations

import json
import random
from pathlib import Path


def swap_targets(dataset: Path, out: Path) -> Path:
    """The same steps, each a trajectory of its own, with every target moved to another one's context."""
    out.mkdir()
    found = [json.loads(line) for line in (dataset / "trajectories.jsonl").read_text().splitlines()]
    places = [(one, turn) for one in found for turn in one["turns"] if turn["kept"]]
    targets = [one["messages"][turn["at"]] for one, turn in places]
    random.Random(0).shuffle(targets)
    lines = [
        {**one, "id": str(number), "messages": [*one["messages"][: turn["at"]], target], "turns": [turn]}
        for number, ((one, turn), target) in enumerate(zip(places, targets, strict=True))
    ]
    (out / "dataset.json").write_bytes((dataset / "dataset.json").read_bytes())
    (out / "trajectories.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out
