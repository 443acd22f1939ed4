"""A film and a Grad-CAM grid become the overlay that people see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hilum import dicom, heatmaps
from hilum.preprocess import Placement
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
    film = dicom.decode(dicom.open_film(data, limits))
    height, width = film.pixels.shape
    placement = Placement.letterbox(height=height, width=width, size=heat.input_size)
    shown = shrink(film.pixels, max_side)
    spread = heatmaps.upsample(heat.grid, placement, *shown.shape)
    return heatmaps.overlay(shown, spread, probability=heat.probability, caption=caption)


def shrink(pixels: Float32Array, max_side: int) -> Float32Array:
    """``[H, W]`` with its long side at most ``max_side``, antialiased."""
    height, width = pixels.shape
    scale = min(1.0, max_side / max(height, width))
    if scale == 1.0:
        return pixels
    box = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(box, Image.Resampling.BILINEAR))
