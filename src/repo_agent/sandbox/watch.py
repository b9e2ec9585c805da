"""Limits of a whole run, measured from outside: memory of all processes together, their number, what they wrote, and
how long they waited for a processor.

Memory is the proportional share of every resident page, shared ones too (a quick sum first, which counts such a page
once for each process), and what the kernel may hold for sockets and pipes. On disk it is the blocks of every file below
the run's folder, found by descriptors however long its path, and of files without a name that a process still holds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repo_agent.sandbox.child.reap import descendants
from repo_agent.sandbox.isolate import Plan

PAGE, CLOCK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
RARELY = 5
"""Files are counted at every so many looks."""
MOST_DEPTH = 128
"""Folders inside each other."""
PIPE_BYTES, SOCKET_BYTES = 2**16, 425_984
"""What one end may have the kernel hold: a pipe's usual size, a socket's buffers for sending and receiving."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a whole run: every process that it starts, taken together."""

    wall_seconds: float = 30.0
    memory_bytes: int = 2**30
    """Resident memory; also the address space of each process."""
    file_bytes: int = 64 * 2**20
    """Size of one written file."""
    disk_bytes: int = 256 * 2**20
    files: int = 20_000
    processes: int = 128
    """Threads count too."""
    open_files: int = 256


class Watch:
    """Measures a tree of processes."""

    def __init__(self, root: int, plan: Plan, bounds: Bounds) -> None:
        self._root, self._plan, self._bounds = root, plan, bounds
        self._looks = 0
        self._hidden: set[int] = set()
        self._seen: dict[int, float] = {}
        """Processor seconds of every process, as last seen: a program may ignore its children, whose time then goes to
        no parent."""

    def look(self) -> str:
        """The limit that is broken, or ""."""
        pids = descendants(self._root)
        if len(pids) > 2 * self._bounds.processes:
            return "processes"
        self._seen |= {pid: _ran(pid, with_children=False) for pid in pids}
        if sum(map(_resident, pids)) > self._bounds.memory_bytes < sum(map(_share, pids)):
            return "memory"
        self._looks += 1
        if self._looks % RARELY == 0 and sum(map(_held_by_kernel, pids)) > self._bounds.memory_bytes:
            return "memory"
        if self._plan.inner:
            return self._in_memory(pids)
        return self._on_disk(pids) if self._looks % RARELY == 0 else ""

    def starved(self) -> float:
        """Seconds in which a process of the tree was ready to run while other programs had the processors: the longest
        that one has waited, less what the whole tree has run, since its own processes wait for each other too."""
        pids = descendants(self._root)
        ran = max(sum(map(_ran, [self._root, *pids])), sum(self._seen.values()))
        return max(0.0, max(map(_waited, pids), default=0.0) - ran)

    def _in_memory(self, pids: list[int]) -> str:
        """Count the inodes of the sandbox's own file systems; their bytes are bounded by their size.

        Until bwrap has changed the root of its process, the same paths lead to this machine's file systems.
        """
        for folder in self._plan.inner:
            with contextlib.suppress(OSError, IndexError):
                root = f"/proc/{pids[-1]}/root"
                if os.path.samefile(root, "/"):
                    return ""
                state = os.statvfs(root + folder)
                if state.f_files - state.f_ffree > self._bounds.files:
                    return "files"
        return ""

    def _on_disk(self, pids: list[int]) -> str:
        """Count what has a name, as far as the limits go, then what has none, which only its process shows."""
        before, self._hidden = self._hidden, {pid for pid in pids if _hides(pid)}
        if before & self._hidden:  # a program that starts may hide for a moment
            return "hidden"
        files = used = 0
        with contextlib.suppress(OSError):
            for depth, blocks in _below(self._plan.scratch):
                files += 1
                used += blocks * 512
                if depth > MOST_DEPTH:
                    return "depth"
                if files > self._bounds.files:
                    return "files"
                if used > self._bounds.disk_bytes:
                    return "disk"
        nameless = {place: size for pid in pids for place, size in _nameless(pid, self._plan.scratch)}
        return "disk" if used + sum(nameless.values()) > self._bounds.disk_bytes else ""


def _below(folder: str) -> Iterator[tuple[int, int]]:
    """Depth and blocks of everything below a folder, down to the first that is too deep. Each folder is opened from the
    one above it, so no path is too long; what cannot be read counts as empty."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    open_folders: list[tuple[int, list[str]]] = []
    try:
        open_folders.append((os.open(folder, flags), ["."]))
        while open_folders:
            handle, names = open_folders[-1]
            if not names:
                os.close(open_folders.pop()[0])
                continue
            with contextlib.suppress(OSError):
                below: list[str] = []
                open_folders.append((os.open(names.pop(), flags, dir_fd=handle), below))
                with os.scandir(open_folders[-1][0]) as entries:
                    for entry in entries:
                        yield len(open_folders) - 1, entry.stat(follow_symlinks=False).st_blocks
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.name)
    finally:
        for handle, _ in open_folders:
            os.close(handle)


def _resident(pid: int) -> int:
    """Resident bytes of a process, shared pages in full; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _waited(pid: int) -> float:
    """Seconds that a process has waited for a processor; 0 once it has ended, and where the kernel does not tell
    (https://docs.kernel.org/scheduler/sched-stats.html)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _ran(pid: int, with_children: bool = True) -> float:
    """Processor seconds of a process, with those of its children that have ended and were waited for; 0 once it has
    ended itself."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(map(int, after_name[11 : 15 if with_children else 13])) / CLOCK
    except (OSError, ValueError):
        return 0.0


def _share(pid: int) -> int:
    """Resident bytes of a process, a page that n processes share counted as one nth; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        return _resident(pid)
    except (OSError, ValueError):
        pass
    return 0


def _descriptors(pid: int) -> Iterator[tuple[str, str]]:
    """Open files of a process: path in /proc, and what it leads to."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield f"/proc/{pid}/fd/{name}", os.readlink(f"/proc/{pid}/fd/{name}")


def _hides(pid: int) -> bool:
    """Whether a process of this user does not show what it holds: prctl(PR_SET_DUMPABLE), a program without leave to
    read it."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _held_by_kernel(pid: int) -> int:
    """Bytes that the pipes and sockets of a process may fill."""
    targets = [target for _, target in _descriptors(pid)]
    sockets, pipes = (sum(target.startswith(kind) for target in targets) for kind in ("socket:", "pipe:"))
    return sockets * SOCKET_BYTES + pipes * PIPE_BYTES


def _nameless(pid: int, folder: str) -> Iterator[tuple[tuple[int, int], int]]:
    """(device, inode) and bytes of the deleted files of a folder that a process holds, open or mapped."""
    for path, target in _descriptors(pid):
        if target.startswith(folder) and target.endswith(" (deleted)"):
            with contextlib.suppress(OSError):
                state = os.stat(path)
                yield (state.st_dev, state.st_ino), state.st_blocks * 512
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            if folder in line and line.endswith(" (deleted)"):
                span, _, offset, device, inode, *_ = line.split(None, 5)
                start, end = (int(word, 16) for word in span.split("-"))
                major, minor = (int(word, 16) for word in device.split(":"))
                yield (os.makedev(major, minor), int(inode)), int(offset, 16) + end - start
