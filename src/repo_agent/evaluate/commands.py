"""Commands that a comparison gives to paste, with the real names of what is there already."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repo_agent.evaluate.arms import Arm, shown
from repo_agent.models.resolve import parts

ROLLOUTS, SAMPLES = 4, 4
"""Of each train task, and in each context, where the model's own bad turns are looked for."""


def eval_command(arm: Arm, **changes: Any) -> str:
    """The command that plays an arm's pending rollouts: the one that made its run, rebuilt from run.json. `changes` of
    its options make another run of it."""
    record, limits = arm.record, arm.record["limits"]
    if arm.replayed:
        return _replay_command(arm)
    options: dict[str, Any] = {"suite": record["suite"], "split": record["split"], "model": record["model"]}
    options["out"] = shown(arm.path)
    options["held-out"] = record["held_out_groups"]
    options |= {"protocol": record["protocol"], "rollouts": record["rollouts"], "seed": record["seed"]}
    named = ("observation_chars", "read_chars", "max_steps", "max_bad_turns", "tests")
    options |= _model_options(record) | {"intro": record.get("intro")}
    options |= {key: limits[key] for key in named if key in limits}
    switches = {"stop-on-pass": limits.get("stop_on_pass"), "isolated-io": record.get("isolated_io")}
    switches["unsafe-local"] = record.get("isolation") == "unsafe-local"
    return _command(record, "eval", [], options | changes, switches)


def preference_commands(arm: Arm) -> tuple[str, ...]:
    """From a tuned arm to one that is also trained on preferences, and the comparison of both; none where the adapter
    is not in this machine's process, or its rollouts are no live ones."""
    _, base, adapter = parts(arm.record["model"])
    if arm.kind != "local" or not adapter or arm.replayed or arm.recorded or arm.record["constrain"]:
        return ()
    home, name = _home(arm)
    played, again, better = (arm.path.with_name(f"{name}-{what}") for what in ("train", "train-again", "dpo"))
    pairs, trained = home / "pairs" / name, f"{adapter.rstrip('/')}-dpo"
    sampled = _model_options(arm.record) | {"split": "train", "model": arm.record["model"], "samples": SAMPLES}
    sampled |= {key: arm.record["limits"].get(key) for key in ("observation_chars", "read_chars")}
    return (
        eval_command(arm, split="train", rollouts=ROLLOUTS, out=shown(played)),
        _words("replay", [shown(played)], sampled | {"out": shown(again)}),
        _words("pairs", [shown(played), shown(again)], {"tokenizer": base, "out": shown(pairs)}),
        _words("train", [shown(pairs)], {"base": base, "method": "dpo", "adapter": adapter, "out": trained}),
        eval_command(arm, model=f"local:{base}+{trained}", out=shown(better)),
        _words("compare", [shown(arm.path), shown(better)], {"out": shown(home / "reports" / f"{name}-dpo")}),
    )


def _home(arm: Arm) -> tuple[Path, str]:
    """The folder beside whose runs, datasets and reports the arm's run is, and its own name."""
    parent = arm.path.parent
    return (parent.parent if parent.name == "runs" else parent), arm.path.name


def _replay_command(arm: Arm) -> str:
    record, limits = arm.record, arm.record["limits"]
    options: dict[str, Any] = {"model": record["model"], "out": shown(arm.path), "split": record["split"]}
    options |= record["split_from"] | {key: record[key] for key in ("contexts", "samples", "seed")}
    options |= _model_options(record) | {key: limits[key] for key in ("observation_chars", "read_chars")}
    return _command(record, "replay", record["runs"], options, {})


def _model_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """How the model was asked, beside its name."""
    sampling = {key: record["sampling"].get(key) for key in ("temperature", "max_tokens")}
    return sampling | {"adapter": record.get("adapter_dir"), "tools": (record.get("tools") or {}).get("module")}


def _command(
    record: Mapping[str, Any], name: str, words: Sequence[str], options: dict[str, Any], switches: dict[str, Any]
) -> str:
    flags = [f"--{flag}" for flag, on in ({"constrain": record["constrain"]} | switches).items() if on]
    return _words(name, words, options, flags)


def _words(name: str, words: Sequence[str], options: Mapping[str, Any], flags: Sequence[str] = ()) -> str:
    """A command as a shell takes it; options without a value are left out."""
    given = [(f"--{key.replace('_', '-')}", str(value)) for key, value in options.items() if value is not None]
    return " ".join(["repo-agent", name, *map(_quoted, [*words, *(word for pair in given for word in pair), *flags])])


def _quoted(word: str) -> str:
    """A word for the shell; a ~/ at its start stays bare, since quoted it would not be the home folder."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)
