"""ONNX Runtime: opens sessions of a package's graph, and runs them on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput, Signature, Tensors, cuda
from hilum.engines.onnx_file import has_external_data, opset
from hilum.errors import (
    DeviceOutOfMemoryError,
    EngineFailedError,
    EngineUnavailableError,
    HilumError,
    MissingExtraError,
    PackageError,
    PackageSchemaError,
)
from hilum.machine import usable_cores
from hilum.packages.load import Package
from hilum.packages.manifest import GRAPH, Manifest, Target

Device = Literal["cpu", "cuda"]

TARGETS: Final[dict[Device, Target]] = {"cpu": "cpu", "cuda": "tensorrt"}
_PROVIDERS: Final[dict[Device, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
_DTYPES: Final = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
SILENT: Final = 4  # fatal messages only: ONNX Runtime logs to the user's terminal
_CUDA_FAILURE: Final = re.compile(r"CUDA failure (\d+)")
_LIBRARY_FAILURE: Final = re.compile(r"CU[A-Z]+ failure \d+")
_LEAST_BYTES: Final = 64 * 2**20  # free memory that every graph needs
_ARENA_IS_FULL: Final = "Failed to allocate memory for requested buffer"
_GPU_BUILD: Final = (
    "Replace `onnxruntime` by `onnxruntime-gpu[cuda,cudnn]` for the CUDA version of the driver, "
    "or set HILUM_ENGINE to `onnxruntime`."
)


class OnnxRuntimeEngine:
    """Runs a package's graph in ONNX Runtime on the CPU.

    One run uses ``threads`` threads. 0 means one for each core that this process may use, which in
    a container are fewer than the machine has.

    Raises:
        HilumError: see :func:`open_session`.
    """

    name: str

    def __init__(self, package: Package, threads: int = 0) -> None:
        self.name = name_of(package.manifest, "cpu")
        self._session = open_session(package, "cpu", threads=threads)

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`."""
        try:
            probability, cam = self._session.run(["probability", "cam"], {"image": images})
        except Exception as error:
            raise run_failed(len(images), error) from None
        return EngineOutput(probability=probability, cam=cam)


def library() -> Any:
    """Import and return the module ``onnxruntime``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - optional in the core
    except ImportError:
        raise MissingExtraError(
            "The engine onnxruntime needs the package onnxruntime: install `hilum[serve]`."
        ) from None
    return onnxruntime


def open_session(
    package: Package,
    device: Device,
    *,
    threads: int = 0,
    options: Mapping[str, str] | None = None,
) -> Any:
    """Open an ``InferenceSession`` of the graph that the package has for ``device``.

    Args:
        device: ``cuda`` needs the GPU build of ONNX Runtime.
        threads: number of CPU threads of one run. 0: one for each core this process may use.
        options: options of the execution provider.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        EngineUnavailableError: it has no CUDA, or cannot start CUDA on this machine.
        DeviceOutOfMemoryError, DeviceLostError: the GPU ran out of memory, or was lost.
        PackageError: the graph is damaged, or keeps weights in another file.
        PackageSchemaError: the inputs or outputs of the graph contradict the manifest.
    """
    onnxruntime, provider = library(), _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailableError(
            "The installed ONNX Runtime has no CUDA: it is not `onnxruntime-gpu`.",
            next_step=_GPU_BUILD,
        )
    file = package.manifest.graph_for(TARGETS[device]).graph
    graph = package.read(file)
    if has_external_data(graph):
        raise PackageError(f"{file} keeps weights in another file. Export it as one file.")
    asked = onnxruntime.SessionOptions()
    asked.intra_op_num_threads = threads or usable_cores()
    asked.inter_op_num_threads = 1
    asked.log_severity_level = SILENT
    # Refuse ONNX Runtime's own format, which `has_external_data` cannot read.
    asked.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # No fallback: after a failure of the GPU, a session would print it to stdout and use the
        # CPU from then on.
        session = onnxruntime.InferenceSession(
            graph, asked, providers=[(provider, dict(options or {}))], enable_fallback=0
        )
    except Exception as error:  # its exceptions share no base class
        lacking = gpu_failed("loading the graph", error) if device == "cuda" else None
        raise lacking or PackageError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {file}, opset "
            f"{opset(graph)} ({type(error).__name__})."
        ) from None
    if provider not in session.get_providers():
        # ONNX Runtime has silently fallen back to the CPU.
        raise EngineUnavailableError(
            "ONNX Runtime cannot start CUDA on this machine.", next_step=_GPU_BUILD
        )
    if file == GRAPH and (found := opset(graph)) != package.manifest.opset:
        raise PackageSchemaError(
            f"{file} has opset {found}, but the manifest says {package.manifest.opset}."
        )
    _check_signature(session, package.manifest, file)
    return session


def run_failed(count: int, error: Exception) -> EngineFailedError:
    """The error for a failed run of ``count`` images."""
    return EngineFailedError(f"ONNX Runtime failed on a batch of {count} ({type(error).__name__}).")


def gpu_failed(where: str, error: Exception) -> EngineFailedError | None:
    """The typed error if a failure of the GPU caused ONNX Runtime's ``error``, else ``None``."""
    text = str(error)
    if number := _CUDA_FAILURE.search(text):
        return cuda.failure_numbered(int(number[1]), f"ONNX Runtime, {where}")
    if _ARENA_IS_FULL in text or _gpu_is_full():
        return DeviceOutOfMemoryError(f"The GPU ran out of memory (ONNX Runtime, {where}).")
    if library := _LIBRARY_FAILURE.search(text):
        return EngineFailedError(f"{library[0]} (ONNX Runtime, {where}).")
    return None


def _gpu_is_full() -> bool:
    """Whether the GPU is full. cuBLAS and cuDNN word that error differently in each version."""
    try:
        return cuda.memory_free() < _LEAST_BYTES
    except DeviceOutOfMemoryError:
        return True
    except HilumError:
        return False  # CUDA does not answer


def name_of(manifest: Manifest, device: Device) -> str:
    """The name of the engine that runs this package on ``device``."""
    precision = manifest.graph_for(TARGETS[device]).precision
    return f"onnxruntime-{device}" + ("" if precision == "fp32" else f"-{precision}")


def _check_signature(session: Any, manifest: Manifest, file: str) -> None:
    def tensors(nodes: Any) -> Tensors:
        return {
            node.name: (
                _DTYPES.get(node.type, node.type),
                tuple(n if isinstance(n, int) else -1 for n in node.shape),
            )
            for node in nodes
        }

    found = Signature(inputs=tensors(session.get_inputs()), outputs=tensors(session.get_outputs()))
    if found != (expected := Signature.of(manifest)):
        raise PackageSchemaError(f"{file} has {found}, but must have {expected}.")
