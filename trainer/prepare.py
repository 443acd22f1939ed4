"""Prepares the films of a data-set table for the training cache, on all cores."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from hilum import dicom
from hilum.errors import HilumError, UnexpectedError
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.settings import Limits
from hilum.storage import ObjectStore
from trainer.cache import BAD, GOOD, STARTED, KnownImages, UnfinishedFolder

_CHUNK: Final = 8  # films a task
_WORTH: Final = 64  # films for which it is worth starting another process
KILLED: Final = "data.decoder_died"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A folder of the training cache, and the films to prepare for it. Sent to processes."""

    folder: Path
    uris: Sequence[str]  # of each row
    store: ObjectStore
    limits: Limits
    spec: PreprocessSpec

    def open_folder(self) -> UnfinishedFolder:
        """The folder with a row for each film.

        Raises:
            CacheWriteError: the disk has no room for it.
        """
        return UnfinishedFolder(self.folder, len(self.uris), self.spec.size)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a film is not used."""

    record: int  # of the data-set table, from 0
    code: str
    detail: str


Report = Callable[[Problem | None], None]


class Preparer:
    """Prepares the films of a job in this process."""

    def __init__(self, job: Job, folder: UnfinishedFolder) -> None:
        self._job = job
        self._folder = folder
        self._known = KnownImages(job.folder)

    def prepare(self, row: int) -> Problem | None:
        """Read, decode and prepare the film of ``row``; returns what is wrong with it, if anything.

        Raises:
            HilumError: transient; the film may be usable.
            CacheWriteError: the disk is full.
        """
        job = self._job
        self._folder.write(row, STARTED)
        try:
            data = job.store.read(job.uris[row])
            digest = hashlib.sha256(data).hexdigest()
            known = self._known.get(digest)
            if known is not None:
                image, entry = known
                height, width = int(entry["height"]), int(entry["width"])
            else:
                opened = dicom.open_film(data, job.limits)
                image = model_input(opened, job.spec).image.tobytes()
                height, width = opened.header.rows, opened.header.columns
        except HilumError as error:
            if error.transient:
                raise
            self._folder.write(row, BAD)
            return Problem(record=row, code=error.code, detail=error.detail)
        self._folder.write(row, GOOD, image, height=height, width=width, sha256=digest)
        return None


def prepare_all(
    job: Job, folder: UnfinishedFolder, report: Report, *, processes: int | None
) -> None:
    """Prepare the films that ``folder`` lacks.

    Args:
        job: the films.
        folder: the folder of ``job``.
        report: called once for each film, also for those that ``folder`` has, with what is wrong
            with it; may raise, which ends the work.
        processes: largest number of processes; ``None``: as many as there are cores, if there is
            enough work for them.

    Raises:
        HilumError: transient, from the store; or the disk is full.
        UnexpectedError: the processes die before they begin.
    """
    todo: deque[int] = deque()
    for row, entry in enumerate(folder.rows()):
        if folder.is_good(row, entry):
            report(None)
        else:
            todo.append(row)
    if processes is None:
        processes = min(os.cpu_count() or 1, max(1, len(todo) // _WORTH))
    if processes <= 1:
        preparer = Preparer(job, folder)
        for row in todo:
            report(preparer.prepare(row))
        return
    while todo:
        try:
            _prepare_in_pool(job, todo, report, processes)
        except BrokenProcessPool:
            todo = _recover(job, folder, todo, report)


def _prepare_in_pool(job: Job, todo: deque[int], report: Report, processes: int) -> None:
    """Prepare all of ``todo``, and remove from it what was reported, also when this fails."""
    pool = _pool(job, processes)
    try:
        for problem in pool.map(_prepare, tuple(todo), chunksize=_CHUNK):
            todo.popleft()
            report(problem)
    finally:
        pool.shutdown(cancel_futures=True)


def _recover(job: Job, folder: UnfinishedFolder, todo: deque[int], report: Report) -> deque[int]:
    """Go on after the death of a process, which the kernel killed for its memory, or a decoder
    that crashed. The films that were in work are tried alone; a film that kills its process again
    is bad. Returns what is left to do."""
    states = folder.rows()["state"]
    suspects = [row for row in todo if states[row] == STARTED]
    if not suspects and not any(states[row] in (GOOD, BAD) for row in todo):
        raise UnexpectedError(
            "The processes that prepare films die before they begin.",
            next_step="If a script of yours calls this, put its calls under "
            "`if __name__ == '__main__':`, because every process imports the script again. "
            "Otherwise look for a limit on memory or processes.",
        )
    left: deque[int] = deque()
    for row in todo:
        if states[row] == GOOD:
            report(None)
        elif row in suspects:
            report(_prepare_alone(job, folder, row))
        else:
            left.append(row)
    return left


def _prepare_alone(job: Job, folder: UnfinishedFolder, row: int) -> Problem | None:
    try:
        with _pool(job, 1) as pool:
            return pool.submit(_prepare, row).result()
    except BrokenProcessPool:
        folder.write(row, BAD)
        detail = "The process that decoded it died, twice."
        return Problem(record=row, code=KILLED, detail=detail)


def _pool(job: Job, processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin, initargs=(job,)
    )


_preparer: Preparer | None = None  # of this process


def _begin(job: Job) -> None:
    global _preparer  # noqa: PLW0603 -- what a pool's initializer is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _preparer = Preparer(job, job.open_folder())


def _prepare(row: int) -> Problem | None:
    assert _preparer is not None
    return _preparer.prepare(row)
