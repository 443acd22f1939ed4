"""Engines run the graph of a package. They share one protocol, and each has its own module.

The graph's contract: input ``image`` uint8 ``[N, 1, S, S]``; outputs ``probability`` float32
``[N, K]`` and ``cam`` float32 ``[N, K, h, w]``, the exact Grad-CAM map of every label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hilum.packages.manifest import Manifest

Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name → dtype and shape; -1 is the batch


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The inputs and outputs of a graph."""

    inputs: Tensors
    outputs: Tensors

    @classmethod
    def of(cls, manifest: Manifest) -> Signature:
        """The signature that the graph of a package must have."""
        side, labels = manifest.input.size, len(manifest.label_set.labels)
        return cls(
            inputs={"image": ("uint8", (-1, 1, side, side))},
            outputs={
                "probability": ("float32", (-1, labels)),
                "cam": ("float32", (-1, labels, *manifest.cam_grid)),
            },
        )

    def __str__(self) -> str:
        return " and ".join(
            f"the {kind}s {', '.join(f'{n} {d} {list(s)}' for n, (d, s) in sorted(found.items()))}"
            for kind, found in (("input", self.inputs), ("output", self.outputs))
        )


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
