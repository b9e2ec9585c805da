"""Which runs may be compared: same work, settings, tools and protocol. What may differ is said beside the verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repo_agent.errors import UserError
from repo_agent.evaluate.arms import Arm, is_recorded, load_arm, shown
from repo_agent.evaluate.recorded import matched, recorded_arm
from repo_agent.traces.store import TOOLS, RunDir

SAME_IN_ALL_ARMS = ("kind", "suite_hash", "tasks", "rollouts", "seed", "protocol", "limits", "sampling", "isolated_io")


def load_arms(run_dirs: Sequence[Path]) -> tuple[Arm, ...]:
    """Read the runs to compare, in the order given, under names that differ.

    Raises UserError for fewer than two runs, the same run twice, an unreadable run, or runs that are not comparable.
    """
    if len(run_dirs) < 2:
        raise UserError("a comparison needs at least two runs", "compare", "Give two run directories or more")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise UserError("the same run directory is given twice", "compare", "Give each run once")
    arms = [recorded_arm(path) if is_recorded(RunDir(path).record) else load_arm(path) for path in run_dirs]
    if all(arm.recorded for arm in arms):
        arms = matched(arms)
    comparable(arms)
    count = Counter(arm.name for arm in arms)
    arms = [replace(arm, name=f"{arm.name} ({arm.path.name})") if count[arm.name] > 1 else arm for arm in arms]
    count = Counter(arm.name for arm in arms)
    return tuple(replace(arm, name=f"{arm.name} in {shown(arm.path)}") if count[arm.name] > 1 else arm for arm in arms)


def comparable(arms: Sequence[Arm]) -> None:
    """Raise a UserError that names what differs, where arms did not do the same work under the same settings.

    Model, constraint and system prompt are what arms may differ in; arms of one model, in the seed too.
    """
    first, free = arms[0], {"seed"} if same_model(arms) else set()
    if all(arm.recorded for arm in arms):
        free |= {"rollouts", "limits", "sampling", "kind"}  # unknown, or said beside the figures
    for arm in arms[1:]:
        keys = [key for key in SAME_IN_ALL_ARMS if key not in free]
        differing = [line for key in keys for line in _differences(key, _setting(first, key), _setting(arm, key))]
        differing += _other_tools(first, arm)
        if differing:
            remedy = "Run both arms with the same settings"
            raise UserError(f"not comparable: {'; '.join(differing)}", f"{first.path}, {arm.path}", remedy)


def same_model(arms: Sequence[Arm]) -> bool:
    """Whether all arms play the very same model the same way: a null comparison."""
    played = [(arm.record["model"], arm.record["constrain"], arm.record.get("adapter")) for arm in arms]
    return all(one == played[0] for one in played)


def _setting(arm: Arm, key: str) -> Any:
    value = arm.record.get(key)
    if key == "limits" and value:  # older runs name a clock, which ends no rollout any more
        return {name: limit for name, limit in value.items() if name != "max_seconds"}
    return value


def _other_tools(a: Arm, b: Arm) -> list[str]:
    """What differs in the tools of two arms, and in the module that holds them."""
    left, right = a.record.get(TOOLS), b.record.get(TOOLS)
    if left is None or right is None:
        same = a.record.get("contract") == b.record.get("contract")
        return [] if same else ["contract (system prompt, tools or protocol: a run is too old to say which)"]
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    differing = [
        f"tool {name} ({'another schema' if name in left and name in right else f'only in the {side}'})"
        for name in names
        for side in ["first" if name in left else "second"]
    ]
    code = [(arm.record.get("tools") or {}).get("hash") for arm in (a, b)]
    return differing or (["tools (another module, or changed in between)"] if code[0] != code[1] else [])


def _differences(key: str, left: Any, right: Any) -> list[str]:
    """What differs under `key`, a line each, down to the setting."""
    if key == "tasks":
        left, right = sorted(left), sorted(right)
    if left == right:
        return []
    if isinstance(left, dict) and isinstance(right, dict):
        inner = sorted({*left, *right})
        return [line for name in inner for line in _differences(f"{key}.{name}", left.get(name), right.get(name))]
    if isinstance(left, list):
        return [f"{key} ({len(set(left) - set(right))} only in the first, {len(set(right) - set(left))} in the second)"]
    return [f"{key} ({json.dumps(left)} and {json.dumps(right)})"]
