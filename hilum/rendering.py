"""A film and a Grad-CAM grid become the overlay that people see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hilum import dicom, heatmaps
from hilum.dicom import DicomObject
from hilum.preprocess import Placement, resize
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Heat:
    """What is drawn on the film."""

    grid: Float32Array  # [h, w], Grad-CAM of one label
    probability: float  # of that label
    input_size: int  # side S of the model's input


def render(data: bytes, heat: Heat, *, limits: Limits, max_side: int, caption: str | None) -> bytes:
    """A PNG of the film ``data`` (DICOM, PNG or JPEG) with ``heat`` on it.

    Args:
        data: the object that was scored.
        heat: the map.
        limits: of the object.
        max_side: the long side of the film in the PNG is at most this, pixels.
        caption: printed below the film.

    Raises:
        DicomError: the object cannot be decoded.
    """
    opened = dicom.open_film(data, limits)
    placement = Placement.letterbox(
        height=opened.header.rows, width=opened.header.columns, size=heat.input_size
    )
    shown = preview(opened, max_side)
    spread = heatmaps.upsample(heat.grid, placement, *shown.shape)
    return heatmaps.overlay(shown, spread, probability=heat.probability, caption=caption)


def preview(opened: DicomObject, max_side: int) -> Float32Array:
    """The film ``[h, w]`` in [0, 1] with its long side at most ``max_side``, antialiased.

    Raises:
        DicomError: the pixels cannot be decoded.
    """
    film = dicom.decode(opened, side=max_side)
    rows, columns = film.header.rows, film.header.columns
    scale = min(1.0, max_side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return resize(film.pixels, film.box, size)
