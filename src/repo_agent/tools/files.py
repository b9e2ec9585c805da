"""The four tools of the code-fixing agent: list_files, read_file, grep, write_file."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from repo_agent.tools.paths import resolve
from repo_agent.tools.patterns import pattern_fault
from repo_agent.tools.registry import Pattern, PositiveInt, Registry, RelPath, ToolError, tool
from repo_agent.tools.searchers import search

MAX_FILES, MAX_HITS = 500, 200
"""Our caps: a larger number from the model is clamped, not refused."""
MAX_BYTES = 2**20
"""How much of one file is read."""
HIDDEN = frozenset({"__pycache__", ".git", ".pytest_cache"})


@tool
def list_files(root: Path, rel_dir: RelPath, max_files: PositiveInt) -> str:
    """List at most max_files files under the folder rel_dir ("." is the repository root)."""
    paths = [name for name, _ in _walk(root, rel_dir)]
    shown = paths[: min(max_files, MAX_FILES)]
    more = [f"[... {len(paths) - len(shown)} more files]"] if len(paths) > len(shown) else []
    return "\n".join(shown + more) or "[no files]"


@tool(cut_by="max_chars")
def read_file(root: Path, rel_path: RelPath, max_chars: PositiveInt) -> str:
    """Read at most max_chars characters of the file rel_path."""
    return _text(resolve(root, rel_path), rel_path)  # cut where it is shown, by max_chars


@tool
def grep(root: Path, pattern: Pattern, rel_dir: RelPath, max_hits: PositiveInt) -> str:
    """Search the files under rel_dir for a regular expression; show at most max_hits lines as path:line:text."""
    fault = pattern_fault(pattern)
    if fault:
        raise ToolError("bad_regex", fault)
    try:
        files = _walk(root, rel_dir)
    except ToolError:
        search(pattern, [], 1)  # a pattern that does not compile is refused first
        raise
    return "\n".join(search(pattern, files, min(max_hits, MAX_HITS))) or "[no hits]"


@tool(writes=True, overwrites="rel_path")
def write_file(root: Path, rel_path: RelPath, content: str) -> str:
    """Write content, the whole new text, to the file rel_path; missing folders are made."""
    path = resolve(root, rel_path)
    if path.exists() and not path.is_file():
        raise ToolError("is_a_directory", f"{rel_path} is no file")
    if path.exists() and not _is_text(path):
        raise ToolError("not_text", f"{rel_path} is not UTF-8 text, and writing it would change its encoding")
    try:
        data = content.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except (OSError, UnicodeError) as error:
        raise ToolError("not_writable", f"cannot write {rel_path}") from error
    return f"wrote {rel_path}"


def default_registry() -> Registry:
    """The four tools, in the order that prompts show them."""
    return Registry([list_files, read_file, grep, write_file])


def read_only(registry: Registry, may_write: Callable[[str], bool], allowed: str) -> Registry:
    """The same tools, prompt and schemas, but write_file refuses every path for which `may_write` is false.

    `allowed` says in the refusal what may be written.
    """

    def guarded(root: Path, rel_path: str, content: str) -> str:
        name = resolve(root, rel_path).relative_to(root.resolve()).as_posix()
        if not may_write(name):
            raise ToolError("read_only", f"{rel_path} may not be written; writable: {allowed}")
        assert write_file.fn is not None
        return write_file.fn(root, rel_path, content)

    specs = registry.specs.values()
    return Registry(replace(spec, fn=guarded) if spec is write_file else spec for spec in specs)


def _walk(root: Path, rel_dir: str) -> list[tuple[str, str]]:
    """Every file under `rel_dir` as (path relative to the root, path), sorted, links and caches left out."""
    base = resolve(root, rel_dir)
    if not base.exists():
        raise ToolError("not_found", f"there is no folder {rel_dir}")
    if not base.is_dir():
        raise ToolError("not_a_directory", f"{rel_dir} is a file")
    found = []
    for folder, subfolders, files in os.walk(base):
        subfolders[:] = sorted(name for name in subfolders if name not in HIDDEN)
        paths = [os.path.join(folder, name) for name in files]
        found += [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    start = len(os.path.join(root.resolve(), ""))
    return [(path[start:], path) for path in sorted(found, key=lambda path: path.split("/"))]


def _is_text(path: Path) -> bool:
    """Whether a file is UTF-8 as far as it can be read; a large one is judged by its first MAX_BYTES."""
    try:
        with path.open("rb") as file:
            codecs.getincrementaldecoder("utf-8")().decode(file.read(MAX_BYTES))
    except UnicodeDecodeError:
        return False
    except OSError:
        pass
    return True


def _text(path: Path, rel_path: str) -> str:
    """A file's text, of its first MAX_BYTES. Pipes and devices are no files: reading one could last for ever."""
    if path.is_dir():
        raise ToolError("is_a_directory", f"{rel_path} is a folder")
    if not path.is_file():
        raise ToolError("not_found", f"there is no file {rel_path}")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode(errors="replace")
    except OSError as error:
        raise ToolError("not_readable", f"cannot read {rel_path}") from error
