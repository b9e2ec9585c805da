"""A bug or a fix as a suite file gives it: texts, a folder, or a patch, laid over the files of a repository."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from repo_agent.errors import UserError
from repo_agent.sandbox.workspace import Files, put_files, regular_files
from repo_agent.tasks.git import run_outside
from repo_agent.tasks.source import Source, read_content

_RELATIVE = "Give a path relative to the suite file"
MAKE_PATCH = "git diff --relative --no-color --no-ext-diff --src-prefix=a/ --dst-prefix=b/"
"""Whatever the user's own configuration says, diff.noprefix among it."""


@dataclass(frozen=True)
class Change:
    """At most one of the three is given. `name` is `bug` or `fix`."""

    name: str
    texts: dict[str, str] | None = None
    folder: Path | None = None
    patch: Path | None = None

    @property
    def is_given(self) -> bool:
        return any(form is not None for form in (self.texts, self.folder, self.patch))

    def apply(self, files: Files, where: str) -> dict[str, str | bytes]:
        """`files` after the change. Raises UserError where it is given twice, is not there, or does not apply."""
        if sum(form is not None for form in (self.texts, self.folder, self.patch)) > 1:
            forms = f"{self.name}, {self.name}_dir, {self.name}_patch"
            raise UserError(f"more than one of {forms}", where, "Keep one of them")
        if self.texts is not None:
            for name in self.texts:
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts or str(path) != name:
                    raise UserError(f"{self.name} names {name!r}", where, "Name files relative to the repository")
            return {**files, **self.texts}
        if self.folder is not None:
            if not self.folder.is_dir():
                raise UserError("no such folder", f"{where}: {self.folder}", _RELATIVE)
            return {**files, **Source(Path(os.path.realpath(self.folder))).files()}
        return dict(files) if self.patch is None else _patched(files, self.patch, where)


def _patched(files: Files, patch: Path, where: str) -> dict[str, str | bytes]:
    """The files after a unified diff, put on in a temporary copy of those that it may name."""
    if not patch.is_file():
        raise UserError("no such patch", f"{where}: {patch}", _RELATIVE)
    text = patch.read_bytes().decode(errors="replace")
    named = {name: content for name, content in files.items() if name in text or not name.isascii()}
    with tempfile.TemporaryDirectory(prefix="repo-agent-") as folder:
        root = Path(os.path.realpath(folder))
        put_files(root, named)
        _run(patch, root, f"{where}: {patch}", text)
        after = {name: read_content(path) for name, path in regular_files(root)}
    return {name: content for name, content in files.items() if name not in named} | after


def _run(patch: Path, root: Path, where: str, text: str) -> None:
    """By git alone: `patch` hands what looks like a script for `ed` to `ed`, which runs commands."""
    command = ["git", "apply", "--whitespace=nowarn", os.path.realpath(patch)]
    try:
        done = run_outside(command, root)
        turned = done.returncode and not run_outside([*command, "--reverse"], root).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot be applied ({error})", where, "Install git") from error
    if done.returncode:
        if not text.strip():
            raise UserError("is empty", where, "New files need `git add -N` before `git diff`")
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        what = f"does not apply ({said[0] if said else 'git apply failed'})"
        if turned:
            remedy = "Is the change in the repository already (git status)? Else make the patch the other way round"
            raise UserError("applies only in reverse", where, remedy)
        remedy = f"Make it with `{MAKE_PATCH}` in the folder that `repo` names"
        raise UserError(what, where, "Its lines end in CRLF: convert it" if "\r\n" in text else remedy)
