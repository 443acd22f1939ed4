"""``python -m benchmarks.gpu_check [--quick] [--to FILE]``: all that only a GPU can prove
(`make gpu-check`).

For each package: build (with and without the timings of an earlier build), load time and memory,
numbers against ONNX Runtime on the CPU with the same graph, latency by batch with CUDA graphs on
and off, throughput by streams, refit, plans for other GPUs and versions, two workers on one GPU,
and the failures that need a GPU to happen. One JSON object a line goes to FILE; a step that fails
is a line too, and the others go on. Exit 1 if anything that has to hold does not. Without a GPU:
exit 2, saying what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.gpu_packages import TOLERANCE, films, make, run
from hilum import settings
from hilum.engines import cuda
from hilum.engines.golden import check_golden
from hilum.engines.tensorrt import collector, library
from hilum.engines.tensorrt.network import signature
from hilum.engines.tensorrt.options import BuildOptions, profile_of
from hilum.engines.tensorrt.plan import load as load_plan
from hilum.engines.tensorrt.provision import build_into, refit_into
from hilum.engines.tensorrt.record import PlanRecord
from hilum.engines.tensorrt.runtime import TensorRTEngine
from hilum.engines.tensorrt.slot import buckets
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import DeviceOutOfMemoryError, EngineIncompatibleError, HilumError
from hilum.package import Precision
from hilum.package_io import Package, verify
from trainer.backbones import BACKBONES

COMPARED = 32  # films of the comparison of numbers
LONG = 16  # largest batches in a call, for throughput


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something measured; ``holds`` is None where it is only a figure."""

    check: str
    case: str
    value: float
    unit: str
    limit: float | None = None
    holds: bool | None = None
    detail: str = ""

    def text(self) -> str:
        """For people."""
        verdict = {None: "", True: "ok", False: "FAILED"}[self.holds]
        limit = "" if self.limit is None else f" (limit {self.limit:g})"
        value = f"{self.value:10.4g} {self.unit}{limit}"
        return f"{self.check:24} {self.case:34} {value}  {verdict} {self.detail}".rstrip()


def check(package: Package, case: str, store: PlanStore, *, seconds: float) -> Iterator[Fact]:
    """Everything about one package, in one process."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    yield from _step("build", case, lambda: _building(package, case, store, options))
    try:
        record = build_into(store, package, options).record  # it is there by now
    except HilumError:
        return  # as was said

    def step(
        name: str, case: str, facts: Callable[[TensorRTEngine], Iterator[Fact]], **how: Any
    ) -> Iterator[Fact]:
        def with_engine() -> Iterator[Fact]:
            with closing(_open(package, store, record, **how)) as engine:
                yield from facts(engine)

        return _step(name, case, with_engine)

    yield from _step("load", case, lambda: _loading(package, case, store, record))
    yield from step("numbers", case, lambda engine: numbers(engine, package, case))
    for graphs in (True, False):
        which = f"{case} graphs {'on' if graphs else 'off'}"
        facts = partial(latency, package=package, case=which, seconds=seconds)
        yield from step("latency", which, facts, streams=1, cuda_graphs=graphs)
    for streams in (1, 2, 3):
        which = f"{case} streams {streams}"
        facts = partial(_rate, package=package, case=which, seconds=seconds)
        yield from step("throughput", which, facts, streams=streams)


def _building(
    package: Package, case: str, store: PlanStore, options: BuildOptions
) -> Iterator[Fact]:
    provided = build_into(store, package, options, force=True)
    yield _figure("build", case, provided.record.build_seconds, "s")
    yield _figure("plan size", case, provided.record.plan_bytes / 2**20, "MiB")
    again = build_into(store, package, options, force=True)
    yield _figure("build with timings", case, again.record.build_seconds, "s")


def _loading(package: Package, case: str, store: PlanStore, record: PlanRecord) -> Iterator[Fact]:
    before, began = cuda.memory_free(), time.perf_counter()
    with closing(_open(package, store, record)):
        yield _figure("load", case, time.perf_counter() - began, "s")
        yield _figure("GPU memory", case, (before - cuda.memory_free()) / 2**20, "MiB")


def numbers(engine: TensorRTEngine, package: Package, case: str) -> Iterator[Fact]:
    """Against ONNX Runtime on the CPU, with the same graph; and the golden check."""
    variant = package.manifest.graph_for("tensorrt")
    images = films(package.manifest.input.size, COMPARED, seed=2)
    probability, cam = run(package.read(variant.graph), images)
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
    yield _holds("golden check", case, lambda: check_golden(engine, package, "tensorrt"))


def latency(engine: TensorRTEngine, package: Package, case: str, seconds: float) -> Iterator[Fact]:
    """Milliseconds of one call by batch, images in host memory to results in host memory."""
    for batch in buckets(engine.max_batch):
        images = films(package.manifest.input.size, batch)
        taken: list[float] = []
        until = time.perf_counter() + seconds / 4
        while len(taken) < 3 or time.perf_counter() < until:
            began = time.perf_counter()
            engine.run(images)
            taken.append(1e3 * (time.perf_counter() - began))
        yield _figure("latency p50", f"{case} batch {batch}", statistics.median(taken), "ms")
        slow = statistics.quantiles(taken, n=100)[98]
        yield _figure("latency p99", f"{case} batch {batch}", slow, "ms")


def throughput(engine: TensorRTEngine, package: Package, seconds: float) -> float:
    """Images a second in long batches."""
    images = films(package.manifest.input.size, LONG * engine.max_batch)
    engine.run(images)
    count, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        engine.run(images)
        count += len(images)
    return count / (time.perf_counter() - began)


def _rate(engine: TensorRTEngine, package: Package, case: str, seconds: float) -> Iterator[Fact]:
    yield _figure("throughput", case, throughput(engine, package, seconds), "images/s")


def refits(first: Package, second: Package, case: str, store: PlanStore) -> Iterator[Fact]:
    """The plan of ``first`` with the weights of ``second``."""
    profile = profile_of(first.manifest, batch_size=8)
    build_into(store, first, BuildOptions(profile=profile, refittable=True), force=True)
    provided = refit_into(store, second)
    yield _figure("refit", case, provided.record.build_seconds, "s")
    with closing(_open(second, store, provided.record)) as engine:
        yield from numbers(engine, second, f"{case} refitted")


def compatible(package: Package, case: str, store: PlanStore) -> Iterator[Fact]:
    """Plans for more than this GPU and version load and compute the same here."""
    profile = profile_of(package.manifest, batch_size=8)
    kinds: dict[str, dict[str, Any]] = {
        "ampere_plus": {"hardware": "ampere_plus"},
        "same_compute_capability": {"hardware": "same_compute_capability"},
        "version compatible": {"version_compatible": True},
    }
    for name, options in kinds.items():

        def build_and_check(options: dict[str, Any] = options) -> None:
            provided = build_into(store, package, BuildOptions(profile=profile, **options))
            with closing(_open(package, store, provided.record)) as engine:
                check_golden(engine, package, "tensorrt")

        yield _holds(f"plan {name}", case, build_and_check)


def failures(package: Package, case: str, store: PlanStore) -> Iterator[Fact]:
    """What goes wrong comes back as the error it is."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    provided = build_into(store, package, options)
    plan, record = provided.plan, provided.record

    def cut_short() -> None:
        promised = signature(package.manifest)
        _expect(
            EngineIncompatibleError,
            lambda: load_plan(plan[: len(plan) // 2], promised, host_code=False),
        )

    def no_room() -> None:
        runtime = cuda.load_runtime()
        filled: list[cuda.DeviceMemory] = []
        try:
            _fill(runtime, filled)
            _expect(DeviceOutOfMemoryError, lambda: _open(package, store, record))
        finally:
            for block in filled:
                block.close()

    yield _holds("truncated plan", case, cut_short)
    yield _holds("no memory", case, no_room)
    yield _holds("works again", case, lambda: _open(package, store, record).close())


def _fill(runtime: Any, filled: list[cuda.DeviceMemory]) -> None:
    """Take all of the GPU's memory, in ever smaller blocks."""
    size = cuda.memory_free()
    while size >= 2**12:
        try:
            filled.append(cuda.DeviceMemory(runtime, size))
        except DeviceOutOfMemoryError:
            size //= 2


def two_workers(package: Package, case: str, store: PlanStore, seconds: float) -> Iterator[Fact]:
    """Images a second of two processes on the one GPU, together, against one alone."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    build_into(store, package, options)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--worker", str(package.folder)]
    command += ["--engines", str(store.folder), "--seconds", str(seconds)]
    for count in (1, 2):
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        outputs = [process.communicate()[0] for process in running]
        worked = not any(process.returncode for process in running)
        rate = sum(float(out) for out in outputs) if worked else 0.0
        yield Fact(
            check="workers", case=f"{case} processes {count}", value=rate, unit="images/s",
            holds=worked,
        )  # fmt: skip


def _open(package: Package, store: PlanStore, record: PlanRecord, **how: Any) -> TensorRTEngine:
    return TensorRTEngine(package, record, store.read(record), **how)


def _step(name: str, case: str, facts: Callable[[], Iterator[Fact]]) -> Iterator[Fact]:
    """``facts``, as far as they come; what ends them early is one more, and not the end of all:
    an hour on a GPU is hard to come by."""
    try:
        yield from facts()
    except Exception as error:
        detail = str(error) if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
        collector.release(error)
        yield Fact(check=name, case=case, value=0, unit="", holds=False, detail=detail)


def _figure(name: str, case: str, value: float, unit: str) -> Fact:
    return Fact(check=name, case=case, value=value, unit=unit)


def _holds(name: str, case: str, step: Callable[[], None]) -> Fact:
    try:
        step()
    except (HilumError, AssertionError) as error:
        return Fact(check=name, case=case, value=0, unit="", holds=False, detail=str(error))
    return Fact(check=name, case=case, value=1, unit="", holds=True)


def _expect(kind: type[HilumError], step: Callable[[], object]) -> None:
    try:
        step()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} did not come")


def everything(
    folder: Path, *, backbones: list[str], precisions: list[Precision], seconds: float,
    size: int | None = None, max_batch: int = 16, workers: bool = True,
) -> Iterator[Fact]:  # fmt: skip
    """All facts, as they come."""
    store = PlanStore(folder / "engines")
    for backbone in backbones:
        for precision in precisions:
            case = f"{backbone} {precision}"

            package = partial(
                make, backbone=backbone, precision=precision, size=size, max_batch=max_batch
            )
            first = precision == precisions[0]
            whole = partial(
                _whole, folder, package, case, store, seconds, first=first, workers=workers
            )
            yield from _step("package", case, whole)


def _whole(
    folder: Path, package: Callable[..., Package], case: str, store: PlanStore, seconds: float, *,
    first: bool, workers: bool,
) -> Iterator[Fact]:  # fmt: skip
    one = package(folder / case.replace(" ", "-"))
    yield from check(one, case, store, seconds=seconds)
    if not first:
        return
    yield from _step(
        "refit", case, lambda: refits(one, package(folder / "new", seed=1), case, store)
    )
    yield from _step("compatible", case, lambda: compatible(one, case, store))
    yield from _step("failures", case, lambda: failures(one, case, store))
    if workers:
        yield from _step("workers", case, lambda: two_workers(one, case, store, seconds))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="resnet18 only, a second a figure")
    parser.add_argument("--to", type=Path, default=Path("build/gpu-check.jsonl"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--engines", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each figure")
    arguments = parser.parse_args()
    library.use(settings.load().tensorrt.library)
    try:
        device = cuda.require_device()
        name = library.label()
    except HilumError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if arguments.worker:
        package, store = verify(arguments.worker), PlanStore(arguments.engines)
        options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
        engine = _open(package, store, build_into(store, package, options).record)
        print(throughput(engine, package, arguments.seconds))
        return
    print(f"{device.name} ({device.sm}), driver for CUDA {device.driver_cuda}, {name}")
    arguments.to.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch, arguments.to.open("w") as file:
        facts = everything(
            Path(scratch),
            backbones=["resnet18"] if arguments.quick else sorted(BACKBONES),
            precisions=["fp16"] if arguments.quick else [*get_args(Precision)],
            seconds=1.0 if arguments.quick else arguments.seconds,
        )
        for fact in facts:
            print(fact.text(), flush=True)
            document = asdict(fact) | {"gpu": device.name, "library": name}
            file.write(json.dumps(document) + "\n")
            failed += fact.holds is False
    print(f"{failed} failed; figures in {arguments.to}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
