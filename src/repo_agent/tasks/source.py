"""The files of a user's repository, for workspaces: read, never touched, and without what a workspace must not hold.

Left out: version control and what git ignores, caches, packages of node, virtual environments (a folder with
pyvenv.cfg), compiled Python, `.env` and its like (keys), run and dataset directories of ours (their traces hold fixes),
links that lead outside, what gives answers away (`Answers`), and what the suite file excludes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from repo_agent.errors import UserError
from repo_agent.tasks.git import known_to_git

MAX_FILES, MAX_BYTES = 10_000, 50_000_000
_VERSIONS, _CACHES = ".git .hg .svn", "__pycache__ .pytest_cache .mypy_cache .ruff_cache .hypothesis .tox .nox"
LEFT_OUT = frozenset(f"{_VERSIONS} {_CACHES} .eggs node_modules .env .DS_Store".split())
"""Names of files and folders, wherever they stand."""
_EXAMPLES = (".example", ".sample", ".template", ".dist")


@dataclass(frozen=True)
class Answers:
    """What gives a bug or a fix away, and how copies of it are known in another checkout."""

    places: frozenset[Path] = frozenset()
    """The suite file, its patches and its folders of fixes, with every link resolved."""
    suite: Path = Path()
    """A folder called as the suite file's and with a file called as it is one of its copies; not the root, and not one
    with tests."""
    contents: frozenset[bytes] = frozenset()
    """Of the suite file and its patches."""

    def give_away(self, path: Path, root: Path) -> bool:
        """Whether a file or folder below `root` is one of them, or a copy."""
        if Path(os.path.realpath(path)) in self.places:
            return True
        if path.is_dir():
            alike = path != root and path.name == self.suite.parent.name and (path / self.suite.name).is_file()
            return alike and not any(path.glob("test_*.py")) and not (path / "conftest.py").exists()
        sizes = {len(content) for content in self.contents}
        return path.is_file() and path.stat().st_size in sizes and path.read_bytes() in self.contents


@dataclass(frozen=True)
class Source:
    """One repository, and what of it no workspace gets."""

    root: Path
    """With every link resolved."""
    exclude: tuple[str, ...] = ()
    """Patterns (fnmatch, `*` matches `/` too) of files, or folders with all below them."""
    answers: Answers = field(default_factory=Answers)
    ignored: bool = False
    """Take what git ignores too."""
    where: str = ""
    """Suite file and task, for errors."""

    def files(self) -> dict[str, str | bytes]:
        """Every file that stays: path → text, or bytes where it is not UTF-8.

        Raises UserError for a folder that is not there, one over the limits, or a file that cannot be read.
        """
        place = f"{self.where}: {self.root}" if self.where else str(self.root)
        if not self.root.is_dir():
            remedy = "`repo` is the path of a folder, relative to the suite file; clone what is elsewhere"
            raise UserError("no such folder", place, remedy)
        found, total, sizes = dict[str, str | bytes](), 0, dict[str, int]()
        known = None if self.ignored else known_to_git(self.root)
        try:
            for name, path in self._walk(self.root, (self.root,), known):
                sizes[name] = path.stat().st_size
                total += sizes[name]
                if len(sizes) > MAX_FILES or total > MAX_BYTES:
                    raise _too_large(place, sizes)
                found[name] = read_content(path)
        except OSError as error:
            raise UserError(f"cannot be read ({error})", place, "Exclude it with `exclude`") from error
        if not found:
            raise UserError("holds no files", place, "Is it the repository's root? Ignored files are not taken")
        return found

    def _walk(self, folder: Path, above: tuple[Path, ...], known: Collection[str] | None) -> Iterator[tuple[str, Path]]:
        """Files as (path relative to the root, path), sorted by folder. `above`: the real folders on the way here,
        into which no link is followed. `known`: the paths to take, and the folders on the way; None: all."""
        here = above[-1]
        for path in sorted(folder.iterdir()):
            name = path.relative_to(self.root).as_posix()
            real = Path(os.path.realpath(path))
            places = {here / path.name, real} if real.is_relative_to(self.root) else {here / path.name}
            if known is not None and any(place.relative_to(self.root).as_posix() not in known for place in places):
                continue
            if self._is_out(name, path) or (path.is_symlink() and self._is_link_out(real)):
                continue
            if real.is_dir():
                if real not in above:
                    yield from self._walk(path, (*above, real), known)
            elif real.is_file():
                _check_name(name, self.root)
                yield name, path

    def _is_out(self, name: str, path: Path) -> bool:
        keys = path.name.startswith(".env.") and path.suffix not in _EXAMPLES
        if path.name in LEFT_OUT or path.suffix == ".pyc" or keys or self.answers.give_away(path, self.root):
            return True
        return is_excluded(name, self.exclude) or (path.is_dir() and _is_no_source(path))

    def _is_link_out(self, real: Path) -> bool:
        """Whether a link leads outside, or to something that is left out."""
        if not real.is_relative_to(self.root):
            return True
        on_the_way = [real, *real.parents[: max(0, len(real.relative_to(self.root).parts) - 1)]]
        return any(self._is_out(part.relative_to(self.root).as_posix(), part) for part in on_the_way)


def is_excluded(name: str, patterns: Collection[str]) -> bool:
    """Whether a pattern fits; one that ends in `/` or `/*` fits the folder too, so that it need not be walked."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, pattern.rstrip("/*")) for pattern in patterns)


def _is_no_source(folder: Path) -> bool:
    """A virtual environment, a run directory, a dataset."""
    if (folder / "pyvenv.cfg").exists():
        return True
    ours = (("run.json", "traces"), ("dataset.json", "trajectories.jsonl"), ("dataset.json", "steps.jsonl"))
    return any(all((folder / name).exists() for name in names) for names in ours)


def read_content(path: Path) -> str | bytes:
    """A file's text, newlines as they are; its bytes where it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _check_name(name: str, root: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"a file name that is not UTF-8: {name!a}", str(root), "Rename it") from error


def _too_large(place: str, sizes: Mapping[str, int]) -> UserError:
    """Says which limit was hit and where most of it lies, as far as it was read."""
    folders, files = Counter[str](), Counter[str]()
    for name, size in sizes.items():
        top = name.split("/")[0]
        folders[top] += size
        files[top] += 1
    if len(sizes) > MAX_FILES:
        top, count = files.most_common(1)[0]
        what, most = f"more than {MAX_FILES:,} files", f"{top} holds {count:,}"
    else:
        top, size = folders.most_common(1)[0]
        what, most = f"more than {MAX_BYTES / 1e6:.0f} MB", f"{top} holds {size / 1e6:.0f} MB"
    return UserError(f"{what}, as far as it was read: {most}", place, f'Leave it out: exclude = ["{top}"]')
