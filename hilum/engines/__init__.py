"""Engines run the graph of a package. They share one protocol, and each has its own module.

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
    """The outputs of one engine call for a batch of N images and K labels."""

    probability: npt.NDArray[np.float32]  # [N, K] raw outputs in [0, 1], before calibration
    cam: npt.NDArray[np.float32]  # [N, K, h, w], >= 0, Grad-CAM of the logit of each label


class Engine(Protocol):
    """A loaded graph, ready to run. Only one thread may call it at a time."""

    @property
    def name(self) -> str:
        """Engine and device, for example ``onnxruntime-cpu``. Stored with every result."""
        ...

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        """Run the graph on ``[N, 1, S, S]`` uint8.

        Raises:
            EngineFailedError: the engine failed; the call may be repeated.
        """
        ...
