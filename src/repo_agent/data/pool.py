"""Traces through workers, in this process or in several, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from repo_agent.data.work import Done, Job, Worker

CHUNK_BYTES = 4 * 2**20
"""How much of traces a worker takes at once."""
OnProgress = Callable[[int, int], None]
"""Bytes of traces done, and how many there are."""
_worker: Worker | None = None


def worked(traces: Sequence[Path], job: Job, jobs: int, on_progress: OnProgress | None = None) -> Iterator[Done]:
    """What came of the traces, a chunk at a time, in their order."""
    sizes = [path.stat().st_size for path in traces]
    done_bytes, total = 0, sum(sizes)
    for done, size in _results(_chunks(traces, sizes), job, jobs):
        yield done
        done_bytes += size
        if on_progress:
            on_progress(done_bytes, total)


def _results(chunks: Iterator[tuple[list[Path], int]], job: Job, jobs: int) -> Iterator[tuple[Done, int]]:
    if jobs == 1:
        worker = Worker(job)
        yield from ((worker.work(paths), size) for paths, size in chunks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(job,)) as pool:
        waiting: deque[tuple[Future[Done], int]] = deque()
        try:
            for paths, size in chunks:
                waiting.append((pool.submit(_work, paths), size))
                if len(waiting) > 2 * jobs:
                    future, done = waiting.popleft()
                    yield future.result(), done
            while waiting:
                future, done = waiting.popleft()
                yield future.result(), done
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(traces: Sequence[Path], sizes: Sequence[int]) -> Iterator[tuple[list[Path], int]]:
    paths: list[Path] = []
    size = 0
    for path, own in zip(traces, sizes, strict=True):
        paths.append(path)
        size += own
        if size >= CHUNK_BYTES:
            yield paths, size
            paths, size = [], 0
    if paths:
        yield paths, size


def _begin(job: Job) -> None:
    global _worker
    _worker = Worker(job)


def _work(paths: list[Path]) -> Done:
    assert _worker is not None
    return _worker.work(paths)
