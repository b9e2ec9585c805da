"""The error tree. Three kinds of trouble are never mixed:

the model's   a turn class and an observation; never an exception of ours
a limit       a normal ending of a rollout
ours          InfraError, attributed to a stage, recorded, rerun later

RepoAgentError
├── UserError      bad input: one line that says what, where and what to do; exit code 2
│   └── NothingLeft every candidate row or pair was filtered out
├── InfraError     something of ours or of a server failed at a named stage
│   └── StoreError the run directory cannot be written: nothing more can be recorded, so the run stops
└── Stopped        the user's own stop, a spent budget or Ctrl-C: what is unfinished is pending
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        line = ". ".join(part.rstrip(".") for part in parts)
        super().__init__(line if line.endswith("?") else f"{line}.")


class NothingLeft(UserError):
    """Every candidate row or pair was filtered out."""


class InfraError(RepoAgentError):
    """A failure of ours or of a server, attributed to a `stage` such as `model`, `tool` or `grade`.

    `resume` says how to go on where that is not the same command.
    """

    def __init__(self, stage: str, cause: str, resume: str = "") -> None:
        self.stage, self.cause, self.resume = stage, cause, resume
        super().__init__(f"{stage}: {cause}")


class StoreError(InfraError):
    """The run directory cannot be written, as on a full disk."""


class Stopped(RepoAgentError):
    """A run ended early because its user said so. `code` is the command's exit code: 3 for a budget, 130 for Ctrl-C.

    `resume` says how to go on where that is not the same command.
    """

    def __init__(self, reason: str, code: int, resume: str = "") -> None:
        self.reason, self.code, self.resume = reason, code, resume
        super().__init__(reason)


@contextmanager
def boundary(stage: str, *passing: type[Exception]) -> Iterator[None]:
    """Turn any unexpected exception inside the block into an InfraError of `stage`.

    The one broad `except` of the package. Errors that are already ours pass unchanged, and so do those of the `passing`
    types. The cause names the line that raised.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (RepoAgentError, *passing)):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        raise InfraError(stage, f"{type(error).__name__}: {error}{where}") from error
