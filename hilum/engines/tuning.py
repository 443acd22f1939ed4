"""Measure the best threads and batch size of a model on this machine, and apply them later.

The tuning is stored in ``<package>.tuning.json`` beside the package's folder, not inside it, so the
package's digest does not change. The file has one entry for each kind of machine, so that several
can share the folder. Explicit settings take precedence over the tuning.
"""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
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

_NEAR: Final = 0.03  # a smaller batch is preferred if it is slower by less than this share
_RUNS: Final = 3  # minimum number of runs of each combination


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Frozen):
    """The measured speed of one combination of threads and batch size."""

    threads: int = Field(ge=1)
    batch: int = Field(ge=1)
    images_per_s: float = Field(gt=0)
    batch_s: float = Field(gt=0, description="median seconds of one call")


class Tuned(_Frozen):
    """The tuning of one model on one machine."""

    machine: str
    engine: str
    best: Cell
    cells: tuple[Cell, ...]


class _File(_Frozen):
    digest: str
    machines: dict[str, Tuned] = {}


def this_machine() -> str:
    """What decides which combination is fastest, for people: the processor, the cores that this
    process may use, and the version of ONNX Runtime."""
    try:
        runtime = version("onnxruntime")
    except PackageNotFoundError:
        runtime = "none"
    return f"{cpu_model()}, {usable_cores()} cores, {platform.system()}, ONNX Runtime {runtime}"


def _key() -> str:
    return hashlib.sha256(this_machine().encode()).hexdigest()[:16]


def place(package: Package) -> Path:
    """The path of the tuning file of ``package``."""
    folder = package.folder.resolve()
    return folder.with_name(f"{folder.name}.tuning.json")


def load_tuning(package: Package) -> Tuned | None:
    """Load the tuning of exactly this package on this machine, or ``None`` if there is none."""
    return _read(package).machines.get(_key())


def store(package: Package, tuned: Tuned) -> Path:
    """Store ``tuned`` for this machine, beside the entries of other machines.

    Raises:
        ConfigurationError: the tuning file cannot be written.
    """
    machines = {**_read(package).machines, _key(): tuned}
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


def apply_tuning(package: Package, settings: Settings, engine: str) -> Settings:
    """Return ``settings`` with the tuning of ``package`` for the engine with this name, except for
    what was set explicitly."""
    worker = settings.worker
    free = {"engine_threads", "batch_size"} - worker.model_fields_set
    found = load_tuning(package) if free else None
    if found is None or found.engine != engine:
        return settings
    update: dict[str, int] = {}
    if "engine_threads" in free:
        # Each process has its own engine, and together they share the cores.
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
    """Measure every combination of threads and batch size.

    Args:
        open_with: opens an engine with the given number of threads.
        images: uint8 ``[N, 1, S, S]``, repeated to fill a batch.
        seconds: minimum duration for each combination; there are at least three runs.
    """
    for count in threads:
        engine = open_with(count)
        for batch in batches:
            films = np.resize(images, (batch, *images.shape[1:]))
            engine.run(films)  # the first run of a shape allocates memory
            taken: list[float] = []
            end = time.perf_counter() + seconds
            while len(taken) < _RUNS or time.perf_counter() < end:
                start = time.perf_counter()
                engine.run(films)
                taken.append(time.perf_counter() - start)
            median = statistics.median(taken)
            yield Cell(threads=count, batch=batch, images_per_s=batch / median, batch_s=median)


def best(cells: Sequence[Cell]) -> Cell:
    """The fastest combination. Of those within 3 % of it, the one with the smallest batch and then
    the fewest threads, so that results come sooner and cores stay free for decoding."""
    top = max(cell.images_per_s for cell in cells)
    near = [cell for cell in cells if cell.images_per_s >= (1 - _NEAR) * top]
    return min(near, key=lambda cell: (cell.batch, cell.threads))


def thread_counts(cores: int) -> list[int]:
    """Powers of two below ``cores``, and ``cores``."""
    powers = [2**n for n in range(cores.bit_length()) if 2**n < cores]
    return [*powers, cores]


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to ``largest``."""
    return [2**n for n in range(largest.bit_length()) if 2**n <= largest]


def _read(package: Package) -> _File:
    empty = _File(digest=package.digest)
    try:
        found = _File.model_validate_json(place(package).read_bytes())
    except (OSError, ValidationError):
        return empty
    # The file may belong to another package that was in this folder before.
    return found if found.digest == package.digest else empty
