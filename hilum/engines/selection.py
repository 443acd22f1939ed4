"""Which engine runs a package here, and why that one.

``auto`` prefers TensorRT where there is a GPU and a plan for it, then ONNX Runtime on the GPU,
then the CPU. Each candidate has to load the package and reproduce its golden outputs; one that
cannot is passed over, with its reason kept. An engine asked for by name is never replaced. Nor is a
plan that is there and meets a GPU that is lost or full: that passes, and a process that had gone
over to the CPU would stay there for good. The error comes out, and whoever keeps the process
running starts it again.
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
from hilum.engines.tuning import applied
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
    """A candidate that was preferred and could not be used."""

    candidate: EngineChoice
    error: HilumError


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """An engine that has proved itself, and how it was chosen. Is itself an engine."""

    engine: Engine
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
        """``configured``, ``auto`` (the first choice), or ``auto:`` and the code of what kept
        TensorRT from being used."""
        if not self.automatic:
            return CONFIGURED
        return f"auto:{self.passed_over[0].error.code}" if self.passed_over else "auto"

    @property
    def because(self) -> str:
        """Why this engine, for people."""
        if not self.automatic:
            return "HILUM_ENGINE names it"
        if not self.passed_over:
            return "there is a GPU and a plan for it"
        return "; ".join(f"{p.candidate}: {p.error.detail}" for p in self.passed_over)


@runtime_checkable
class _Closable(Protocol):
    """An engine that holds more than Python's memory."""

    def close(self) -> None: ...


def reason_of(engine: Engine) -> str:
    """Why a result came from ``engine``; see :attr:`ChosenEngine.reason`."""
    return engine.reason if isinstance(engine, ChosenEngine) else CONFIGURED


def choose(package: Package, settings: Settings) -> ChosenEngine:
    """The engine for ``package``.

    Raises:
        EngineUnavailableError, EngineMissingError, EngineDamagedError: the engine asked for
            cannot run here.
        PackageError: the graph or the golden file is not usable, on any engine.
        GoldenCheckError: the engine asked for (or, under ``auto``, each of them) computes
            something else than the exporting machine did.
        DeviceLostError, DeviceOutOfMemoryError: the GPU was lost or full while a plan was loaded or
            proved itself; under ``auto`` too.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if settings.engine != "auto":
        return ChosenEngine(engine=_proved(settings.engine, package, settings), automatic=False)
    passed_over: list[PassedOver] = []
    for candidate in AUTOMATIC[:-1]:
        try:
            engine = _proved(candidate, package, settings)
        except (DeviceLostError, DeviceOutOfMemoryError):
            raise
        except HilumError as error:
            collector.release(error)  # it is kept, and must not keep the engine
            passed_over.append(PassedOver(candidate=candidate, error=error))
        else:
            return ChosenEngine(engine=engine, automatic=True, passed_over=tuple(passed_over))
    # The last is not passed over: its error is the package's or the installation's.
    engine = _proved(AUTOMATIC[-1], package, settings)
    return ChosenEngine(engine=engine, automatic=True, passed_over=tuple(passed_over))


def _proved(candidate: EngineChoice, package: Package, settings: Settings) -> Engine:
    engine = _OPENERS[candidate](package, settings)
    try:
        check_golden(engine, package, "cpu" if candidate == "onnxruntime" else "tensorrt")
    except BaseException:
        if isinstance(engine, _Closable):
            engine.close()  # the GPU's memory is wanted by the next candidate, or another process
        raise
    return engine


def _onnxruntime(package: Package, settings: Settings) -> Engine:
    from hilum.engines.onnxruntime import OnnxRuntimeEngine, name_of  # noqa: PLC0415 - as above

    settings = applied(package, settings, name_of(package.manifest, "cpu"))
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
        log.warning("HILUM_TENSORRT__STREAMS has no effect any more and goes in the next release.")
    library.use(settings.tensorrt.library)
    cuda.require_device()

    def opened(record: PlanRecord, plan: bytes) -> Engine:
        return TensorRTEngine(package, record, plan, cuda_graphs=settings.tensorrt.cuda_graphs)

    store, manifest = PlanStore(settings.engine_dir), package.manifest
    refused: str | None = None
    try:
        record, plan = store.find(
            provision.graph_sha256(manifest), this_machine(), max_batch=manifest.input.max_batch
        )
        refused = record.plan_sha256
        return opened(record, plan)
    except (EngineMissingError, EngineDamagedError) as error:
        # None that fits, none intact, or TensorRT refuses what seemed to fit.
        if settings.tensorrt.on_missing == "error":
            raise
        log.info("engine.building", extra={"fields": {"because": error.code}})
    provided = _built(store, package, settings, refused)
    return opened(provided.record, provided.plan)


def _built(store: PlanStore, package: Package, settings: Settings, refused: str | None) -> Provided:
    """A plan built now, which takes minutes: the log says how far it is."""
    from hilum.engines.tensorrt import provision  # noqa: PLC0415 - only the one used
    from hilum.engines.tensorrt.options import BuildOptions, profile_of  # noqa: PLC0415

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
