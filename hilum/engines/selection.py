"""Choose the engine that runs a package on this machine, and say why.

``auto`` prefers TensorRT where there is a GPU and a plan for it, then ONNX Runtime on the GPU, then
the CPU. Each candidate must load the package and pass the golden check. One that cannot is passed
over, and the reason is kept. An engine configured by name is never replaced by another. Nor does
``auto`` pass over an engine because the GPU is lost or out of memory: that is temporary, but a
process that fell back to the CPU would stay there. The error is raised instead, and the supervisor
of the process restarts it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hilum.engines import Engine, EngineOutput
from hilum.engines.golden import check_golden
from hilum.engines.tensorrt import collector
from hilum.engines.tuning import apply_tuning
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineDamagedError,
    EngineMissingError,
    HilumError,
)
from hilum.packages.load import Package
from hilum.settings import EngineChoice, Settings

if TYPE_CHECKING:
    from hilum.engines.tensorrt.build import Progress
    from hilum.engines.tensorrt.provision import Provided
    from hilum.engines.tensorrt.record import PlanRecord
    from hilum.engines.tensorrt.store import PlanStore

log = logging.getLogger(__name__)

CONFIGURED: Final = "configured"
AUTOMATIC: Final[tuple[EngineChoice, ...]] = ("tensorrt", "onnxruntime-cuda", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A preferred candidate that could not be used."""

    candidate: EngineChoice
    error: HilumError


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """An engine that passed the golden check, and why it was chosen. It is itself an engine."""

    engine: Engine
    settings: Settings  # with the tuning of this model on this machine
    automatic: bool
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def name(self) -> str:
        """See :class:`hilum.engines.Engine`."""
        return self.engine.name

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`."""
        return self.engine.run(images)

    @property
    def reason(self) -> str:
        """``configured``, ``auto`` (the first choice), or ``auto:`` and the code of the error that
        ruled out TensorRT."""
        if not self.automatic:
            return CONFIGURED
        return f"auto:{self.passed_over[0].error.code}" if self.passed_over else "auto"

    @property
    def because(self) -> str:
        """Why this engine was chosen, for people."""
        if not self.automatic:
            return "HILUM_ENGINE names this engine"
        if not self.passed_over:
            return "there is a GPU and a TensorRT plan for it"
        return "; ".join(f"{p.candidate}: {p.error.detail}" for p in self.passed_over)


@runtime_checkable
class _Closable(Protocol):
    """An engine that holds memory of the GPU."""

    def close(self) -> None: ...


def reason_of(engine: Engine) -> str:
    """Why ``engine`` produced a result, see :attr:`ChosenEngine.reason`."""
    return engine.reason if isinstance(engine, ChosenEngine) else CONFIGURED


def choose(package: Package, settings: Settings) -> ChosenEngine:
    """Open the engine for ``package``.

    Raises:
        EngineUnavailableError, EngineMissingError, EngineDamagedError: the configured engine cannot
            run on this machine.
        PackageError: no engine can use the graph or the golden outputs.
        GoldenCheckError: the configured engine (under ``auto``: every engine) fails the check.
        DeviceLostError, DeviceOutOfMemoryError: the GPU was lost or ran out of memory while an
            engine was loaded or checked. Raised under ``auto`` too.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if settings.engine != "auto":
        engine, tuned = _open_checked(settings.engine, package, settings)
        return ChosenEngine(engine=engine, settings=tuned, automatic=False)
    passed_over: list[PassedOver] = []
    for candidate in AUTOMATIC:
        try:
            engine, tuned = _open_checked(candidate, package, settings)
            break
        except (DeviceLostError, DeviceOutOfMemoryError):
            raise
        except HilumError as error:
            if candidate == AUTOMATIC[-1]:
                raise  # it lies in the package or the installation
            collector.release(error)  # the error is kept, but must not keep the engine alive
            passed_over.append(PassedOver(candidate=candidate, error=error))
    return ChosenEngine(
        engine=engine, settings=tuned, automatic=True, passed_over=tuple(passed_over)
    )


def _open_checked(
    candidate: EngineChoice, package: Package, settings: Settings
) -> tuple[Engine, Settings]:
    """The engine, and ``settings`` with the tuning, which only the CPU has."""
    if candidate == "onnxruntime":
        from hilum.engines.onnxruntime import name_of  # noqa: PLC0415 - only the one used

        settings = apply_tuning(package, settings, name_of(package.manifest, "cpu"))
    engine = _OPENERS[candidate](package, settings)
    try:
        check_golden(engine, package, "cpu" if candidate == "onnxruntime" else "tensorrt")
    except BaseException:
        if isinstance(engine, _Closable):
            engine.close()  # the next candidate or another process needs the GPU's memory
        raise
    return engine, settings


def _onnxruntime(package: Package, settings: Settings) -> Engine:
    from hilum.engines.onnxruntime import OnnxRuntimeEngine  # noqa: PLC0415 - as above

    return OnnxRuntimeEngine(package, settings.worker.engine_threads)


def _onnxruntime_cuda(package: Package, settings: Settings) -> Engine:
    from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine  # noqa: PLC0415 - as above

    largest = min(settings.worker.batch_size, package.manifest.input.max_batch)
    return OnnxRuntimeCudaEngine(package, max_batch=largest)


def _tensorrt(package: Package, settings: Settings) -> Engine:
    from hilum.engines import cuda  # noqa: PLC0415 - only the one used
    from hilum.engines.tensorrt import library, provision  # noqa: PLC0415
    from hilum.engines.tensorrt.record import this_machine  # noqa: PLC0415
    from hilum.engines.tensorrt.runtime import TensorRTEngine  # noqa: PLC0415
    from hilum.engines.tensorrt.store import PlanStore  # noqa: PLC0415

    if settings.tensorrt.streams != 1:
        log.warning("HILUM_TENSORRT__STREAMS has no effect and will be removed.")
    library.use(settings.tensorrt.library)
    cuda.require_device()

    def open_plan(record: PlanRecord, plan: bytes) -> Engine:
        return TensorRTEngine(package, record, plan, cuda_graphs=settings.tensorrt.cuda_graphs)

    store, manifest = PlanStore(settings.engine_dir), package.manifest
    refused: str | None = None
    try:
        record, plan = store.find(
            provision.graph_sha256(manifest), this_machine(), max_batch=manifest.input.max_batch
        )
        refused = record.plan_sha256
        return open_plan(record, plan)
    except (EngineMissingError, EngineDamagedError) as error:
        # No plan fits, none is intact, or TensorRT refuses one that seemed to fit.
        if settings.tensorrt.on_missing == "error":
            raise
        log.info("engine.building", extra={"fields": {"because": error.code}})
    provided = _build(store, package, settings, refused)
    return open_plan(provided.record, provided.plan)


def _build(store: PlanStore, package: Package, settings: Settings, refused: str | None) -> Provided:
    """Build a plan and log the progress. This takes minutes."""
    from hilum.engines.tensorrt import provision  # noqa: PLC0415 - only the one used
    from hilum.engines.tensorrt.record import BuildOptions, profile_of  # noqa: PLC0415

    def report(step: Progress) -> None:
        if step.parent is None and step.done == 0:
            log.info("engine.build_phase", extra={"fields": {"phase": step.phase}})

    provided = provision.build_into(
        store,
        package,
        BuildOptions(profile=profile_of(package.manifest, batch_size=settings.worker.batch_size)),
        refused=refused,
        report=report,
        on_wait=lambda: log.info("engine.build_waits_for_another_process"),
    )
    fields = {"new": provided.new, "seconds": provided.record.build_seconds}
    log.info("engine.built", extra={"fields": fields})
    return provided


_OPENERS: Final[dict[EngineChoice, Callable[[Package, Settings], Engine]]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime": _onnxruntime,
}
