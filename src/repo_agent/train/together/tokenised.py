"""What Together has made of preference pairs, compared after the start: it previews turns alone.

A running job stores what it tokenised, or some of it, and says so by an event. No document tells the form. Read here is
the one that public drafts of Together's SDK read, a packed tar with a dataset as `datasets` saves it (Parquet and JSONL
in its place are read too), with a column of token ids for each turn by the names that are usual for it. Where
something else comes, nothing is compared, and the record says why.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from repo_agent.chat.tokens import IGNORE, Tokens
from repo_agent.data.pair_tokens import TokenPair
from repo_agent.errors import InfraError, UserError
from repo_agent.train.record import Say
from repo_agent.train.together.adapter import opened
from repo_agent.train.together.client import Client, Unsure
from repo_agent.train.together.config import TogetherConfig
from repo_agent.train.together.job import Job, JobFolder
from repo_agent.train.together.preview import other_ids, other_labels
from repo_agent.train.together.rows import Upload

ARCHIVE = "tokenised.archive"
_SIDES = (("chosen", "preferred", "preferred_output"), ("rejected", "non_preferred", "non_preferred_output"))
_IDS = ("input_ids", "token_ids", "ids")
_MOST_BYTES = 2**30
_ENDED = ("completed", "cancelled", "error", "user_error")


class Unreadable(Exception):
    """This version does not know the form; its text says what there is."""


class Turn(NamedTuple):
    """One side of a stored pair, context and turn; `labels` is None where no column of them is there."""

    ids: list[int]
    labels: list[int] | None


@dataclass
class Check:
    """Compares once, as soon as there is something to compare with; called at each look at the job."""

    client: Client
    folder: JobFolder
    job: Job
    upload: Upload[TokenPair]
    tokenizer: Any
    settings: TogetherConfig
    say: Say

    def __call__(self, stored: bool) -> None:
        """`stored`: Together has said that it is there. Raises UserError after it has cancelled a job that trains on
        other tokens."""
        last = self.job.status == "completed"
        if self.job.tokenised is not None or not (stored or last):
            return
        path = self.folder.path / ARCHIVE
        try:
            self.client.patiently("tokenised pairs", lambda: self._download(path), 1.0, tries=4 if last else 1)
            pairs = [pair_of(row) for row in read(path)]
        except Unreadable as error:
            self._not_measured(f"its form is unknown: {error}")
        except (InfraError, UserError) as error:
            if last:
                self._not_measured(str(error))
        else:
            self._judge(pairs)

    def _download(self, path: Path) -> None:
        """The address holds its own permission, so the key is not sent there."""
        import httpx

        told = self.client.api.fine_tuning.retrieve_tokenized_dataset(str(self.job.job_id))
        if told.url.startswith("http:") and not self.client.url.startswith("http:"):
            raise InfraError("tokenised pairs", "their address is not encrypted")
        with httpx.stream("GET", told.url, follow_redirects=True, timeout=60) as answer, path.open("wb") as file:
            if answer.status_code != 200:
                raise Unsure("tokenised pairs", f"their store answered {answer.status_code}")
            for chunk in answer.iter_bytes(2**20):
                file.write(chunk)
                if file.tell() > _MOST_BYTES:
                    raise Unreadable(f"more than {_MOST_BYTES} bytes")

    def _judge(self, pairs: Sequence[tuple[Turn, Turn]]) -> None:
        own = [row.expected for row in self.upload.rows]
        found = [_match(pair, own, self.tokenizer) for pair in pairs]
        other = [number for number, one in enumerate(found) if one is None]
        if other:
            first = f"pair {other[0] + 1}: {nearest(pairs[other[0]], own, self.tokenizer)}"
            self._cancel(f"Together makes other tokens of {len(other)} of {len(pairs)} pairs; {first}")
        faults = [
            f"pair {number}: {fault}" for number, one in enumerate(found, 1) if one and (fault := self._loss(one))
        ]
        if faults and not self.settings.accept_labels:
            self._cancel(f"Together puts the loss on other tokens in {len(faults)} of {len(pairs)} pairs; {faults[0]}")
        tokens = sum(side.length for one in found if one for side, _ in one)
        told = all(turn.labels is not None for pair in pairs for turn in pair)
        made = {"pairs": len(pairs), "tokens": tokens, "other_labels": len(faults) if told else None}
        loss = "where the loss lies was not told" if not told else f"other labels in {len(faults)}"
        self.say(f"tokenised there: {len(pairs)} pairs, {tokens:,} tokens, ids equal here and there; {loss}")
        self._save(made)

    def _loss(self, match: Sequence[tuple[Tokens, Turn]]) -> str:
        faults = (other_labels(own, turn.labels, self.tokenizer) for own, turn in match if turn.labels is not None)
        return next(filter(None, faults), "")

    def _not_measured(self, why: str) -> None:
        self.say(f"not measured: nothing was compared of what Together has tokenised. {why}")
        self._save({"pairs": None, "why": why})

    def _save(self, made: dict[str, Any]) -> None:
        self.job.tokenised = made
        self.folder.save(self.job)

    def _cancel(self, what: str) -> None:
        """Nothing is put on record before the job is cancelled: a run that is killed here compares again."""
        name, ended = str(self.job.job_id), self.job.status in _ENDED
        if not ended:
            self.client.patiently("cancel", lambda: self.client.api.fine_tuning.cancel(name), 1.0)
        done = f"the job {'is' if ended else 'was'} {self.job.status if ended else 'cancelled'}"
        remedy = "Is --base the very model that the job begins with, with its chat template?"
        raise UserError(f"{what}; {done}, its completed steps are billed", f"{name} at Together", remedy)


def read(archive: Path) -> list[dict[str, Any]]:
    """The stored rows. Raises Unreadable."""
    import pyarrow

    rows: list[dict[str, Any]] = []
    names: list[str] = []
    try:
        with opened(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                names.append(member.name)
                parse = _FILES.get(Path(member.name).suffix)
                source = tar.extractfile(member)
                if parse is None or source is None:
                    continue
                if member.size > _MOST_BYTES:
                    raise Unreadable(f"{member.name} has {member.size} bytes")
                rows += parse(source.read())
    except (tarfile.TarError, pyarrow.ArrowException, ValueError, OSError, EOFError) as error:
        raise Unreadable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not rows:
        raise Unreadable(f"no rows in {', '.join(names[:5]) or 'an empty archive'}")
    return rows


def _arrow(data: bytes) -> list[dict[str, Any]]:
    import pyarrow.ipc

    found: list[dict[str, Any]] = pyarrow.ipc.open_stream(data).read_all().to_pylist()
    return found


def _parquet(data: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet

    found: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    return found


def _jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


_FILES: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    ".arrow": _arrow, ".parquet": _parquet, ".jsonl": _jsonl,
}  # fmt: skip


def pair_of(row: dict[str, Any]) -> tuple[Turn, Turn]:
    """A row's two turns, each with its context. Raises Unreadable."""
    flat = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{inner}": one for inner, one in value.items()}
    turns = [_turn(flat, words) for words in _SIDES]
    if turns[0] is None or turns[1] is None:
        raise Unreadable(f"columns {', '.join(sorted(row))}")
    return turns[0], turns[1]


def _turn(row: dict[str, Any], words: Sequence[str]) -> Turn | None:
    for word in words:
        ids = _ids(row, word)
        if ids is None:
            continue
        prompt = _ids(row, "prompt") or []
        before = [] if ids[: len(prompt)] == prompt else prompt
        labels, mask = row.get(f"{word}_labels"), row.get(f"{word}_attention_mask")
        ids = [*before, *ids]
        if isinstance(labels, list):
            labels = [*[IGNORE] * (len(ids) - len(labels)), *labels]
        if isinstance(mask, list):
            kept = [at for at, one in enumerate([*[1] * (len(ids) - len(mask)), *mask][: len(ids)]) if one]
            ids, labels = [ids[at] for at in kept], labels and [labels[at] for at in kept]
        return Turn(ids, labels if isinstance(labels, list) else None)
    return None


def _ids(row: dict[str, Any], word: str) -> list[int] | None:
    for end in _IDS:
        value = row.get(f"{word}_{end}")
        if isinstance(value, list) and all(isinstance(one, int) for one in value):
            return value
    return None


def _match(pair: tuple[Turn, Turn], own: Sequence[TokenPair], tokenizer: Any) -> list[tuple[Tokens, Turn]] | None:
    """The pair of ours that a stored one is, side by side; they may be stored in another order."""
    for mine in own:
        sides = list(zip(mine, pair, strict=True))
        if all(turn.ids[: side.length] == side.input_ids and not _more(side, turn, tokenizer) for side, turn in sides):
            return sides
    return None


def _more(own: Tokens, turn: Turn, tokenizer: Any) -> str:
    """Words after our last token, where no label says that they carry no loss: the loss may lie on them."""
    if turn.labels is not None:
        return ""
    return str(tokenizer.decode(turn.ids[own.length :], skip_special_tokens=True)).strip()


def nearest(pair: tuple[Turn, Turn], own: Sequence[TokenPair], tokenizer: Any) -> str:
    """The first difference from the pair of ours that it shares most with."""

    def shared(mine: TokenPair) -> int:
        return sum(_shared(side.input_ids, turn.ids) for side, turn in zip(mine, pair, strict=True))

    best = max(own, key=shared)
    for name, side, turn in zip(("preferred", "not preferred"), best, pair, strict=True):
        theirs = SimpleNamespace(input_ids=turn.ids, labels=turn.ids, truncated=False)
        if fault := other_ids(side, theirs, tokenizer):
            return f"{name}: {fault}"
        if more := _more(side, turn, tokenizer):
            return f"{name}: token {side.length} and what follows are {more[:40]!r}, here it ends"
    raise AssertionError


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
