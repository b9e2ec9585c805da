"""A reply that comes as a stream of chunks, put together as tolerant clients do: servers number calls in many ways."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from repo_agent.messages import content_text
from repo_agent.record.wire import Reply, calls_of, finish_reason_of, first_choice, reasoning_of, usage_of

_DONE = b"[DONE]"


def is_stream(body: bytes) -> bool:
    """Whether a body is a stream of events, whatever its label says."""
    return body.lstrip()[:1] not in (b"{", b"[")


def read_stream(body: bytes) -> Reply:
    """A stream of chunks, put together. Raises ValueError where it broke off or holds an error."""
    text: list[str] = []
    thoughts: list[str] = []
    calls = _Calls()
    finish: str | None = None
    done = False
    usage: tuple[int | None, int | None] = (None, None)
    for chunk in _events(body):
        if chunk is None:
            done = True
            continue
        if chunk.get("error"):
            raise ValueError(f"the stream holds an error: {json.dumps(chunk['error'])}")
        usage = usage_of(chunk) if isinstance(chunk.get("usage"), dict) else usage
        choice = first_choice(chunk) or {}
        delta = choice.get("delta") or {}
        text.append(content_text(delta.get("content")))
        thoughts.append(reasoning_of(delta))
        for part in calls_of(delta):
            calls.grow(part)
        finish = finish_reason_of(choice) or finish
    if finish is None and not done:
        raise ValueError("the stream broke off")
    return Reply("".join(text), calls.whole(), finish, *usage, reasoning="".join(thoughts))


def _events(body: bytes) -> Iterable[dict[str, Any] | None]:
    """The chunks of a stream; None for its end."""
    for line in body.splitlines():
        data = line.strip().removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
        if data == _DONE:
            yield None
        elif data:
            record = json.loads(data)
            if isinstance(record, dict):
                yield record


class _Calls:
    """The calls so far. One begins where an id comes that was not there before, or a name where the last call of that
    place is complete; every other delta belongs to the call with its id, else to the last one of its index."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._index: list[Any] = []
        self._custom: set[int] = set()

    def whole(self) -> list[dict[str, Any]]:
        """All of them; what a custom tool takes is one text."""
        return [
            {**call, "arguments": {"input": call["arguments"]}} if place in self._custom else call
            for place, call in enumerate(self.found)
        ]

    def grow(self, part: dict[str, Any]) -> None:
        """Take one delta in."""
        function = part.get("function") or part.get("custom") or {}
        said = function.get("arguments", function.get("input"))
        call = self._call(part.get("id"), part.get("index"), function.get("name"), said)
        name = function.get("name") or ""
        if "custom" in part:
            self._custom.add(self.found.index(call))
        call["name"] += "" if name == call["name"] else name
        if not isinstance(said, str) and said is not None and call["arguments"] == "":
            call["arguments"] = said
        elif said:
            before = call["arguments"]
            before = before if isinstance(before, str) else json.dumps(before)
            call["arguments"] = before + (said if isinstance(said, str) else json.dumps(said))

    def _call(self, id: Any, index: Any, name: Any, said: Any) -> dict[str, Any]:
        place = next((n for n, call in enumerate(self.found) if id and call.get("id") == id), None)
        if place is None:
            same = [n for n, own in enumerate(self._index) if index is None or own == index]
            place = same[-1] if same else None
            if place is not None and (self._another(place, id) or self._complete(place, id, name, said)):
                place = None
        if place is None:
            place = len(self.found)
            self.found.append({"name": "", "arguments": ""})
            self._index.append(index)
        if id and isinstance(id, str):
            self.found[place]["id"] = id
        return self.found[place]

    def _another(self, place: int, id: Any) -> bool:
        return bool(id) and "id" in self.found[place]

    def _complete(self, place: int, id: Any, name: Any, said: Any) -> bool:
        """Whether a delta with a name and arguments comes after a whole call."""
        before = self.found[place]["arguments"]
        if not name or not said or (id and "id" not in self.found[place]):
            return False
        try:
            return isinstance(json.loads(before) if isinstance(before, str) else before, dict)
        except (ValueError, RecursionError):
            return False
