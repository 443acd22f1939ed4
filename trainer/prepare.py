"""Prepares the films of a data-set table for the training cache, on all cores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hilum import dicom
from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.pipeline.tasks import warm_up
from hilum.sandbox import Decoders, Tasks
from hilum.sandbox.wire import Message
from hilum.settings import Limits
from hilum.storage import ObjectStore
from trainer.cache import BAD, GOOD, KnownImages, UnfinishedFolder

_WORTH: Final = 64  # films for which it is worth starting another process


@dataclass(frozen=True, kw_only=True)
class Job:
    """A folder of the training cache, and the films to prepare for it."""

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


def prepare_all(
    job: Job, folder: UnfinishedFolder, report: Report, *, processes: int | None
) -> None:
    """Prepare the films that ``folder`` lacks.

    Args:
        report: called once for each film, also for those that ``folder`` has, with what is wrong
            with it; may raise, which ends the work.
        processes: largest number of decode processes (:mod:`hilum.sandbox`), in which a crash of a
            decoder costs one film; ``None``: as many as there are cores, if there is enough work
            for them. With one, films are decoded in this process.

    Raises:
        HilumError: transient, from the store; or the disk is full.
    """
    todo = []
    for row, entry in enumerate(folder.rows()):
        if folder.is_good(row, entry):
            report(None)
        else:
            todo.append(row)
    if processes is None:
        processes = min(os.cpu_count() or 1, max(1, len(todo) // _WORTH))
    with ExitStack() as stack:
        problems: Iterator[Problem | None]
        if processes <= 1:
            preparer = Preparer(job, folder)
            problems = map(preparer.prepare, todo)
        else:
            decoders = stack.enter_context(Decoders(processes, job.limits, tasks=__name__))
            preparer = Preparer(job, folder, decoders)
            pool = ThreadPoolExecutor(processes, thread_name_prefix="prepare")
            stack.callback(pool.shutdown, cancel_futures=True)
            problems = pool.map(preparer.prepare, todo)
        for problem in problems:
            report(problem)


class Preparer:
    """Prepares the films of a job, from any number of threads."""

    def __init__(self, job: Job, folder: UnfinishedFolder, decoders: Decoders | None = None):
        """``decoders`` decode; ``None``: this process."""
        self._job = job
        self._folder = folder
        self._decoders = decoders
        self._known = KnownImages(job.folder)

    def prepare(self, row: int) -> Problem | None:
        """Read, decode and prepare the film of ``row``; returns what is wrong with it, if anything.

        Raises:
            HilumError: transient; the film may be usable.
            CacheWriteError: the disk is full.
        """
        try:
            data = self._job.store.read(self._job.uris[row])
            digest = hashlib.sha256(data).hexdigest()
            known = self._known.get(digest)
            if known is not None:
                image, entry = known
                height, width = int(entry["height"]), int(entry["width"])
            else:
                image, height, width = self._make(data)
        except HilumError as error:
            if error.transient:
                raise
            self._folder.write(row, BAD)
            return Problem(record=row, code=error.code, detail=error.detail)
        self._folder.write(row, GOOD, image, height=height, width=width, sha256=digest)
        return None

    def _make(self, data: bytes) -> tuple[bytes, int, int]:
        limits, spec = self._job.limits, self._job.spec
        if self._decoders is None:
            return _make(data, limits, spec)
        fields = {"limits": limits.model_dump_json(), "spec": spec.model_dump_json()}
        request = Message(fields={"task": "prepare", **fields}, arrays=(data,))
        answer = self._decoders.ask(request)
        (image,) = answer.arrays
        assert isinstance(image, bytes)
        assert len(image) == spec.size**2
        return image, answer.fields["height"], answer.fields["width"]


def _make(data: bytes | memoryview, limits: Limits, spec: PreprocessSpec) -> tuple[bytes, int, int]:
    """The model input of a film, and height and width of the film."""
    opened = dicom.open_film(data, limits)
    image = model_input(opened, spec).image.tobytes()
    return image, opened.header.rows, opened.header.columns


def _answer(request: Message) -> Message:
    """What a decode process does with a film."""
    (data,) = request.arrays
    assert isinstance(data, bytes | memoryview)
    limits = Limits.model_validate_json(request.fields["limits"])
    spec = PreprocessSpec.model_validate_json(request.fields["spec"])
    image, height, width = _make(data, limits, spec)
    return Message(fields={"height": height, "width": width}, arrays=(image,))


TASKS: Final = Tasks(answers={"prepare": _answer}, warm_up=warm_up)
