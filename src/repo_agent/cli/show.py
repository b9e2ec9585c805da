"""What a person sees in the terminal: progress bars on stderr, tables and traces on stdout."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from repo_agent.cli.progress import Progress as RolloutProgress
from repo_agent.cli.progress import Recording, short
from repo_agent.cli.terminal import Terminal
from repo_agent.cli.view import view
from repo_agent.data.audit import Audit
from repo_agent.tools.verdict import UNSCORED
from repo_agent.traces.trace import Trace


class Bar:
    """One progress bar; it appears when it is first told something, so a refused command shows none."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label
        self._task = progress.add_task(label, total=None)

    def count(self, done: int, total: int) -> None:
        """`done` of `total`."""
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def step(self, step: int, total: int, loss: float, tokens_per_second: float | None = None) -> None:
        """An optimizer step, its loss, and how fast it was."""
        speed = "" if tokens_per_second is None else f", {short(round(tokens_per_second))} tokens/s"
        self._progress.update(self._task, description=f"{self._label}: loss {loss:.3f}{speed}")
        self.count(step, total)


class Show:
    """Prints results. `quiet` leaves out everything but what --json prints."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._out = Terminal()
        self._err = Terminal(stderr=True, quiet=quiet)

    def line(self, text: str) -> None:
        """One plain line."""
        self._err.print(escape(text), soft_wrap=True)

    def asking(self) -> Callable[[str], bool] | None:
        """What puts a question to the user; None where nobody is there to answer."""
        if self.quiet or not sys.stdin.isatty():
            return None
        return lambda question: self._err.input(f"{escape(question)} (y/N) ").strip().lower() in ("y", "yes")

    @contextmanager
    def bar(self, label: str, *, of_bytes: bool = False) -> Iterator[Bar]:
        """A progress bar on stderr for what happens inside the block; `of_bytes`: it counts them."""
        count = DownloadColumn() if of_bytes else MofNCompleteColumn()
        columns = [TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn()]
        progress = Progress(*columns, TimeRemainingColumn(), console=self._err, disable=not self._err.is_terminal)
        try:
            yield Bar(progress, label)
        finally:
            if progress.live.is_started:
                progress.stop()

    @contextmanager
    def rollouts(self, label: str) -> Iterator[RolloutProgress]:
        """The line on stderr that says how the rollouts inside the block go."""
        progress = RolloutProgress(self._err, label)
        try:
            yield progress
        finally:
            progress.close()

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """A line on stderr that follows a recorder."""
        status = Status("nothing yet", console=self._err)
        try:
            yield Recording(self._err, status)
        finally:
            status.stop()

    def recorded(self, out: Path, result: dict[str, Any]) -> None:
        self._out.print(escape(result["line"]), soft_wrap=True)
        self._out.print(f"traces: {escape(str(out))}", soft_wrap=True)

    def imported(self, out: Path, result: dict[str, Any]) -> None:
        self.pairs(
            [
                ("rollouts", f"{result['rollouts']}, of {result['files']} files"),
                ("turns", _counts(result["turns"])),
                ("traces", out),
            ]
        )
        self._problems(result)

    def pairs(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Two columns without a frame."""
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(f"[bold]{escape(str(name))}[/]", escape(str(value)))
        self._out.print(table)

    def fields(self, record: dict[str, Any]) -> None:
        """A record, a field a line; a list an entry a line, an empty one none."""
        self.pairs(
            (name, "\n".join(value) if isinstance(value, list) else value)
            for name, value in record.items()
            if value != []
        )

    def table(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of like dicts, keys as the head."""
        table = Table(*rows[0], header_style="bold") if rows else Table()
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        self._out.print(table)

    def validation(self, result: dict[str, Any]) -> None:
        counts = f"{result['fix_passes']} fixes pass, {result['untouched_fails']} untouched fail"
        self._out.print(f"{result['tasks']} tasks: {counts}, {len(result['odd'])} odd")
        if result["no_fix"]:
            self._out.print(f"note: without a fix: {result['no_fix']}; is this how their tests should fail?")
            self.table([{"task": one["task"], "untouched": one["what"]} for one in result["unproven"]])
        if result["odd"]:
            self.table(result["odd"])
        for one in result["cures"]:
            self._out.print(f"perhaps: {one['cure']} ({one['tasks']})")
        if result["warnings"]:
            self._out.print("warnings; they change nothing of what was graded:")
            self.table([{"task": one["task"], "warning": one["what"]} for one in result["warnings"]])

    def run(self, out: Path, result: dict[str, Any]) -> None:
        turns, cost = result["turns"], result["cost_usd"]
        tokens = "not reported" if result["tokens"] is None else f"{result['tokens']:,}"
        self.pairs(
            [
                ("rollouts", f"{result['rollouts']}, {result['passed']} passed, {result['pending']} pending"),
                ("valid", _validity(turns)),
                ("turns", _counts(turns)),
                ("tokens", tokens if cost is None else f"{tokens}, {cost:.4f} USD"),
                ("seconds", result["seconds"]),
                ("traces", out),
            ]
        )

    def replayed(self, out: Path, result: dict[str, Any]) -> None:
        turns = result["turns"]
        left_out = _counts(result["left_out"])
        self.pairs(
            [
                ("contexts", f"{result['contexts']} of {result['tasks']} tasks"),
                ("next calls", f"{result['rollouts']}, {result['pending']} pending"),
                ("valid", _validity(turns)),
                ("turns", _counts(turns)),
                (
                    "executed",
                    f"calls run in {result['runnable']} of them" if result["runnable"] else "no: judged alone",
                ),
                *([("turns left out", left_out)] if result["left_out"] else []),
                ("seconds", result["seconds"]),
                ("traces", out),
            ]
        )
        self._problems(result)

    def inventory(self, result: dict[str, Any]) -> None:
        self.pairs(
            [
                ("runs", f"{result['runs']}, {result['passed']} passed, {result['unknown']} unknown"),
                ("valid", _validity(result["turns"])),
                ("turns", _counts(result["turns"])),
                ("kept", f"{result['kept']} rows pass the gates that need neither split nor texts nor tokens"),
                ("raw text unknown", result["raw_unknown"]),
                *([("schema unchecked", _counts(result["unchecked"]))] if result["unchecked"] else []),
            ]
        )
        self._problems(result)

    def dataset(self, out: Path | None, result: dict[str, Any]) -> None:
        """The funnel, and what was made; `out` is None where nothing was written."""
        prompts = result["prompts"]
        ran = f"{prompts['equal']} equal, {prompts['different']} different, {prompts['not_recorded']} not recorded"
        ran += f", {prompts['other_tokenizer']} of another tokenizer" if prompts["other_tokenizer"] else ""
        self.pairs(
            [
                ("candidates", f"{result['candidates']} turns"),
                *((f"- {gate}", dropped) for gate, dropped in result["funnel"].items()),
                ("step rows", f"{result['rows']}, in {result['merged_rows']} trajectory rows"),
                ("tokens", f"{result['tokens_merged']:,} merged, {result['tokens_steps']:,} as step rows"),
                ("trained tokens", f"{result['trained_tokens']:,}"),
                ("prompts as they ran", ran),
                ("near duplicates", _near(result["near_duplicates"])),
                *(
                    [("home folders", f"{result['homes']} trajectories name one: --rewrite-home")]
                    if result["homes"]
                    else []
                ),
                *([("card", out / "card.md"), ("audit", out / "audit.html")] if out else []),
            ]
        )
        self._problems(result)

    def _problems(self, result: dict[str, Any]) -> None:
        for problem in result.get("problems", []):
            self._out.print(f"[yellow]![/] {escape(str(problem))}", soft_wrap=True)

    def preferences(self, out: Path | None, result: dict[str, Any]) -> None:
        self.pairs(
            [
                ("bad turns", result["candidates"]),
                *((f"- {gate}", dropped) for gate, dropped in result["funnel"].items() if dropped),
                ("pairs", f"{result['pairs']} of {result['tasks']} tasks"),
                *((f"{what}: {name}", n) for what in ("chosen", "rejected") for name, n in result[what].items()),
                ("tokens", ", ".join(f"{count:,} {part}" for part, count in result["tokens"].items())),
                *([("card", out / "card.md")] if out else []),
            ]
        )
        self._problems(result)

    def audit(self, found: Audit) -> None:
        """A look through a dataset."""
        for name, task, tokens in found.rows:
            self._out.print(Rule(escape(f"{task}  {name}")))
            self._out.print(
                Text.assemble(*((token.text, "bold green" if token.trained else "dim") for token in tokens))
            )
        kinds = [
            {
                "turn": name,
                "turns": kind.turns,
                "tokens": kind.tokens,
                "first": _few(kind.first),
                "last": _few(kind.last),
            }
            for name, kind in found.kinds.items()
        ]
        self.table(kinds)
        self.table([{"gate": gate, "why": why, "turns": count} for (gate, why), count in found.reasons.items()])

    def lines(self, lines: Iterable[str]) -> None:
        """Plain lines of a result."""
        for line in lines:
            self._out.print(escape(line), soft_wrap=True)

    def comparison(self, out: Path, tables: Sequence[Table], prose: Sequence[str]) -> None:
        """Arms, the differences that decide, and the verdict in words; a command stays on one line."""
        self._out.print(*tables)
        for line in prose:
            self._out.print(escape(line), soft_wrap=line.startswith("repo-agent "))
        self._out.print(f"report: {escape(str(out / 'report.html'))}", soft_wrap=True)

    def trace(self, trace: Trace) -> None:
        """A whole rollout; see `view`."""
        for part in view(trace):
            self._out.print(part)


def _validity(turns: Mapping[str, int]) -> str:
    """Of turns by class."""
    scored = sum(count for name, count in turns.items() if name not in UNSCORED)
    return f"{turns.get('ok', 0) / scored:.1%} of {scored} turns" if scored else "not measured"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _few(texts: Counter[str]) -> str:
    return ", ".join(f"{text!r}" for text, _ in texts.most_common(3))


def _near(pairs: int | None) -> str:
    return "not checked, see the card" if pairs is None else f"{pairs} across the split"


def _cell(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
