"""How good the numbers are. A figure that is not defined is ``None``, never 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from hilum import heatmaps
from hilum.preprocess import Placement
from trainer.manifest import Box

FloatArray = npt.NDArray[np.floating]


def auroc(target: FloatArray, score: FloatArray) -> float | None:
    """Area under the ROC curve; ``None`` if one of the two classes is absent. NaN targets are
    left out."""
    known = ~np.isnan(target)
    if len(np.unique(target[known])) != 2:
        return None
    return float(roc_auc_score(target[known], score[known]))


def average_precision(target: FloatArray, score: FloatArray) -> float | None:
    """Area under the precision-recall steps; ``None`` if there is no positive."""
    known = ~np.isnan(target)
    if not target[known].any():
        return None
    return float(average_precision_score(target[known], score[known]))


def brier(target: FloatArray, probability: FloatArray) -> float | None:
    """Mean squared error of the probability."""
    known = ~np.isnan(target)
    return float(np.mean((probability[known] - target[known]) ** 2)) if known.any() else None


def calibration_error(target: FloatArray, probability: FloatArray, bins: int = 15) -> float | None:
    """Expected calibration error over ``bins`` bins of equal width (Guo et al. 2017, eq. 3)."""
    known = ~np.isnan(target)
    if not known.any():
        return None
    t, p = target[known], probability[known]
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [
        abs(p[place == b].mean() - t[place == b].mean()) * np.mean(place == b)
        for b in np.unique(place)
    ]
    return float(np.sum(gaps))


def mean_defined(values: Sequence[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """The pointing game (Zhang et al., ECCV 2016) over images that carry boxes of one label.

    A hit: the maximum of the upsampled map lies in a box of the label, with no tolerance. A map
    without any heat is a miss. ``centre`` is the share of films whose middle lies in a box: what
    a map that always points at the middle would get.
    """

    images: int
    hits: float
    centre: float


def pointing_game(
    maps: Sequence[FloatArray],
    boxes: Sequence[Sequence[Box]],
    sizes: Sequence[tuple[int, int]],
    *,
    size: int,
) -> Pointing | None:
    """Play it on grids ``[h, w]``; ``None`` without images.

    Args:
        maps: the label's Grad-CAM grid of each image.
        boxes: the label's boxes on each film.
        sizes: height and width of each film.
        size: side of the model's input.
    """
    if not maps:
        return None
    hits, centres = 0, 0
    for grid, where, (height, width) in zip(maps, boxes, sizes, strict=True):
        place = Placement.letterbox(height=height, width=width, size=size)
        heat = heatmaps.upsample(np.asarray(grid, dtype=np.float32), place, height, width)
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        hits += bool(heat.max() > 0) and _inside(x + 0.5, y + 0.5, where)
        centres += _inside(width / 2, height / 2, where)
    return Pointing(images=len(maps), hits=hits / len(maps), centre=centres / len(maps))


def _inside(x: float, y: float, boxes: Sequence[Box]) -> bool:
    return any(box.x0 <= x < box.x1 and box.y0 <= y < box.y1 for box in boxes)
