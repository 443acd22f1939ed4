"""From a graph's raw outputs to what is reported: calibration, then operating points."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hilum.finding import Finding
from hilum.packages.labels import HeadKind
from hilum.packages.manifest import Calibration, Manifest

Float32Array = npt.NDArray[np.float32]

# A float32 sigmoid saturates to exactly 0 or 1 beyond this; its logit would be infinite.
_EPSILON: Final = 1e-7


def calibrate(raw: Float32Array, calibration: Calibration, kind: HeadKind) -> Float32Array:
    """Calibrated probabilities float32 ``[..., K]`` of the graph's ``raw`` ``[..., K]``.

    Platt scaling (Platt 1999) on the logit for ``multi_label``, vector scaling (Guo et al.
    2017, section 4.2) on the logarithm for ``multi_class``: see
    :class:`hilum.packages.manifest.Calibration`. Computed in float64.
    """
    scale, shift = np.array(calibration.scale), np.array(calibration.shift)
    p = np.clip(raw.astype(np.float64), _EPSILON, 1 - _EPSILON)
    if kind == "multi_label":
        score = scale * np.log(p / (1 - p)) + shift
        # 1 / (1 + exp(-x)) in a form that overflows for no x.
        return np.asarray(0.5 * (1 + np.tanh(0.5 * score)), dtype=np.float32)
    score = scale * np.log(p) + shift
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True), dtype=np.float32)


def above_operating_point(probability: Float32Array, manifest: Manifest) -> tuple[Finding, ...]:
    """The findings of one image, in the order of the labels.

    Args:
        probability: float32 ``[K]``, calibrated. The ``normal`` label is never a finding.
    """
    labels = manifest.label_set
    return tuple(
        Finding(label=label, probability=value, threshold=threshold)
        for label, value in zip(labels.labels, probability.tolist(), strict=True)
        if label != labels.normal
        and value >= (threshold := manifest.operating_points[label].threshold)
    )
