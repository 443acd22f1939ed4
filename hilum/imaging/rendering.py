"""A film and a Grad-CAM grid become the overlay that people see."""

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
    """What is drawn on the film."""

    grid: Float32Array  # [h, w], Grad-CAM of one label
    probability: float  # of that label
    input_size: int  # side S of the model's input


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an overlay is drawn."""

    max_side: int  # of the film's long side in the PNG, pixels
    caption: str | None  # printed below the film
    mask_text: bool = False  # cover what looks like burnt-in text, and the regions
    regions: tuple[tuple[float, float, float, float], ...] = ()  # x0, y0, x1, y1 in shares


def render(data: bytes, heat: Heat, look: Look, *, decoders: Decoders) -> bytes:
    """A PNG of the film ``data`` (DICOM, PNG or JPEG) with ``heat`` on it, made by one of
    ``decoders``: the object comes from strangers.

    Raises:
        DicomError: the object cannot be decoded.
        DecodersUnavailableError, OutOfMemoryError: of the decode processes.
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
    """What a decode process does with the request of :func:`render`."""
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
    """The film ``[h, w]`` in [0, 1] with its long side at most ``max_side``, antialiased.

    Raises:
        DicomError: the pixels cannot be decoded.
    """
    film = dicom.decode_rows(opened, side=max_side)
    rows, columns = film.header.rows, film.header.columns
    scale = min(1.0, max_side / max(rows, columns))
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return resize(film.pixels, film.box, size)
