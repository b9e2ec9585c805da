"""Calls a function with given arguments and reports what it returns, as JSON: the expected values are not here.

{"kind": "ready"}                   from here on, trouble is the tested code's
{"kind": "returned", "value"}       JSON text; tuples, sets and iterators are lists in it
{"kind": "raised", "message"}       one of these two a case, in order
{"kind": "timed_out"}               the last line: the process ends there
{"kind": "error", "message"}        the module or the function cannot be had
{"kind": "end", "sentinel": true}
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable
from typing import Any

from repo_agent.sandbox.child.channel import Channel
from repo_agent.sandbox.child.session import Clock, one_line, silence

MOST_ELEMENTS, MOST_DEPTH = 100_000, 50


def prepare(job: dict[str, Any], channel: Channel, work: str) -> Callable[[], None]:
    """What runs `job["function"]` of `job["module"]` (dotted) on each argument list of `job["arguments"]`."""

    def run() -> None:
        silence()
        Cases(job, channel).run()

    return run


class Cases:
    def __init__(self, job: dict[str, Any], channel: Channel) -> None:
        self._job, self._channel = job, channel
        self._clock = Clock(self._timed_out)

    def run(self) -> None:
        self._clock.arm(self._job["seconds"])
        try:
            function = getattr(importlib.import_module(self._job["module"]), self._job["function"])
        except BaseException as error:
            self._channel.write("error", message=one_line(error))
            self._channel.close("end", sentinel=True)
            return
        for arguments in self._job["arguments"]:
            self._one(function, arguments)
        self._clock.arm(0)
        self._channel.close("end", sentinel=True)

    def _one(self, function: Callable[..., object], arguments: list[object]) -> None:
        self._clock.arm(self._job["seconds"])
        try:
            value = json.dumps(plain(function(*arguments)))
        except BaseException as error:
            self._channel.write("raised", message=one_line(error))
        else:
            self._channel.write("returned", value=value)

    def _timed_out(self, *_: object) -> None:
        self._channel.close("timed_out")


def plain(value: Any, depth: int = MOST_DEPTH) -> Any:
    """The value with tuples, sets and iterators as lists, for JSON. Raises TypeError for what JSON cannot hold."""
    if depth == 0:
        raise TypeError("nested too deep")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(entry, depth - 1) for entry in value)
    if isinstance(value, (list, tuple)) or hasattr(value, "__next__"):
        return [plain(entry, depth - 1) for entry in itertools.islice(value, MOST_ELEMENTS)]
    raise TypeError(f"a {type(value).__name__} is no JSON value")
