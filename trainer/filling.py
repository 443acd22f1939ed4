"""Every film of a data-set table through :func:`trainer.prepared.prepare`, on all cores."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from hilum.errors import UnexpectedError
from trainer.prepared import BAD, GOOD, STARTED, Filling, Neighbours, Problem, Source, prepare

_CHUNK: Final = 8  # films a task
_WORTH: Final = 64  # films for which another process is worth its start
KILLED: Final = "data.decoder_died"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A folder to be filled; goes to worker processes."""

    folder: Path
    uris: Sequence[str]  # of each row
    source: Source


Found = Callable[[Problem | None], None]


def run(job: Job, filling: Filling, found: Found, *, processes: int | None) -> None:
    """Prepare what ``filling`` lacks. ``found`` hears of each film once, in any order, with what
    is wrong with it; it may raise, which ends the run.

    Args:
        processes: at most; ``None``: as many as cores, where there is work for them.

    Raises:
        HilumError: transient, of the store; or the disk is full.
    """
    todo = []
    for row, entry in enumerate(filling.rows()):
        if entry["state"] == GOOD and filling.whole(row, entry):
            found(None)
        else:
            todo.append(row)
    limit = (os.cpu_count() or 1) if processes is None else processes
    workers = min(limit, max(1, len(todo) // _WORTH)) if processes is None else limit
    if workers <= 1:
        neighbours = Neighbours(job.folder)
        for row in todo:
            found(prepare(filling, row, job.uris[row], job.source, neighbours))
        return
    while todo:
        try:
            _pooled(job, todo, found, workers)
            return
        except BrokenProcessPool:
            todo = _after_a_death(job, filling, todo, found)


def _pooled(job: Job, todo: list[int], found: Found, workers: int) -> None:
    """All of ``todo``; what is done is taken from it, also when this fails."""
    chunks = iter([todo[n : n + _CHUNK] for n in range(0, len(todo), _CHUNK)])
    left = set(todo)
    running: dict[Future[list[Problem | None]], list[int]] = {}
    with _pool(job, workers) as pool:
        try:
            while True:
                while len(running) < 2 * workers and (chunk := next(chunks, None)):
                    running[pool.submit(_chunk, chunk)] = chunk
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    chunk = running[future]
                    for problem in future.result():
                        found(problem)
                    left.difference_update(chunk)
                    del running[future]
        finally:
            todo[:] = [row for row in todo if row in left]


def _after_a_death(job: Job, filling: Filling, todo: list[int], found: Found) -> list[int]:
    """A worker was killed: by the kernel for its memory, or by a decoder that crashed. The films
    that were in work are tried alone; one that kills again is bad. Returns what is left to do."""
    states = filling.rows()["state"]
    suspects = [row for row in todo if states[row] == STARTED]
    if not suspects and not any(states[row] in (GOOD, BAD) for row in todo):
        raise UnexpectedError(
            "The processes that prepare films die before they begin.",
            next_step="A script that starts this needs `if __name__ == '__main__':` around its "
            "calls, as it is imported again in each process. Otherwise look for what ends them: a "
            "limit on memory or processes.",
        )
    left = []
    for row in todo:
        if states[row] == GOOD:
            found(None)
        elif row in suspects:
            found(_alone(job, filling, row))
        else:
            left.append(row)
    return left


def _alone(job: Job, filling: Filling, row: int) -> Problem | None:
    try:
        with _pool(job, 1) as pool:
            return pool.submit(_chunk, [row]).result()[0]
    except BrokenProcessPool:
        filling.write(row, BAD)
        detail = "The process that decoded it died, twice."
        return Problem(record=row, code=KILLED, detail=detail)


@contextmanager
def _pool(job: Job, workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(job,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Worker:
    job: Job
    filling: Filling
    neighbours: Neighbours


_worker: _Worker | None = None  # of this process


def _begin(job: Job) -> None:
    global _worker  # noqa: PLW0603 -- what a pool's initializer is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _worker = _Worker(
        job=job,
        filling=Filling(job.folder, len(job.uris), job.source.spec.size),
        neighbours=Neighbours(job.folder),
    )


def _chunk(rows: list[int]) -> list[Problem | None]:
    assert _worker is not None
    job = _worker.job
    return [
        prepare(_worker.filling, row, job.uris[row], job.source, _worker.neighbours) for row in rows
    ]
