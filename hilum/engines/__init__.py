"""Engines run a model package's graph. One protocol, one module an engine.

The graph's contract: input ``image`` uint8 ``[N, 1, S, S]``; outputs ``probability`` float32
``[N, K]`` and ``cam`` float32 ``[N, K, h, w]``, the exact Grad-CAM map of every label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class EngineOutput:
    """What one engine call yields for a batch of N images and K labels."""

    probability: npt.NDArray[np.float32]  # [N, K], in [0, 1], before calibration
    cam: npt.NDArray[np.float32]  # [N, K, h, w], >= 0, Grad-CAM of the logit of each label


class Engine(Protocol):
    """A loaded graph, ready to run. Implementations are safe to call from one thread at a time."""

    @property
    def name(self) -> str:
        """Engine and device, for example ``onnxruntime-cpu``; stored with every result."""
        ...

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """Run the graph on ``[N, 1, S, S]`` uint8.

        Raises:
            EngineFailedError: the engine failed; the call may be repeated.
        """
        ...
