"""Threads and batch size that suit a model on this machine, measured once and kept beside it.

``<package>.tuning.json`` lies next to the package's folder, never in it: a package's identity does
not depend on where it runs. It holds a row a machine, so a folder that several kinds of machine
mount serves them all. Settings that someone made count more than what was measured.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hilum.engines import Engine
from hilum.errors import ConfigurationError
from hilum.files import write_atomically
from hilum.machine import cpu_model, usable_cores
from hilum.packages.load import Package
from hilum.settings import Settings

_NEAR: Final = 0.03  # what is less than this behind the quickest, but smaller, is preferred
_RUNS: Final = 3  # at least, of each cell


class Cell(BaseModel):
    """One combination, measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    images_per_s: float = Field(gt=0)
    batch_s: float = Field(gt=0, description="median seconds of one call")


class Tuned(BaseModel):
    """What was found on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    engine: str
    best: Cell
    cells: tuple[Cell, ...]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    machines: dict[str, Tuned] = {}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides which setting is best."""

    text: str  # for people
    key: str


def this_machine() -> Machine:
    """Processor, the cores this process may use, and the runtime's version."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - here alone

    try:
        runtime = version("onnxruntime")
    except PackageNotFoundError:
        runtime = "none"
    text = f"{cpu_model()}, {usable_cores()} cores, {platform.system()}, ONNX Runtime {runtime}"
    return Machine(text=text, key=hashlib.sha256(text.encode()).hexdigest()[:16])


def place(package: Package) -> Path:
    """Where the findings for ``package`` are kept."""
    folder = package.folder.resolve()
    return folder.with_name(f"{folder.name}.tuning.json")


def stored(package: Package) -> Tuned | None:
    """What was found for exactly this package on this machine; ``None``: nothing usable."""
    return _read(package).machines.get(this_machine().key)


def store(package: Package, tuned: Tuned) -> Path:
    """Keep ``tuned``; findings of other machines stay.

    Raises:
        ConfigurationError: the folder that holds the package cannot be written.
    """
    machines = {**_read(package).machines, this_machine().key: tuned}
    text = _File(digest=package.digest, machines=machines).model_dump_json(indent=2)
    path = place(package)
    try:
        write_atomically(path, text.encode() + b"\n")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}.",
            next_step="Set HILUM_WORKER__ENGINE_THREADS and HILUM_WORKER__BATCH_SIZE instead.",
        ) from None
    return path


def applied(package: Package, settings: Settings, engine: str) -> Settings:
    """``settings`` with what was found for ``package`` here, where nobody set it otherwise.

    Args:
        engine: name of the one that runs; what suits one says nothing of another.
    """
    worker = settings.worker
    free = {"engine_threads", "batch_size"} - worker.model_fields_set
    found = stored(package) if free else None
    if found is None or found.engine != engine:
        return settings
    update: dict[str, int] = {}
    if "engine_threads" in free:
        # Each process has an engine; together they have no more cores than one.
        share = max(1, usable_cores() // worker.processes)
        update["engine_threads"] = min(found.best.threads, share)
    if "batch_size" in free:
        update["batch_size"] = found.best.batch
    return settings.model_copy(update={"worker": worker.model_copy(update=update)})


def sweep(
    open_with: Callable[[int], Engine],
    images: npt.NDArray[np.uint8],
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    seconds: float,
) -> Iterator[Cell]:
    """Measure every combination.

    Args:
        open_with: an engine with so many threads.
        images: uint8 ``[N, 1, S, S]``, repeated as often as a batch needs.
        threads: to try.
        batches: to try.
        seconds: for each cell, but at least three runs.
    """
    for count in threads:
        engine = open_with(count)
        for batch in batches:
            films = np.resize(images, (batch, *images.shape[1:]))
            engine.run(films)  # memory is laid out on the first run of a shape
            taken: list[float] = []
            end = time.perf_counter() + seconds
            while len(taken) < _RUNS or time.perf_counter() < end:
                start = time.perf_counter()
                engine.run(films)
                taken.append(time.perf_counter() - start)
            median = statistics.median(taken)
            yield Cell(threads=count, batch=batch, images_per_s=batch / median, batch_s=median)


def best(cells: Sequence[Cell]) -> Cell:
    """The quickest; of those hardly behind it the one with the smallest batch, then the fewest
    threads: results come sooner, and cores stay free for decoding."""
    top = max(cell.images_per_s for cell in cells)
    near = [cell for cell in cells if cell.images_per_s >= (1 - _NEAR) * top]
    return min(near, key=lambda cell: (cell.batch, cell.threads))


def thread_counts(cores: int) -> list[int]:
    """Powers of two up to all cores, and all cores."""
    powers = [2**n for n in range(cores.bit_length()) if 2**n < cores]
    return [*powers, cores]


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to ``largest``."""
    return [2**n for n in range(largest.bit_length()) if 2**n <= largest]


def _read(package: Package) -> _File:
    nothing = _File(digest=package.digest)
    try:
        found = _File.model_validate_json(place(package).read_bytes())
    except (OSError, ValidationError):
        return nothing
    # Another package lay there before.
    return found if found.digest == package.digest else nothing
