"""Leak guards: near-duplicate programs on both sides of a split, and a fix that is the reference word for word."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repo_agent.tasks.task import Split, Suite, Task, as_text

SHINGLE = 5
"""Tokens of one shingle."""
NEAR = 0.5
"""Similarity from which a pair is reported."""
_BLANK = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT})
Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Near:
    """Two tasks on different sides of a split, and how alike their programs are, from 0 to 1."""

    train: str
    held_out: str
    similarity: float


def compare_sides(suite: Suite, split: Split) -> list[Near]:
    """Every pair of a train and a held-out task that share a shingle, most alike first.

    Similarity is the Jaccard index of the programs' shingles: runs of five tokens, names kept, comments left out.
    """
    shingles = {task.id: program_shingles(task) for task in suite.tasks}
    pairs = ((train, held, shingles[train], shingles[held]) for train in split.train for held in split.held_out)
    found = [Near(train, held, len(a & b) / len(a | b)) for train, held, a, b in pairs if not a.isdisjoint(b)]
    return sorted(found, key=lambda near: (-near.similarity, near.train, near.held_out))


def program_shingles(task: Task) -> Shingles:
    """Shingles of the files that the fix changes, fixed; of every file that is not restored where no fix is known."""
    own = {name: content for name, content in task.files.items() if name not in task.put_back}
    texts = [as_text(content) for name, content in (task.fix or own).items() if name.endswith(".py")]
    return frozenset().union(*map(_shingles, texts))


def verbatim(task: Task, root: Path) -> bool | None:
    """Whether every file of the task's fix stands in the workspace as the reference has it, but for white space at the
    ends of lines; None where no fix is known."""
    if task.fix is None:
        return None
    return all(_is_text(root / name, text) for name, text in task.fix.items())


def _is_text(path: Path, text: str) -> bool:
    return path.is_file() and _trimmed(as_text(path.read_bytes())) == _trimmed(text)


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


@lru_cache(maxsize=4096)  # tasks over one repository share most of their files
def _shingles(text: str) -> Shingles:
    """Runs of SHINGLE tokens; a shorter text is one run."""
    tokens = list(_tokens(text))
    if not tokens:
        return frozenset()
    return frozenset(tuple(tokens[at : at + SHINGLE]) for at in range(max(1, len(tokens) - SHINGLE + 1)))


def _tokens(text: str) -> Iterator[str]:
    """The tokens of Python source as far as it can be read."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in _BLANK and token.string:
                yield token.string
    except (tokenize.TokenError, SyntaxError):
        return
