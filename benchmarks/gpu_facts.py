"""Facts that a check of a GPU finds, one per line, and those that every engine must give."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu_packages import TOLERANCE, films, reference
from hilum.engines import cuda
from hilum.engines.golden import check_golden
from hilum.engines.gpu import GpuEngine
from hilum.engines.tensorrt.objects import release
from hilum.engines.tensorrt.runtime import buckets
from hilum.errors import DeviceOutOfMemoryError, HilumError
from hilum.packages.load import Package

COMPARED = 32  # films on which numbers are compared
LONG = 16  # number of largest batches in a call, for throughput


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A measurement; ``holds`` is None if it is only a figure."""

    check: str
    case: str
    value: float
    unit: str
    limit: float | None = None
    holds: bool | None = None
    detail: str = ""

    def text(self) -> str:
        """One line of text."""
        verdict = {None: "", True: "ok", False: "FAILED"}[self.holds]
        limit = "" if self.limit is None else f" (limit {self.limit:g})"
        value = f"{self.value:10.4g} {self.unit}{limit}"
        return f"{self.check:24} {self.case:34} {value}  {verdict} {self.detail}".rstrip()


def loading(opened: Callable[[], GpuEngine], case: str) -> Iterator[Fact]:
    """Measure the time and the GPU memory that opening needs."""
    before, began = cuda.memory_free(), time.perf_counter()
    with closing(opened()):
        yield figure("load", case, time.perf_counter() - began, "s")
        yield figure("GPU memory", case, (before - cuda.memory_free()) / 2**20, "MiB")


def numbers(engine: GpuEngine, package: Package, case: str) -> Iterator[Fact]:
    """Compare the numbers with ONNX Runtime on the CPU, same graph, and run the golden check."""
    variant = package.manifest.graph_for("tensorrt")
    images = films(package.manifest.input.size, COMPARED, seed=2)
    probability, cam = reference(package.read(variant.graph), variant.precision, images)
    found = engine.run(images)
    limits = TOLERANCE[variant.precision]
    differences = (
        float(np.abs(found.probability - probability).max()),
        float(np.abs(found.cam - cam).max() / max(float(cam.max()), 1e-12)),
    )
    for name, value, limit in zip(("|Δp|", "|Δcam|/max"), differences, limits, strict=True):
        yield Fact(
            check=f"numbers {name}", case=case, value=value, unit="", limit=limit,
            holds=value <= limit,
        )  # fmt: skip
    yield holds("golden check", case, lambda: check_golden(engine, package, "tensorrt"))


def latency(engine: GpuEngine, package: Package, case: str, seconds: float) -> Iterator[Fact]:
    """Milliseconds of one call by batch, from images to results in host memory."""
    for batch in buckets(engine.max_batch):
        images = films(package.manifest.input.size, batch)
        taken: list[float] = []
        until = time.perf_counter() + seconds / 4
        while len(taken) < 3 or time.perf_counter() < until:
            began = time.perf_counter()
            engine.run(images)
            taken.append(1e3 * (time.perf_counter() - began))
        yield figure("latency p50", f"{case} batch {batch}", statistics.median(taken), "ms")
        slow = statistics.quantiles(taken, n=100)[98]
        yield figure("latency p99", f"{case} batch {batch}", slow, "ms")


def throughput(engine: GpuEngine, package: Package, seconds: float) -> float:
    """Images per second in large batches."""
    images = films(package.manifest.input.size, LONG * engine.max_batch)
    engine.run(images)
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        engine.run(images)
        count += len(images)
    return count / (time.perf_counter() - began)


def rate(engine: GpuEngine, package: Package, case: str, seconds: float) -> Iterator[Fact]:
    """:func:`throughput` as a fact."""
    yield figure("throughput", case, throughput(engine, package, seconds), "images/s")


def full(opened: Callable[[], GpuEngine], package: Package, case: str) -> Iterator[Fact]:
    """Check that opening an engine reports a full GPU, and succeeds when there is room."""

    def no_room() -> None:
        with filled():
            expect(DeviceOutOfMemoryError, lambda: opened().close())

    def again() -> None:
        with closing(opened()) as engine:
            check_golden(engine, package, "tensorrt")

    yield holds("no memory", case, no_room)
    yield holds("works again", case, again)


def attempt(name: str, case: str, facts: Callable[[], Iterator[Fact]]) -> Iterator[Fact]:
    """Yield ``facts``; an error that ends them becomes one more fact, so that the check goes on:
    time on a GPU is scarce."""
    try:
        yield from facts()
    except Exception as error:
        detail = str(error) if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
        release(error)
        yield Fact(check=name, case=case, value=0, unit="", holds=False, detail=detail)


def figure(name: str, case: str, value: float, unit: str) -> Fact:
    return Fact(check=name, case=case, value=value, unit=unit)


def holds(name: str, case: str, step: Callable[[], None]) -> Fact:
    try:
        step()
    except (HilumError, AssertionError) as error:
        return Fact(check=name, case=case, value=0, unit="", holds=False, detail=str(error))
    return Fact(check=name, case=case, value=1, unit="", holds=True)


def expect(kind: type[HilumError], step: Callable[[], object]) -> None:
    """Raises:
    AssertionError: ``step`` does not end with an error of that ``kind``.
    """
    try:
        step()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


@contextmanager
def filled() -> Iterator[None]:
    """Allocate all memory of the GPU, in ever smaller blocks."""
    stream = cuda.Stream(cuda.load_runtime())
    try:
        size = cuda.memory_free()
        while size >= 2**12:
            try:
                stream.allocate(size)
            except DeviceOutOfMemoryError:
                size //= 2
        yield
    finally:
        stream.close()
