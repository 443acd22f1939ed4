"""The ONNX Runtime engine, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hilum.engines import EngineOutput
from hilum.engines.onnx_file import has_external_data, opset
from hilum.errors import (
    EngineFailedError,
    EngineUnavailableError,
    MissingExtraError,
    PackageError,
    PackageSchemaError,
)
from hilum.machine import usable_cores
from hilum.package import GRAPH, Manifest, Target
from hilum.package_io import Package

Device = Literal["cpu", "cuda"]

_TARGETS: Final[dict[Device, Target]] = {"cpu": "cpu", "cuda": "tensorrt"}
_SILENT: Final = 4  # only fatal: ONNX Runtime's own lines would go to the user's terminal


class OnnxRuntimeEngine:
    """A package's graph in ONNX Runtime, on all labels and maps at once.

    Args:
        package: verified.
        threads: of one run; 0 takes the cores this process may use (in a container that is
            fewer than the machine has).
        device: `cuda` needs ONNX Runtime's GPU build, and runs the graph meant for GPUs.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        EngineUnavailableError: it has no CUDA, or cannot start it here.
        PackageError: the graph is damaged, or its weights lie outside the package's file.
        PackageSchemaError: its inputs and outputs are not those the manifest promises.
    """

    name: str

    def __init__(self, package: Package, threads: int = 0, *, device: Device = "cpu") -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - the core does without it
        except ImportError:
            raise MissingExtraError(
                "The onnxruntime engine needs onnxruntime: install `hilum[serve]`."
            ) from None
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise EngineUnavailableError(
                "The installed ONNX Runtime is not the GPU build (`onnxruntime-gpu`)."
            )
        self.name = name_of(package.manifest, device)
        file = package.manifest.graph_for(_TARGETS[device]).graph
        graph = package.read(file)
        if has_external_data(graph):
            raise PackageError(f"{file} keeps weights in another file; export it as one file.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # Not ONNX Runtime's own format, which `has_external_data` cannot read.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        except Exception as error:  # its exceptions share no base class
            raise PackageError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {file}, opset "
                f"{opset(graph)} ({type(error).__name__})."
            ) from None
        if provider not in self._session.get_providers():
            # It has quietly gone over to the CPU.
            raise EngineUnavailableError("ONNX Runtime cannot start CUDA on this machine.")
        if file == GRAPH and (found := opset(graph)) != package.manifest.opset:
            raise PackageSchemaError(
                f"{file} is of opset {found}, the manifest says {package.manifest.opset}."
            )
        _check_signature(self._session, package.manifest, file)

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """See :class:`hilum.engines.Engine`."""
        try:
            probability, cam = self._session.run(["probability", "cam"], {"image": images})
        except Exception as error:
            raise EngineFailedError(
                f"ONNX Runtime failed on a batch of {len(images)} ({type(error).__name__})."
            ) from None
        return EngineOutput(probability=probability, cam=cam)


def name_of(manifest: Manifest, device: Device) -> str:
    """What the engine of that package is called on ``device``."""
    precision = manifest.graph_for(_TARGETS[device]).precision
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
