"""git, asked about a stranger's files: nothing that a repository configures is run, nothing is fetched.

A repository can name commands in its configuration (hooks, filters, a file-system monitor, the upload-pack of a remote)
and can make git want one of them: a missing object is fetched from a "promisor" remote. So no transport is allowed, the
monitor and hooks are off, a folder that is itself laid out like a repository (which a plain clone can bring along) is
not taken for one, and git's own rule says whose repositories are read at all: the user's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from repo_agent.errors import UserError

SECONDS = 60.0
_OFF = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "safe.bareRepository=explicit", "protocol.allow=never")
_NO_FETCH = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
_NO_REPOSITORY = {
    "GIT_DIR": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
}
_ALL = "set ignored = true to take every file"


def known_to_git(root: Path) -> frozenset[str] | None:
    """What git tracks below `root` or would add, in submodules too, and the folders on the way.

    None where `root` is in no repository or ignored by the one around it, or git is not installed. Raises UserError
    where git cannot say.
    """
    top = _asked(root, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    if os.path.realpath(os.fsdecode(top).rstrip("\n")) != str(root) and _asked(root, "check-ignore", str(root)):
        return None
    listed = _asked(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or b""
    # A name with a slash at its end is another repository inside, or another checkout of this one.
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name and not name.endswith(b"/")}
    for name in [name for name in names if (root / name).is_dir() and not (root / name).is_symlink()]:
        inside = Path(os.path.realpath(root / name))
        if root in inside.parents:  # a link on the way may lead back
            names |= {f"{name}/{below}" for below in known_to_git(inside) or ()}
    return frozenset(names | {parent.as_posix() for name in names for parent in Path(name).parents} - {"."})


def run_outside(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    """A git command in a folder of files that strangers wrote, which git takes for no repository, whatever it holds.

    Without the user's own settings. Raises OSError where there is no git, TimeoutExpired.
    """
    env = _environment(_NO_REPOSITORY)
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
    )


def _asked(root: Path, *words: str) -> bytes | None:
    """What a git command prints; None where there is no git, or no repository."""
    switches = [word for setting in _OFF for word in ("-c", setting)]
    command = ["git", "--no-pager", "-C", str(root), *switches, *words]
    try:
        done = subprocess.run(
            command,
            env=_environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"git cannot be asked ({error})", str(root), _ALL.capitalize()) from error
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode <= 1:
        return done.stdout
    if "not a git repository" in said or "must be run in a work tree" in said:
        return None
    raise _no_answer(root, said or f"exit code {done.returncode}")


def _no_answer(root: Path, said: str) -> UserError:
    remedy = _ALL.capitalize()
    if "dubious ownership" in said:
        remedy = (
            f"It belongs to another user. If you trust it: git config --global --add safe.directory PATH; or {_ALL}"
        )
    return UserError(f"git cannot list its files ({said.splitlines()[0]})", str(root), remedy)


def _environment(more: dict[str, str]) -> dict[str, str]:
    """Without the caller's own words to git, which could point elsewhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return kept | _NO_FETCH | {"LC_ALL": "C"} | more
