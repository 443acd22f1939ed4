"""Export a model to ONNX: one graph from the image to the raw outputs and all Grad-CAM maps."""

from __future__ import annotations

import warnings
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.graph import mute
from hilum.packages.labels import HeadKind
from trainer.backbones import Classifier
from trainer.gradcam import WithMaps

OPSET: Final = 20
PARITY: Final = 1e-4  # ONNX Runtime against PyTorch, both float32
_SMALL: Final = 256  # initialisers with fewer values stay float32

WeightsDtype = Literal["float32", "float16"]


def export(model: Classifier, kind: HeadKind, *, size: int) -> bytes:
    """Export ``model`` for inputs of side ``size``, in float32 and with a dynamic batch size.

    Input: ``image`` uint8 ``[N, 1, S, S]``. Outputs: ``probability`` float32 ``[N, K]`` and ``cam``
    float32 ``[N, K, h, w]``.

    Raises:
        ExportError: ONNX Runtime and PyTorch compute different outputs.
    """
    graph = _trace(WithMaps(model, kind).eval(), size)
    check_parity(graph, model, kind, size=size)
    return graph


def check_parity(graph: bytes, model: Classifier, kind: HeadKind, *, size: int) -> float:
    """Return the largest difference between ``graph`` in ONNX Runtime and ``model`` in PyTorch.

    Measured on noise in batches of one and three. Maps are compared relative to their maximum.

    Raises:
        ExportError: the difference is larger than :data:`PARITY`.
    """
    wrapped = WithMaps(model, kind).eval()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for count in (1, 3):
        image = rng.integers(0, 256, (count, 1, size, size), dtype=np.uint8)
        probability, cam = session.run(["probability", "cam"], {"image": image})
        with torch.no_grad():
            expected_p, expected_cam = (t.numpy() for t in wrapped(torch.from_numpy(image)))
        scale = max(float(expected_cam.max()), 1e-12)
        worst = max(
            worst,
            float(np.abs(probability - expected_p).max()),
            float(np.abs(cam - expected_cam).max()) / scale,
        )
    if not worst <= PARITY:  # written so that NaN fails too
        raise ExportError(
            f"ONNX Runtime and PyTorch differ by {worst:.1e}; the limit is {PARITY:g}.",
            next_step="Report this with the versions of torch and onnxruntime.",
        )
    return worst


def store_in_half(graph: bytes) -> bytes:
    """Return the graph with its large weights stored as float16 and cast to float32 on loading.

    It takes half the space. The arithmetic stays float32, because ONNX Runtime folds the casts. The
    weights are rounded, so all figures of the model must be measured afterwards.
    """
    model = onnx.load_model_from_string(graph)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        name = tensor.name
        half: npt.NDArray[np.float16] = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError("A weight is too large for float16.", next_step="Omit --half.")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
    # The types recorded for the old initialisers would contradict the new ones.
    names = {cast.output[0] for cast in casts}
    kept = [value for value in model.graph.value_info if value.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _trace(module: WithMaps, size: int) -> bytes:
    example = torch.zeros((2, 1, size, size), dtype=torch.uint8)
    with mute("torch.onnx"), warnings.catch_warnings():
        # The exporter emits deprecation warnings. The parity check tests its output.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=["probability", "cam"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
