"""The report's plots as inline SVG: text stays text, ink takes the page's colour, colours are told apart by all.

Bars, dots and lines use the palette of Okabe and Ito, made for colour-blind readers; every plot also has its numbers
in a table of the page. The same comparison gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import StringIO
from typing import Any, ParamSpec

from repo_agent.escape import visible
from repo_agent.evaluate import metrics
from repo_agent.evaluate.arms import Arm
from repo_agent.evaluate.pairs import Pair
from repo_agent.tools.verdict import LADDER

FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ok": ("#009E73", ("ok",)),
    "executed with an error": ("#56B4E9", ("exec_error",)),
    "wrong arguments": ("#E69F00", ("missing_arg", "unexpected_arg", "wrong_type", "bad_value")),
    "unknown tool": ("#F0E442", ("unknown_tool",)),
    "does not parse": (
        "#D55E00",
        ("truncated", "no_call", "multiple_calls", "wrapped", "json_invalid", "envelope_invalid"),
    ),
    "early final": ("#CC79A7", ("early_final",)),
    "final (not scored)": ("#9A9A9A", ("final",)),
    "our error (not scored)": ("#5C5C5C", ("infra_error",)),
}
"""Families of turn classes, best first: a colour and the classes."""
ARM_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKS = "osD^vP"
_INK = "#000000"
_WIDTH = 5.6
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "repo-agent",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


_P = ParamSpec("_P")


def _drawn(plot: Callable[_P, str]) -> Callable[_P, str]:
    """A plot in our style from its first text to its last: by default a `$` would begin a formula, or an error."""

    @wraps(plot)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return plot(*args, **kwargs)

    return styled


def colour_of(turn_class: str) -> str:
    """The colour of a turn class: its family's."""
    return next((colour for colour, names in FAMILIES.values() if turn_class in names), "#5C5C5C")


@_drawn
def forest(pairs: Sequence[Pair], title: str) -> str:
    """Differences of shares with their 95% intervals, a line a pair; a hollow mark has no interval."""
    shown = [pair for pair in pairs if pair.difference is not None]
    figure, axes = _figure(0.34 * len(shown) + 1.1)
    axes.axvline(0, color=_INK, linewidth=0.8)
    for place, pair in enumerate(reversed(shown)):
        middle = 100 * (pair.difference or 0)
        colour = ARM_COLOURS[0] if pair.clear else "#7F7F7F"
        if pair.interval:
            axes.plot([100 * end for end in pair.interval], [place, place], color=colour, linewidth=2)
        axes.plot(middle, place, "o", color=colour, markerfacecolor=colour if pair.interval else "none")
    labels = [f"{_short(pair.b, 18)} - {_short(pair.a, 18)}: {pair.metric}" for pair in reversed(shown)]
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("points")
    return _svg(figure, "forest", title)


@_drawn
def dots(arms: Sequence[Arm], metric: str, title: str) -> str:
    """The metric of every task in every arm, a line a task; tasks in order of the first arm's value."""
    values = {arm.name: metrics.by_task(arm, metric) for arm in arms}
    first = values[arms[0].name]
    tasks = sorted(first, key=lambda task: (first[task] is None, first[task] or 0, task), reverse=True)
    figure, axes = _figure(0.24 * len(tasks) + 1.3)
    for place, task in enumerate(tasks):
        found = [value for arm in arms if (value := values[arm.name][task]) is not None]
        if found:
            axes.plot([100 * min(found), 100 * max(found)], [place, place], color="#9A9A9A", linewidth=1, zorder=1)
    for number, arm in enumerate(arms):
        points = [
            (100 * value, place) for place, task in enumerate(tasks) if (value := values[arm.name][task]) is not None
        ]
        look = {"color": _arm_colour(number), "marker": MARKS[number % len(MARKS)], "s": 30, "zorder": 2}
        axes.scatter([x for x, _ in points], [y for _, y in points], label=_short(arm.name), **look)
    axes.set_yticks(range(len(tasks)), [_short(task) for task in tasks])
    axes.set_ylim(-0.7, len(tasks) - 0.3)
    axes.set_xlim(-3, 103)
    axes.set_xlabel(f"{metric}, %")
    _legend(figure, len(arms))
    return _svg(figure, "dots", title)


@_drawn
def ladder(arms: Sequence[Arm], title: str) -> str:
    """Share of scored turns past each rung, a group of bars a rung."""
    figure, axes = _figure(2.9)
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        heights = [100 * (metrics.overall(arm, rung) or 0) for rung in LADDER]
        places = [rung - 0.4 + width * (number + 0.5) for rung in range(len(LADDER))]
        axes.bar(places, heights, 0.92 * width, color=_arm_colour(number), label=_short(arm.name))
    axes.set_xticks(range(len(LADDER)), LADDER)
    axes.set_ylim(0, 100)
    axes.set_ylabel("% of scored turns")
    _legend(figure, len(arms))
    return _svg(figure, "ladder", title)


@_drawn
def classes(arms: Sequence[Arm], title: str) -> str:
    """Turns by family of turn class, as shares of all turns, a bar an arm."""
    figure, axes = _figure(0.42 * len(arms) + 1.7)
    totals = [max(1, sum(arm.classes.values())) for arm in arms]
    left = [0.0] * len(arms)
    for family, (colour, names) in FAMILIES.items():
        counts = [sum(arm.classes.get(name, 0) for name in names) for arm in arms]
        if not any(counts):
            continue
        shares = [100 * count / total for count, total in zip(counts, totals, strict=True)]
        axes.barh(range(len(arms)), shares, 0.62, left=left, color=colour, label=family)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(arms)), [_short(arm.name) for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of all turns")
    _legend(figure, 3)
    return _svg(figure, "classes", title)


@_drawn
def rounds(points: Sequence[Any], title: str = "Validity and pass rate of each round") -> str:
    """Both metrics of each arm with their 95% intervals, in the order of the rounds (`rounds.Point`)."""
    figure, axes = _figure(3.2)
    for number, (metric, aside) in enumerate((("validity", -0.08), ("pass_rate", 0.08))):
        values = [(place + aside, getattr(point, metric)) for place, point in enumerate(points)]
        ends = [(x, getattr(point, f"{metric}_interval")) for (x, _), point in zip(values, points, strict=True)]
        known = [(x, 100 * value) for x, value in values if value is not None]
        look = {"color": _arm_colour(number), "marker": MARKS[number], "label": metric.replace("_", " ")}
        axes.plot([x for x, _ in known], [y for _, y in known], linewidth=1, markersize=5, **look)
        for x, interval in ends:
            if interval is not None:
                axes.plot([x, x], [100 * end for end in interval], color=_arm_colour(number), linewidth=2)
    axes.set_xticks(range(len(points)), [_short(point.name, 14) for point in points])
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("%, held-out tasks")
    _legend(figure, 2)
    return _svg(figure, "rounds", title)


def _figure(height: float) -> tuple[Any, Any]:
    """A figure outside pyplot, so that nothing global is touched, and its one set of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.subplots()


def _legend(figure: Any, columns: int) -> None:
    if figure.axes[0].get_legend_handles_labels()[0]:
        look = {"frameon": False, "handlelength": 1.2, "columnspacing": 1.4}
        figure.legend(loc="outside upper left", ncols=min(columns, 3), **look)


def _arm_colour(number: int) -> str:
    return ARM_COLOURS[number % len(ARM_COLOURS)]


def _short(text: str, most: int = 28) -> str:
    """A name as a label: cut, and without what a font cannot show."""
    text = visible(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _svg(figure: Any, name: str, title: str) -> str:
    """The figure as an `<svg>` element to put inline: its own ids, black as currentColor, a title to be read out."""
    import matplotlib

    buffer = StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    text = text.replace(_INK, "currentColor").replace("<text ", '<text fill="currentColor" ')
    return text.replace("<svg ", '<svg role="img" ', 1)
