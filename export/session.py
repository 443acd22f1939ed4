"""Run a graph that is not in a package yet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime

from hilum.engines import EngineOutput
from hilum.machine import usable_cores


class Session:
    """Runs ``graph`` in ONNX Runtime on the CPU. See :class:`hilum.engines.Engine`.

    Args:
        as_written: run the graph without optimisations. Then int8 is computed in float32, where
            sums below 2²⁴ are exact, as in TensorRT. An optimised signed graph saturates at 16 bits
            on CPUs without VNNI.
    """

    name = "onnxruntime-cpu"  # as stored with results

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
        """Compute raw outputs and maps of images, uint8 ``[N, 1, S, S]``."""
        probability, cam = self._session.run(["probability", "cam"], {"image": images})
        return EngineOutput(probability=probability, cam=cam)
