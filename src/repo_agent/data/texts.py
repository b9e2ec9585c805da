"""Looks through the texts of trajectories for what no row may hold: credentials, special tokens, broken characters.

Each distinct text is looked through once. What is found in a message stands against every turn at or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from repo_agent.data.trajectories import Label, Trajectory
from repo_agent.messages import Message
from repo_agent.secrets import findings

_KNOWN = 20_000
"""Distinct texts whose result is remembered."""


class Texts:
    """Remembers, for one trajectory at a time, the first message in which something was found."""

    def __init__(
        self, allowed: frozenset[str] = frozenset(), spelt: Callable[[str], Sequence[str]] | None = None
    ) -> None:
        self._allowed = allowed
        self._spelt = spelt or (lambda text: ())
        """The special tokens that a text spells."""
        self._turns: Sequence[Label] = ()
        self._replaced: int | None = None
        self._secrets = _Scan(self._secret_in)
        self._tokens = _Scan(lambda text: next((f"spells {token}" for token in self._spelt(text)), ""))
        self._broken = _Scan(lambda text: "" if _is_utf8(text) else "holds half of a character")

    def secret(self, trajectory: Trajectory, turn: Label) -> str:
        """Where a credential is found at or before a turn, or "": its kind, a hash to allow it by, and the message."""
        if trajectory.turns is not self._turns:
            self._turns = trajectory.turns
            self._replaced = next((other.t for other in trajectory.turns if other.redacted), None)
        if self._replaced is not None and turn.t >= self._replaced:
            return f"a credential was replaced when turn {self._replaced} was recorded"
        return self._secrets.before(trajectory, turn)

    def control_token(self, trajectory: Trajectory, turn: Label) -> str:
        """Which special token is spelt at or before a turn, or ""."""
        return self._tokens.before(trajectory, turn)

    def unencodable(self, trajectory: Trajectory, turn: Label) -> str:
        """Where UTF-8 cannot carry a text at or before a turn, or ""."""
        return self._broken.before(trajectory, turn)

    def _secret_in(self, text: str) -> str:
        for found in findings(text):
            hashed = hash_of(text[found.start : found.end])
            if hashed not in self._allowed:
                return f"{found.kind} ({hashed})"
        return ""


def hash_of(value: str) -> str:
    """12 hex digits of the SHA-256 of a finding, to allow it by."""
    return sha256(value.encode(errors="replace")).hexdigest()[:12]


class _Scan:
    def __init__(self, look: Callable[[str], str]) -> None:
        self._look = look
        self._known: dict[tuple[int, int], str] = {}
        self._of: Sequence[Message] | None = None
        self._first: tuple[int, str] | None = None
        self._done = 0

    def before(self, trajectory: Trajectory, turn: Label) -> str:
        """What the first message in which something is found says, up to the turn's own; or ""."""
        messages = trajectory.messages
        if messages is not self._of:
            self._of, self._first, self._done = messages, None, 0
        while self._first is None and self._done < turn.at:
            self._note(self._done, messages[self._done])
            self._done += 1
        if self._first is not None and self._first[0] < turn.at:
            return f"message {self._first[0]}: {self._first[1]}"
        own = self._in(turn.reply)
        return f"message {turn.at}: {own}" if own else ""

    def _note(self, place: int, message: Message) -> None:
        found = self._in(message)
        if found:
            self._first = (place, found)

    def _in(self, message: Message) -> str:
        return next((found for text in _texts(message) if (found := self._of_text(text))), "")

    def _of_text(self, text: str) -> str:
        key = hash(text), len(text)
        if key not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = self._look(text)
        return self._known[key]


def _texts(message: Message) -> Iterator[str]:
    yield message.content
    for call in message.tool_calls:
        yield call.name
        yield from _strings(call.args)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from (key, *_strings(entry))
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
