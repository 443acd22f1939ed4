"""Measures whether maps point at the finding, on films with boxes, beside a map of the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np

from hilum.imaging import heatmaps
from hilum.imaging.transform import Placement
from trainer.arrays import BoolArray, FloatArray
from trainer.evaluation.scored import Scored
from trainer.manifest import Box

SHARE: Final = 0.5  # of the maximum of the map; the map points at what is above it
HIT: Final = 0.25  # least IoU of a found region; Wang et al. 2017 report 0.1 … 0.7
_SIDE: Final = 256  # long side of the grid on which areas are counted; finer than any map


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """The figures of one label over the films with its boxes, named as in ``metrics.json``.

    Pointing game (Zhang et al., ECCV 2016): the maximum of the upsampled map is in a box, without
    tolerance; a map without heat is a miss. IoU: the region above :data:`SHARE` of the maximum
    against the union of the boxes.

    The baselines are the figures of a map that always shows the middle of the film: its centre
    point, and a centred box of the mean height and width of these boxes, which no map knows.
    """

    pointing_images: int
    pointing_game: float
    pointing_centre: float
    iou: float
    iou_centre: float
    iou_found: float  # share of films with IoU >= HIT
    iou_found_centre: float


def localise(
    maps: Sequence[FloatArray],
    boxes: Sequence[Sequence[Box]],
    sizes: Sequence[tuple[int, int]],
    *,
    size: int,
) -> Localisation | None:
    """Measure grids ``[h, w]`` of one label; ``None`` without images.

    Args:
        maps: the label's Grad-CAM grid of each image.
        boxes: the label's boxes on each film.
        sizes: height and width of each stored film.
        size: side of the model input.
    """
    if not maps:
        return None
    # A centred box of the mean size, on a film of size 1×1.
    spans = [_span(b, s) for b, s in zip(boxes, sizes, strict=True)]
    h, w = (float(np.mean(side)) for side in zip(*spans, strict=True))
    middle = Box(label="", x0=(1 - w) / 2, y0=(1 - h) / 2, x1=(1 + w) / 2, y1=(1 + h) / 2)
    hits, centres, overlap, centred = [], [], [], []
    for grid, where, (height, width) in zip(maps, boxes, sizes, strict=True):
        scale = min(1.0, _SIDE / max(height, width))
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        place = Placement.letterbox(height=height, width=width, size=size)
        heat = heatmaps.upsample(np.asarray(grid, dtype=np.float32), place, rows, columns)
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        point = ((x + 0.5) * width / columns, (y + 0.5) * height / rows)
        hits.append(bool(heat.max() > 0) and _inside(*point, where))
        centres.append(_inside(width / 2, height / 2, where))
        truth = _mask(where, height, width, (rows, columns))
        overlap.append(_iou((heat > 0) & (heat >= SHARE * heat.max()), truth))
        centred.append(_iou(_mask([middle], 1, 1, (rows, columns)), truth))
    return Localisation(
        pointing_images=len(maps),
        pointing_game=float(np.mean(hits)),
        pointing_centre=float(np.mean(centres)),
        iou=float(np.mean(overlap)),
        iou_centre=float(np.mean(centred)),
        iou_found=float(np.mean(np.array(overlap) >= HIT)),
        iou_found_centre=float(np.mean(np.array(centred) >= HIT)),
    )


def of_labels(scored: Scored) -> dict[str, dict[str, Any]]:
    """The figures of every label for ``metrics.json``; ``None`` where no film has a box."""
    return {label: _of_label(scored, k, label) for k, label in enumerate(scored.schema.labels)}


def _of_label(scored: Scored, k: int, label: str) -> dict[str, Any]:
    boxes = [[box for box in record.boxes if box.label == label] for record in scored.records]
    rows = [n for n, found in enumerate(boxes) if found]
    found = None
    if scored.cam is not None:
        found = localise(
            [scored.cam[n, k] for n in rows],
            [boxes[n] for n in rows],
            [(int(scored.sizes[n][0]), int(scored.sizes[n][1])) for n in rows],
            size=scored.input_size,
        )
    nothing = dict.fromkeys(field.name for field in fields(Localisation))
    return asdict(found) if found else nothing | {"pointing_images": 0}


def _inside(x: float, y: float, boxes: Sequence[Box]) -> bool:
    return any(box.x0 <= x < box.x1 and box.y0 <= y < box.y1 for box in boxes)


def _span(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[float, float]:
    """Mean height and width of ``boxes`` as shares of the film."""
    height = np.mean([(box.y1 - box.y0) / size[0] for box in boxes])
    width = np.mean([(box.x1 - box.x0) / size[1] for box in boxes])
    return float(height), float(width)


def _mask(boxes: Sequence[Box], height: int, width: int, shape: tuple[int, int]) -> BoolArray:
    """The cells whose centres are in a box; a box smaller than a cell has one cell."""
    mask = np.zeros(shape, dtype=np.bool_)
    fy, fx = shape[0] / height, shape[1] / width
    for box in boxes:
        y0, y1 = _cells(box.y0 * fy, box.y1 * fy, shape[0])
        x0, x1 = _cells(box.x0 * fx, box.x1 * fx, shape[1])
        mask[y0:y1, x0:x1] = True
    return mask


def _cells(low: float, high: float, side: int) -> tuple[int, int]:
    start = min(max(0, round(low)), side - 1)
    return start, min(side, max(start + 1, round(high)))


def _iou(one: BoolArray, other: BoolArray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
