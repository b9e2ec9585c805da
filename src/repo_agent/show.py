"""What a person sees in the terminal: progress bars on stderr, tables and traces on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.table import Table

from repo_agent.tools.verdict import UNSCORED
from repo_agent.traces.events import RunEnd
from repo_agent.traces.trace import Trace, Turn

_CLASS_STYLE = {"ok": "green", "final": "cyan", "exec_error": "yellow", "infra_error": "magenta"}
SHOWN_LINES = 30


class Bar:
    """One progress bar; it appears when it is first told something, so a refused command shows none."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label
        self._task = progress.add_task(label, total=None)
        self._ended: Counter[str] = Counter()

    def count(self, done: int, total: int) -> None:
        """`done` of `total`."""
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def step(self, step: int, total: int, loss: float) -> None:
        """An optimizer step and its loss."""
        self._progress.update(self._task, description=f"{self._label}: loss {loss:.3f}")
        self.count(step, total)

    def start(self, total: int, done: int) -> None:
        """A run of `total` rollouts, `done` of them before."""
        self.count(done, total)

    def end(self, task: str, number: int, end: RunEnd) -> None:
        """One rollout ended; ours that failed are owed again and advance nothing."""
        self._ended["error" if end.ended == "error" else "passed" if end.passed else "failed"] += 1
        said = ", ".join(f"{count} {what}" for what, count in sorted(self._ended.items()))
        advance = 0 if end.ended == "error" else 1
        self._progress.update(self._task, advance=advance, description=f"{self._label}: {said}")


class Show:
    """Prints results. `quiet` leaves out everything but what --json prints."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False, quiet=quiet)

    def line(self, text: str) -> None:
        """One plain line."""
        self._err.print(escape(text), soft_wrap=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        """A progress bar on stderr for what happens inside the block."""
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        progress = Progress(*columns, TimeRemainingColumn(), console=self._err, disable=self.quiet)
        try:
            yield Bar(progress, label)
        finally:
            if progress.live.is_started:
                progress.stop()

    def pairs(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Two columns without a frame."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(f"[bold]{escape(str(name))}[/]", escape(str(value)))
        self._out.print(table)

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of like dicts, keys as the head."""
        table = Table(*rows[0], header_style="bold") if rows else Table()
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        self._out.print(table)

    def validation(self, result: dict[str, Any]) -> None:
        counts = f"{result['fix_passes']} fixes pass, {result['untouched_fails']} untouched fail"
        self._out.print(f"{result['tasks']} tasks: {counts}, {len(result['odd'])} odd")
        if result["odd"]:
            self.table(result["odd"])

    def run(self, out: Path, result: dict[str, Any]) -> None:
        turns = result["turns"]
        scored = sum(count for name, count in turns.items() if name not in UNSCORED)
        validity = f"{turns.get('ok', 0) / scored:.1%} of {scored} turns" if scored else "not measured"
        self.pairs(
            [
                ("rollouts", f"{result['rollouts']}, {result['passed']} passed, {result['owed']} owed"),
                ("valid", validity),
                ("turns", _counts(turns)),
                ("seconds", result["seconds"]),
                ("traces", out),
            ]
        )

    def inventory(self, result: dict[str, Any]) -> None:
        self.pairs(
            [
                ("runs", f"{result['runs']}, {result['passed']} passed"),
                ("turns", _counts(result["turns"])),
                ("kept", f"{result['kept']} rows pass every gate but the split"),
                ("raw text unknown", result["raw_unknown"]),
            ]
        )
        for problem in result["problems"]:
            self._out.print(f"[yellow]![/] {escape(str(problem))}")

    def dataset(self, out: Path, result: dict[str, Any]) -> None:
        self.pairs(
            [
                ("candidates", result["candidates"]),
                *((f"- {gate}", dropped) for gate, dropped in result["funnel"].items()),
                ("rows", f"{result['rows']} steps in {result['merged_rows']} trajectory rows"),
                ("tokens", f"{result['tokens_merged']:,} merged, {result['tokens_steps']:,} as step rows"),
                ("trained tokens", f"{result['trained_tokens']:,}"),
                ("card", out / "card.md"),
            ]
        )
        for problem in result.get("problems", []):
            self._out.print(f"[yellow]![/] {escape(str(problem))}")

    def adapter(self, out: Path, record: Any) -> None:
        losses = [entry["loss"] if isinstance(entry, dict) else entry.loss for entry in record.losses]
        if losses:
            self._out.print(f"loss {losses[0]:.3f} → {losses[-1]:.3f} in {len(losses)} steps")
        self._out.print(f"adapter: {out}")

    def comparison(self, out: Path, result: dict[str, Any], prose: Sequence[str]) -> None:
        """Arms, the differences that decide, and the verdict in words."""
        keys = ("name", "validity", "pass_rate", "mean_calls", "mean_steps", "tasks", "rollouts", "owed")
        self.table([{key: arm[key] for key in keys} for arm in result["arms"]])
        headline = [p for p in result["pairs"] if p["metric"] in ("validity", "pass_rate")]
        self.table([{**pair, "interval": _interval(pair["interval"])} for pair in headline])
        for line in prose:
            self._out.print(escape(line))
        self._out.print(f"report: {escape(str(out / 'report.html'))}")

    def trace(self, trace: Trace) -> None:
        """A whole rollout: turns coloured by class, writes as text, results and tests below."""
        self._out.rule(f"{escape(trace.task)}  rollout {trace.rollout}  {escape(trace.arm or '')}")
        goal = next((m.content for m in (trace.turns[0].context if trace.turns else ()) if m.role == "user"), "")
        self._out.print(escape(goal))
        for turn, following in zip_longest(trace.turns, trace.turns[1:]):
            self._turn(turn)
            seen = following.context[len(turn.context) + 1 :] if following else ()
            self._observed("\n".join(message.content for message in seen) or turn.output or "")
        outcome = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[yellow]not graded[/]"}[trace.passed]
        self._out.rule(f"{escape(trace.ended or 'no end')}: {outcome}")
        for problem in trace.problems:
            self._out.print(f"[yellow]![/] {escape(problem)}")

    def _turn(self, turn: Turn) -> None:
        name = turn.turn_class or "?"
        self._out.print(f"\n[bold]{turn.t}[/] [{_CLASS_STYLE.get(name, 'red')}]{name}[/]", end=" ")
        if turn.call:
            short = {key: value for key, value in turn.call.args.items() if key != "content"}
            self._out.print(f"{escape(turn.call.name)} {escape(str(short))}")
            if "content" in turn.call.args:
                self._out.print(Syntax(_head(str(turn.call.args["content"])), "python", background_color="default"))
        else:
            self._out.print(escape(_head(turn.text if turn.text is not None else turn.reply.content)))

    def _observed(self, text: str) -> None:
        """What came back, its tests in green or red."""
        for line in _head(text).splitlines():
            style = "dim" if "[tests]" not in line else "red" if "passed" not in line or "failed" in line else "green"
            self._out.print(f"[{style}]{escape(line)}[/]")


def _head(text: str) -> str:
    lines = text.splitlines()
    more = [f"… {len(lines) - SHOWN_LINES} more lines"] if len(lines) > SHOWN_LINES else []
    return "\n".join(lines[:SHOWN_LINES] + more)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _interval(value: Any) -> str:
    return "none" if value is None else f"{value[0]:+.3f} to {value[1]:+.3f}"


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
