"""Choose and open the engine that runs a package on this machine, and say why it was chosen.

``auto`` prefers TensorRT where there is a GPU and a plan for it, then ONNX Runtime on the GPU, then
the CPU. Each candidate must load the package and pass the golden check. One that cannot is passed
over, and the reason is kept. An engine configured by name is never replaced by another. Nor does
``auto`` pass over an engine because the GPU is lost or out of memory: that is temporary, but a
process that fell back to the CPU would stay there. The error is raised instead, and the supervisor
of the process restarts it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hilum.engines import Engine, EngineOutput, cuda
from hilum.engines.golden import check_golden
from hilum.engines.onnxruntime import OnnxRuntimeEngine, name_of
from hilum.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine
from hilum.engines.tensorrt import library
from hilum.engines.tensorrt.build import Progress
from hilum.engines.tensorrt.objects import release
from hilum.engines.tensorrt.provision import build_into
from hilum.engines.tensorrt.record import (
    BuildOptions,
    PlanRecord,
    graph_sha256,
    profile_of,
    this_machine,
)
from hilum.engines.tensorrt.runtime import TensorRTEngine
from hilum.engines.tensorrt.store import PlanStore
from hilum.engines.tuning import apply_tuning
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineDamagedError,
    EngineMissingError,
    EngineUnavailableError,
    HilumError,
)
from hilum.packages.load import Package, check_signature
from hilum.settings import EngineChoice, Settings

__all__ = ["ChosenEngine", "PassedOver", "check_golden", "open_engine", "reason_of"]

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


def open_engine(package: Package, settings: Settings) -> ChosenEngine:
    """Open the engine for ``package``, run the golden check, and log the choice.

    Raises:
        PackageUnsignedError, PackageSignatureError: ``trusted_signers`` is set, and none of these
            signers signed the package.
        EngineUnavailableError, EngineMissingError, EngineDamagedError: the configured engine cannot
            run on this machine.
        PackageError: no engine can use the graph or the golden outputs.
        GoldenCheckError: the configured engine (under ``auto``: every engine) fails the check.
        DeviceLostError, DeviceOutOfMemoryError: the GPU was lost or ran out of memory while an
            engine was loaded or checked. Raised under ``auto`` too.
        MissingExtraError: ONNX Runtime is not installed.
    """
    check_signature(package, settings)
    choice = _choose(package, settings)
    for passed in choice.passed_over:
        # Most machines have no GPU or no plan yet. Any other reason deserves a warning.
        usual = isinstance(passed.error, EngineUnavailableError | EngineMissingError)
        fields = {"candidate": passed.candidate, **passed.error.body()}
        level = logging.INFO if usual else logging.WARNING
        log.log(level, "engine.passed_over", extra={"fields": fields})
    fields = {"engine": choice.name, "reason": choice.reason, "because": choice.because}
    log.info("engine.chosen", extra={"fields": fields})
    return choice


def _choose(package: Package, settings: Settings) -> ChosenEngine:
    automatic = settings.engine == "auto"
    candidates = AUTOMATIC if automatic else (settings.engine,)
    passed_over: list[PassedOver] = []
    for candidate in candidates:
        try:
            engine, tuned = _open_checked(candidate, package, settings)
            break
        except (DeviceLostError, DeviceOutOfMemoryError):
            raise
        except HilumError as error:
            if candidate == candidates[-1]:
                raise  # under `auto`, the fault lies in the package or the installation
            release(error)  # the error is kept, but must not keep the engine alive
            passed_over.append(PassedOver(candidate=candidate, error=error))
    return ChosenEngine(
        engine=engine, settings=tuned, automatic=automatic, passed_over=tuple(passed_over)
    )


def _open_checked(
    candidate: EngineChoice, package: Package, settings: Settings
) -> tuple[Engine, Settings]:
    """The engine, and ``settings`` with the tuning, which only the CPU has."""
    engine: Engine
    if candidate == "onnxruntime":
        settings = apply_tuning(package, settings, name_of(package.manifest, "cpu"))
        engine = OnnxRuntimeEngine(package, settings.worker.engine_threads)
    elif candidate == "onnxruntime-cuda":
        largest = min(settings.worker.batch_size, package.manifest.input.max_batch)
        engine = OnnxRuntimeCudaEngine(package, max_batch=largest)
    else:
        engine = _open_tensorrt(package, settings)
    try:
        check_golden(engine, package, "cpu" if candidate == "onnxruntime" else "tensorrt")
    except BaseException:
        if isinstance(engine, _Closable):
            engine.close()  # the next candidate or another process needs the GPU's memory
        raise
    return engine, settings


def _open_tensorrt(package: Package, settings: Settings) -> Engine:
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
            graph_sha256(manifest), this_machine(), max_batch=manifest.input.max_batch
        )
        refused = record.plan_sha256
        return open_plan(record, plan)
    except (EngineMissingError, EngineDamagedError) as error:
        # No plan fits, none is intact, or TensorRT refuses one that seemed to fit.
        if settings.tensorrt.on_missing == "error":
            raise
        log.info("engine.building", extra={"fields": {"because": error.code}})
    provided = build_into(  # takes minutes
        store,
        package,
        BuildOptions(profile=profile_of(manifest, batch_size=settings.worker.batch_size)),
        refused=refused,
        report=_log_phase,
        on_wait=lambda: log.info("engine.build_waits_for_another_process"),
    )
    fields = {"new": provided.new, "seconds": provided.record.build_seconds}
    log.info("engine.built", extra={"fields": fields})
    return open_plan(provided.record, provided.plan)


def _log_phase(step: Progress) -> None:
    if step.parent is None and step.done == 0:
        log.info("engine.build_phase", extra={"fields": {"phase": step.phase}})
