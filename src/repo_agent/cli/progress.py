"""The one line that says how a run of rollouts goes, or a recorder: kept up to date in a terminal, else printed now and
then."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from repo_agent.models import retry
from repo_agent.rollout.meter import Meter
from repo_agent.rollout.runner import Watch
from repo_agent.tools.verdict import UNSCORED
from repo_agent.traces import events

PLAIN_SECONDS = 10.0
"""Between two lines where no terminal is there to rewrite one."""
STOPPING = "stopping: replies under way are waited for, finished rollouts are kept; Ctrl-C again stops at once"


class Progress(Watch):
    """Shows rollouts done, the rate, validity, tokens, cost and the time left, and what keeps a server from answering.
    Nothing before the run starts."""

    def __init__(self, console: Console, label: str) -> None:
        self._console, self._label = console, label
        self._live: Live | None = None
        self._total = self._before = self._done = 0
        self._turns: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._meter: Meter | None = None
        self.last_error = self._trouble = ""
        self._waits = _Told(self._wait)
        self._began = self._printed = time.monotonic()

    def start(self, total: int, done: int, turns: Mapping[str, int], meter: Meter) -> None:
        self._total, self._before, self._meter = total, done, meter
        self._turns.update(turns)
        self._began = self._printed = time.monotonic()
        retry.log.addHandler(self._waits)
        retry.log.setLevel(logging.INFO)
        if self._console.is_terminal and not self._console.quiet:
            live = Live(console=self._console, get_renderable=lambda: Text(self.line()), refresh_per_second=4)
            live.start()
            self._live = live

    def event(self, event: events.Event) -> None:
        if isinstance(event, events.LlmAction):
            self._turns[event.turn_class] += 1
            self._trouble = ""
            if time.monotonic() - self._printed >= PLAIN_SECONDS:
                self._print()

    def end(self, task: str, number: int, end: events.RunEnd) -> None:
        graded = {True: "passed", False: "failed", None: "done"}[end.passed]
        outcome = {"error": "errors", "stopped": "stopped"}.get(end.ended, graded)
        self._ended[outcome] += 1
        self.last_error = end.error if end.ended == "error" else self.last_error
        self._done += end.ended not in ("error", "stopped")

    def stopping(self) -> None:
        self._console.print(STOPPING)

    def close(self) -> None:
        """Leave the last line standing."""
        retry.log.removeHandler(self._waits)
        if self._live:
            self._live.stop()
        elif self._meter and self._total:
            self._print()

    def line(self) -> str:
        """The state in one line."""
        seconds, finished = time.monotonic() - self._began, self._before + self._done
        parts = [f"{self._label}: {finished}/{self._total}"]
        parts += [f"{count} {outcome}" for outcome, count in sorted(self._ended.items())]
        if self._done:
            parts.append(f"{60 * self._done / seconds:.1f}/min")
        scored = sum(count for name, count in self._turns.items() if name not in UNSCORED)
        if scored:
            parts.append(f"valid {self._turns['ok'] / scored:.1%}")
        if self._meter and self._meter.tokens is not None:
            parts.append(f"{short(self._meter.tokens)} tokens")
        if self._meter and self._meter.usd is not None:
            parts.append(f"${self._meter.usd:.4g}")
        if self._done and finished < self._total:
            parts.append(f"ETA {clock((self._total - finished) * seconds / self._done)}")
        if self._trouble:
            parts.append(f"waiting: {self._trouble}")
        return "  ".join(parts)

    def _wait(self, trouble: str) -> None:
        """A request failed and is sent again; at once to be seen, since nothing else moves meanwhile."""
        first, self._trouble = not self._trouble, trouble
        if first or time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        if not self._live:
            self._console.print(Text(self.line()), soft_wrap=True)


class _Told(logging.Handler):
    """Hands on what is logged."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


class Recording:
    """What a recorder says while it runs: a line that is kept up to date in a terminal, warnings everywhere."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status = console, status

    def start(self, base_url: str, recovered: int) -> None:
        """It listens; so many rollouts of a killed recorder were finished first."""
        if recovered:
            self._console.print(f"finished {recovered} rollouts of a recorder that was killed")
        self._console.print(
            f"recording: give your agent the base URL [bold]{escape(base_url)}[/]; Ctrl-C ends", soft_wrap=True
        )
        if self._console.is_terminal:
            self._status.start()

    def update(self, line: str, warning: str | None) -> None:
        self._status.update(escape(line))
        if warning:
            self._console.print(f"[yellow]![/] {escape(warning)}", soft_wrap=True)


def short(count: int) -> str:
    """A count in three digits or so: 950, 12.3k, 4.56M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
