"""A graph's bytes as an engine, and bare arrays as films, before there is a package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from hilum.engines import Engine, EngineOutput
from hilum.imaging.transform import Placement
from hilum.machine import usable_cores
from trainer.evaluation import scorer
from trainer.evaluation.scorer import Run


@dataclass(frozen=True, kw_only=True)
class Films:
    """Model inputs ``[N, 1, S, S]`` of which nothing else is known."""

    images: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def placement(self, index: int) -> Placement:
        """As if the input were the film."""
        side = int(self.images.shape[-1])
        return Placement.letterbox(height=side, width=side, size=side)


def run(engine: Engine, images: npt.NDArray[np.uint8]) -> Run:
    """The outputs of ``engine`` for any number of images."""
    return scorer.run(engine, Films(images=images))


class Session:
    """``graph`` in ONNX Runtime on the CPU; see :class:`hilum.engines.Engine`.

    Args:
        graph: of an ONNX file.
        threads: 0: one for each core.
        as_written: node by node, which computes int8 in float32: every sum is exact below 2²⁴, as
            TensorRT's are. What ONNX Runtime makes of a signed graph otherwise saturates at 16 bits
            on CPUs without VNNI.
    """

    name = "onnxruntime-cpu"  # as in results

    def __init__(self, graph: bytes, threads: int = 0, *, as_written: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        if as_written:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """uint8 ``[N, 1, S, S]`` to probabilities and maps."""
        probability, cam = self._session.run(["probability", "cam"], {"image": images})
        return EngineOutput(probability=probability, cam=cam)
