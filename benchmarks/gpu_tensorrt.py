"""What only a GPU can prove about TensorRT: plans, numbers, speed and failures.

Also a program, for :func:`two_workers`: images a second of this process alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_facts import (
    Fact,
    attempt,
    expect,
    figure,
    full,
    holds,
    latency,
    loading,
    numbers,
    rate,
    throughput,
)
from hilum import settings
from hilum.engines import Signature
from hilum.engines.golden import check_golden
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.objects import Messages
from hilum.engines.tensorrt.provision import build_into
from hilum.engines.tensorrt.record import BuildOptions, PlanRecord, profile_of
from hilum.engines.tensorrt.runtime import TensorRTEngine, load
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineIncompatibleError, HilumError
from hilum.packages.load import Package, verify


def check(package: Package, case: str, store: PlanStore, *, seconds: float) -> Iterator[Fact]:
    """Yield all facts about one package, in one process."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    yield from attempt("build", case, lambda: _building(package, case, store, options))
    try:
        record = build_into(store, package, options).record  # the plan exists by now
    except HilumError:
        return  # the fact above says so

    def with_engine(
        name: str, case: str, facts: Callable[[TensorRTEngine], Iterator[Fact]], **how: Any
    ) -> Iterator[Fact]:
        def found() -> Iterator[Fact]:
            with closing(_open(package, store, record, **how)) as engine:
                yield from facts(engine)

        return attempt(name, case, found)

    yield from attempt("load", case, lambda: loading(lambda: _open(package, store, record), case))
    yield from with_engine("numbers", case, lambda engine: numbers(engine, package, case))
    for graphs in (True, False):
        which = f"{case} graphs {'on' if graphs else 'off'}"
        facts = partial(latency, package=package, case=which, seconds=seconds)
        yield from with_engine("latency", which, facts, cuda_graphs=graphs)
    facts = partial(rate, package=package, case=case, seconds=seconds)
    yield from with_engine("throughput", case, facts)


def _building(
    package: Package, case: str, store: PlanStore, options: BuildOptions
) -> Iterator[Fact]:
    provided = build_into(store, package, options, force=True)
    yield figure("build", case, provided.record.build_seconds, "s")
    yield figure("plan size", case, provided.record.plan_bytes / 2**20, "MiB")
    again = build_into(store, package, options, force=True)
    yield figure("build with timings", case, again.record.build_seconds, "s")


def compatible(package: Package, case: str, store: PlanStore) -> Iterator[Fact]:
    """Check that plans for more GPUs and versions load and compute the same here."""
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

        yield holds(f"plan {name}", case, build_and_check)


def failures(package: Package, case: str, store: PlanStore) -> Iterator[Fact]:
    """Check that failures are reported as the right errors."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    provided = build_into(store, package, options)
    plan, record = provided.plan, provided.record

    def cut_short() -> None:
        promised = Signature.of(package.manifest)
        expect(
            EngineIncompatibleError,
            lambda: load(plan[: len(plan) // 2], promised, Messages(), host_code=False),
        )

    yield holds("truncated plan", case, cut_short)
    yield from full(lambda: _open(package, store, record), package, case)


def two_workers(package: Package, case: str, store: PlanStore, seconds: float) -> Iterator[Fact]:
    """Compare images per second of two processes on one GPU, together, with one alone."""
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    build_into(store, package, options)
    command = [sys.executable, "-m", "benchmarks.gpu_tensorrt", str(package.folder)]
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


def main() -> None:
    """Run one process of :func:`two_workers`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package", type=Path)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    library.use(settings.load().tensorrt.library)
    package, store = verify(arguments.package), PlanStore(arguments.engines)
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    try:
        engine = _open(package, store, build_into(store, package, options).record)
        print(throughput(engine, package, arguments.seconds))
    except HilumError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
