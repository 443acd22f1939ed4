"""Make graphs whose body computes in int8, with scales in QDQ pairs.

Weights are quantised per channel, activations per tensor. The ranges of activations are measured on
training films, by percentile or entropy (ONNX Runtime's calibrators). Each target has its own
graph:

- *cpu*: unsigned activations × signed weights, as x86 multiplies them. Weights have 7 bits: without
  VNNI the sum of two 8-bit products saturates in 16 bits, so that two machines would compute
  different outputs.
- *tensorrt*: signed × signed, symmetric, all zero points 0, biases in float32. TensorRT parses
  nothing else.

Entry, exit and the gradient of AlexNet's maps stay float32 (:mod:`export.graph`), and so do all
layers in ``keep``.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from export.errors import PrecisionError
from export.graph import exact_nodes, fold, layers, mute, serialise

Target = Literal["cpu", "tensorrt"]
Method = Literal["percentile", "entropy"]
Images = npt.NDArray[np.uint8]  # [N, 1, S, S]

_OPS: Final = ["Conv", "Gemm", "Add", "MaxPool", "AveragePool", "Concat"]
_CHUNK: Final = 4  # number of images whose activations are held in memory at once
_PERCENTILE: Final = 99.999  # percentage of a tensor's values that its range covers
_OPTIONS: Final[dict[Target, dict[str, Any]]] = {
    "cpu": {"ActivationSymmetric": False, "WeightSymmetric": True},
    "tensorrt": {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "QDQKeepRemovableActivations": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A float32 graph with the ranges of its activations, ready for either target."""

    model: ModelProto
    ranges: Any  # onnxruntime.quantization.calibrate.TensorsData

    @property
    def layers(self) -> dict[str, str]:
        """The layers that can be quantised: name of the node → name of the layer."""
        found = layers(self.model)
        types = {node.name: node.op_type for node in self.model.graph.node}
        return {node: layer for node, layer in found.items() if types[node] in _OPS}


class _Films(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self._batches = ({"image": images[n : n + 1]} for n in range(len(images)))

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def calibrate(graph: bytes, images: Images, *, method: Method = "percentile") -> Calibrated:
    """Measure the activations of ``graph`` on ``images``, uint8 ``[N, 1, S, S]``.

    Raises:
        PrecisionError: there is no image.
    """
    if not len(images):
        raise PrecisionError("int8 needs training films for calibration, but there are none.")
    model = fold(graph)
    extra = {"percentile": _PERCENTILE} if method == "percentile" else {}
    kind = CalibrationMethod.Percentile if method == "percentile" else CalibrationMethod.Entropy
    with tempfile.TemporaryDirectory(prefix="hilum-int8-") as scratch, _quiet():
        source = Path(scratch) / "float.onnx"
        onnx.save_model(model, source)
        collector = create_calibrator(
            source,
            _OPS,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=extra,
        )
        for start in range(0, len(images), _CHUNK):
            collector.collect_data(_Films(images[start : start + _CHUNK]))
        ranges = collector.compute_data()
    return Calibrated(model=model, ranges=ranges)


def quantise(found: Calibrated, *, target: Target, keep: Set[str] = frozenset()) -> bytes:
    """Make the int8 graph for ``target``. The layers in ``keep`` stay float32."""
    model = ModelProto()
    model.CopyFrom(found.model)
    exact = exact_nodes(model)
    nodes = found.layers
    excluded = exact | {node for node, layer in nodes.items() if layer in keep}
    with _quiet():
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=True,
            reduce_range=target == "cpu",
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if target == "cpu" else QuantType.QInt8,
            tensors_range=found.ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(excluded),
            op_types_to_quantize=_OPS,
            extra_options=_OPTIONS[target],
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return serialise(quantizer.model.model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence ONNX Runtime's quantisation, which prints and warns through the root logger."""
    with mute(), contextlib.redirect_stdout(io.StringIO()):
        yield
