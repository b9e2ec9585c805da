"""A directory that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repo_agent.errors import UserError


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A sibling folder to fill; it becomes `out` when the block ends well, and is removed when it does not.

    Raises UserError where no folder can be made.
    """
    folder = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise UserError(f"cannot be made ({error.strerror})", str(out), "Choose another place") from error
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
