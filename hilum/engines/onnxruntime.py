"""ONNX Runtime: sessions of a package's graph, and the engine that runs them on the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput, cuda
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
SILENT: Final = 4  # only fatal: ONNX Runtime's own lines would go to the user's terminal
_CUDA_FAILURE: Final = re.compile(r"CUDA failure (\d+)")
_LIBRARY_FAILURE: Final = re.compile(r"CU[A-Z]+ failure \d+")
_LEAST_BYTES: Final = 64 * 2**20  # with less no graph gets anywhere
_ARENA_IS_FULL: Final = "Failed to allocate memory for requested buffer"
_GPU_BUILD: Final = (
    "Put `onnxruntime-gpu[cuda,cudnn]` in the place of `onnxruntime`, of the major version of CUDA "
    "that the driver runs, or choose engine `onnxruntime`."
)


class OnnxRuntimeEngine:
    """A package's graph in ONNX Runtime on the CPU, all labels and maps at once.

    Args:
        package: verified.
        threads: of one run; 0 takes the cores this process may use (in a container that is
            fewer than the machine has).

    Raises:
        As :func:`open_session`.
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
    """The module ``onnxruntime``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - the core does without it
    except ImportError:
        raise MissingExtraError(
            "The onnxruntime engine needs onnxruntime: install `hilum[serve]`."
        ) from None
    return onnxruntime


def open_session(
    package: Package,
    device: Device,
    *,
    threads: int = 0,
    options: Mapping[str, str] | None = None,
) -> Any:
    """The ``InferenceSession`` of the graph that ``device`` runs.

    Args:
        package: verified.
        device: `cuda` needs ONNX Runtime's GPU build, and runs the graph meant for GPUs.
        threads: on the CPU, of one run; 0: all this process may use.
        options: of the execution provider.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        EngineUnavailableError: it has no CUDA, or cannot start it here.
        DeviceOutOfMemoryError, DeviceLostError: the GPU is full, or gone.
        PackageError: the graph is damaged, or its weights lie outside the package's file.
        PackageSchemaError: its inputs and outputs are not those the manifest promises.
    """
    onnxruntime, provider = library(), _PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise EngineUnavailableError(
            "The installed ONNX Runtime is not the GPU build (`onnxruntime-gpu`).",
            next_step=_GPU_BUILD,
        )
    file = package.manifest.graph_for(TARGETS[device]).graph
    graph = package.read(file)
    if has_external_data(graph):
        raise PackageError(f"{file} keeps weights in another file; export it as one file.")
    asked = onnxruntime.SessionOptions()
    asked.intra_op_num_threads = threads or usable_cores()
    asked.inter_op_num_threads = 1
    asked.log_severity_level = SILENT
    # Not ONNX Runtime's own format, which `has_external_data` cannot read.
    asked.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        # Without its fallback: a session that meets a failure of the GPU would say so on stdout,
        # and go on upon the CPU for good.
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
        # It has quietly gone over to the CPU.
        raise EngineUnavailableError(
            "ONNX Runtime cannot start CUDA on this machine.", next_step=_GPU_BUILD
        )
    if file == GRAPH and (found := opset(graph)) != package.manifest.opset:
        raise PackageSchemaError(
            f"{file} is of opset {found}, the manifest says {package.manifest.opset}."
        )
    _check_signature(session, package.manifest, file)
    return session


def run_failed(count: int, error: Exception) -> EngineFailedError:
    """What a failed run of ``count`` images is."""
    return EngineFailedError(f"ONNX Runtime failed on a batch of {count} ({type(error).__name__}).")


def gpu_failed(where: str, error: Exception) -> EngineFailedError | None:
    """The GPU's failure behind ONNX Runtime's ``error``, if it is one."""
    said = str(error)
    if number := _CUDA_FAILURE.search(said):
        return cuda.failure_numbered(int(number[1]), f"ONNX Runtime, {where}")
    if _ARENA_IS_FULL in said or _gpu_is_full():
        return DeviceOutOfMemoryError(f"The GPU has no memory left (ONNX Runtime, {where}).")
    if library := _LIBRARY_FAILURE.search(said):
        return EngineFailedError(f"{library[0]} (ONNX Runtime, {where}).")
    return None


def _gpu_is_full() -> bool:
    """cuBLAS and cuDNN each have other words for it, from version to version."""
    try:
        return cuda.memory_free() < _LEAST_BYTES
    except DeviceOutOfMemoryError:
        return True
    except HilumError:
        return False  # nobody to ask


def name_of(manifest: Manifest, device: Device) -> str:
    """What the engine of that package is called on ``device``."""
    precision = manifest.graph_for(TARGETS[device]).precision
    return f"onnxruntime-{device}" + ("" if precision == "fp32" else f"-{precision}")


def _check_signature(session: Any, manifest: Manifest, file: str) -> None:
    side, labels = manifest.input.size, len(manifest.label_set.labels)
    expected = {
        "input image": ("tensor(uint8)", [1, side, side]),
        "output probability": ("tensor(float)", [labels]),
        "output cam": ("tensor(float)", [labels, *manifest.cam_grid]),
    }
    found = {f"input {node.name}": node for node in session.get_inputs()} | {
        f"output {node.name}": node for node in session.get_outputs()
    }
    if set(found) != set(expected):
        raise PackageSchemaError(
            f"{file} has {', '.join(sorted(found))}; expected {', '.join(sorted(expected))}."
        )
    for name, (dtype, shape) in expected.items():
        node = found[name]
        if node.type != dtype or not _batch_of(node.shape, shape):
            raise PackageSchemaError(
                f"{file}: {name} is {node.type} {node.shape}; expected {dtype} ['N', "
                f"{', '.join(map(str, shape))}]."
            )


def _batch_of(shape: Sequence[int | str | None], one: Sequence[int]) -> bool:
    """Whether ``shape`` is a free batch dimension before exactly ``one``."""
    return len(shape) == len(one) + 1 and not isinstance(shape[0], int) and [*shape[1:]] == [*one]
