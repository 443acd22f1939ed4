"""Films with their maps for the page: sure hits, misses and false alarms of every finding.

Pictures are made from the model input and hold no name, number or address.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageDraw

from hilum.imaging import heatmaps
from hilum.imaging.transform import Placement
from trainer.arrays import Float32Array, UInt8Array
from trainer.data import SplitFilms
from trainer.evaluation.scored import Scored
from trainer.manifest import Box

_SIDE: Final = 256  # long side of a picture, pixels
_BOX: Final = (80, 220, 255)

Kind = Literal["found", "missed", "false alarm"]
_KINDS: Final[tuple[Kind, ...]] = ("found", "missed", "false alarm")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One film of the gallery."""

    label: str
    kind: Kind
    probability: float
    threshold: float
    data: str  # address (data:) of a JPEG


def pictures(scored: Scored, films: SplitFilms, count: int) -> list[Picture]:
    """At most ``count`` pictures: the surest hit of every finding, then the worst misses, then the
    worst false alarms, then the next of each."""
    if scored.cam is None:
        return []
    made: list[Picture] = []
    for n, k, kind in _chosen(scored):
        if len(made) == count:
            break
        made.append(_picture(scored, films, n, k, kind))
    return made


def _chosen(scored: Scored) -> Iterator[tuple[int, int, Kind]]:
    """Film, label and kind, the most instructive first."""
    queues = {}
    defined = [k for k in scored.findings if not scored.undefined[k]]
    for k in defined:
        truth, probability = scored.targets[:, k], scored.probability[:, k]
        called = probability >= scored.thresholds[k]
        of_kind = {
            "found": np.flatnonzero((truth == 1) & called),
            "missed": np.flatnonzero((truth == 1) & ~called),
            "false alarm": np.flatnonzero((truth == 0) & called),
        }
        for kind, rows in of_kind.items():
            sign = 1 if kind == "missed" else -1
            # Films with a box first, because the map can be compared with it.
            unboxed = np.array([not _boxes(scored, int(n), k) for n in rows], dtype=np.bool_)
            order = np.lexsort((sign * probability[rows], unboxed))
            queues[k, kind] = list(rows[order])
    for turn in range(max((len(queue) for queue in queues.values()), default=0)):
        for kind in _KINDS:
            for k in defined:
                if turn < len(queues[k, kind]):
                    yield int(queues[k, kind][turn]), k, kind


def _boxes(scored: Scored, n: int, k: int) -> list[Box]:
    label = scored.schema.labels[k]
    return [box for box in scored.records[n].boxes if box.label == label]


def _picture(scored: Scored, films: SplitFilms, n: int, k: int, kind: Kind) -> Picture:
    place = films.placement(n)
    height, width = (int(side) for side in scored.sizes[n])
    shape = _shape(place)
    boxes = _boxes(scored, n, k)
    assert scored.cam is not None
    probability = float(scored.probability[n, k])
    heat = heatmaps.upsample(np.asarray(scored.cam[n, k], dtype=np.float32), place, *shape)
    plain = _film(np.asarray(films.images[n, 0]), place, shape)
    # The map has full strength: the plain film is beside it.
    png = heatmaps.overlay(plain, heat, probability=1.0)
    scale = (shape[1] / width, shape[0] / height)
    label = scored.schema.labels[k]
    return Picture(
        label=label,
        kind=kind,
        probability=probability,
        threshold=scored.points[label].threshold,
        data=_pair(plain, png, boxes, scale),
    )


def _shape(place: Placement) -> tuple[int, int]:
    """Height and width of a picture."""
    height, width = place.y1 - place.y0, place.x1 - place.x0
    scale = _SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _film(image: UInt8Array, place: Placement, shape: tuple[int, int]) -> Float32Array:
    cropped = Image.fromarray(image[place.y0 : place.y1, place.x0 : place.x1])
    large = cropped.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float32) / np.float32(255)


def _pair(
    plain: Float32Array, overlay: bytes, boxes: Sequence[Box], scale: tuple[float, float]
) -> str:
    """The film beside the film with its map and boxes: the address (data:) of a JPEG."""
    left = Image.fromarray(np.rint(plain * 255).astype(np.uint8)).convert("RGB")
    right = Image.open(BytesIO(overlay)).convert("RGB")
    draw = ImageDraw.Draw(right)
    for box in boxes:
        x0, x1 = box.x0 * scale[0], box.x1 * scale[0]
        y0, y1 = box.y0 * scale[1], box.y1 * scale[1]
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX, width=2)
    pair = Image.new("RGB", (2 * left.width + 4, left.height), "white")
    pair.paste(left, (0, 0))
    pair.paste(right, (left.width + 4, 0))
    out = BytesIO()
    pair.save(out, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
