"""The error tree. Three kinds of trouble are never mixed:

the model's   a turn class and an observation; never an exception of ours
a limit       a normal ending of a rollout
ours          InfraError, attributed to a stage, recorded, owed again

RepoAgentError
├── UserError      bad input: one line that says what, where and what to do; exit code 2
└── InfraError     something of ours or of a server failed at a named stage
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class RepoAgentError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(RepoAgentError):
    """Bad input or a refused action.

    `what` is wrong, `where` (a path, a flag, a line), and the `remedy`: they print as one line.
    """

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        parts = [f"{where}: {what}" if where else what]
        if remedy:
            parts.append(remedy)
        super().__init__(". ".join(part.rstrip(".") for part in parts) + ".")


class InfraError(RepoAgentError):
    """A failure of ours or of a server, attributed to a `stage` such as `model`, `tool` or `grade`."""

    def __init__(self, stage: str, cause: str) -> None:
        self.stage, self.cause = stage, cause
        super().__init__(f"{stage}: {cause}")


@contextmanager
def boundary(stage: str) -> Iterator[None]:
    """Turn any unexpected exception inside the block into an InfraError of `stage`.

    The one broad `except` of the package. Errors that are already ours pass unchanged.
    """
    try:
        yield
    except RepoAgentError:
        raise
    except Exception as error:
        raise InfraError(stage, f"{type(error).__name__}: {error}") from error
