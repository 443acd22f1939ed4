"""Render a film and a Grad-CAM grid as the overlay that people see."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from hilum import dicom
from hilum.deidentify import text
from hilum.dicom import DicomObject
from hilum.imaging import heatmaps
from hilum.imaging.transform import Placement, resize
from hilum.sandbox.pool import Decoders
from hilum.sandbox.shared import SharedBytes
from hilum.sandbox.wire import Message
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Heat:
    """The heat that is drawn on a film."""

    grid: Float32Array  # [h, w], Grad-CAM of one label
    probability: float  # of that label
    input_size: int  # side S of the model's input


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an overlay is drawn."""

    max_side: int  # pixels of the long side of the film in the PNG
    caption: str | None  # printed below the film
    mask_text: bool = False  # cover the regions and what looks like burnt-in text
    regions: tuple[tuple[float, float, float, float], ...] = ()  # x0, y0, x1, y1 in shares


def render(data: bytes, heat: Heat, look: Look, *, decoders: Decoders) -> bytes:
    """Make a PNG of the film ``data`` (DICOM, PNG or JPEG) with ``heat`` on it. One of ``decoders``
    does it, because the object is untrusted.

    Raises:
        DicomError: the object cannot be decoded.
        DecodersUnavailableError, OutOfMemoryError: the decode processes failed.
    """
    fields = {
        "task": "render",
        "limits": decoders.limits.model_dump(),
        "heat": [heat.probability, heat.input_size],
        "look": asdict(look),
    }
    grid = heat.grid.astype(np.float32)
    with SharedBytes() as shared:
        shared.write(data)
        (png,) = decoders.ask(Message(fields=fields, arrays=(shared, grid))).arrays
    assert isinstance(png, bytes)
    return png


def answer(request: Message) -> Message:
    """Answer the request of :func:`render`, in a decode process."""
    data, grid = request.arrays
    assert isinstance(data, bytes | memoryview)
    assert isinstance(grid, np.ndarray)
    probability, input_size = request.fields["heat"]
    heat = Heat(grid=grid, probability=probability, input_size=input_size)
    limits = Limits.model_validate(request.fields["limits"])
    return Message(fields={}, arrays=(draw(data, heat, Look(**request.fields["look"]), limits),))


def draw(data: bytes | memoryview, heat: Heat, look: Look, limits: Limits) -> bytes:
    """:func:`render` in this process.

    Raises:
        DicomError: the object cannot be decoded.
    """
    opened = dicom.open_film(data, limits)
    placement = Placement.letterbox(
        height=opened.header.rows, width=opened.header.columns, size=heat.input_size
    )
    shown = preview(opened, look.max_side)
    if look.mask_text:
        shown = text.mask(shown, look.regions)
    spread = heatmaps.upsample(heat.grid, placement, *shown.shape)
    return heatmaps.overlay(shown, spread, probability=heat.probability, caption=look.caption)


def preview(opened: DicomObject, max_side: int) -> Float32Array:
    """Decode the film ``[h, w]`` in [0, 1], its long side at most ``max_side``, antialiased.

    Raises:
        DicomError: the pixels cannot be decoded.
    """
    film = dicom.decode_rows(opened, side=max_side)
    rows, columns = film.header.rows, film.header.columns
    scale = min(1.0, max_side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return resize(film.pixels, film.box, size)
