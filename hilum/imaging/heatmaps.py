"""Draw Grad-CAM grids as heat on the film."""

from __future__ import annotations

from io import BytesIO
from textwrap import wrap

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hilum.imaging.transform import Placement

Float32Array = npt.NDArray[np.float32]

_MAX_OPACITY = 0.6
_LINE = 60  # characters in a line of a caption
# Like a black body: more heat is also lighter, so colour-blind readers see the order.
_COLOURS = np.array(
    [(0, 0, 0), (87, 15, 109), (187, 55, 84), (249, 142, 8), (252, 255, 164)], dtype=np.float32
)


def upsample(grid: Float32Array, placement: Placement, height: int, width: int) -> Float32Array:
    """Interpolate a map bilinearly between the centres of its cells, and undo the letterbox.

    Cell (i, j) of an h×w ``grid`` covers the square input from (i·S/h, j·S/w) to the next cell.
    Returns float32 ``[height, width]`` in the units of the grid.
    """
    y = _positions(height, placement.y0, placement.y1, placement.size, grid.shape[0])
    x = _positions(width, placement.x0, placement.x1, placement.size, grid.shape[1])
    rows = _mix(grid.astype(np.float32), *y)
    return _mix(rows.T, *x).T


def overlay(
    film: npt.NDArray[np.floating],
    heat: Float32Array,
    *,
    probability: float,
    caption: str | None = None,
) -> bytes:
    """A PNG of ``film`` with ``heat`` on it.

    Args:
        film: ``[H, W]`` in [0, 1], larger is brighter.
        heat: ``[H, W]``, >= 0, see :func:`upsample`.
        probability: of the label. The opacity of the heat is its share of the map's maximum times
            this. Otherwise every film would show heat, even for a label that the model does not
            find.
        caption: notices for a band below the film; see :func:`caption`.
    """
    peak = float(heat.max())
    share = heat / peak if peak > 0 else np.zeros_like(heat)
    opacity = (_MAX_OPACITY * float(np.clip(probability, 0, 1)) * share)[..., None]
    grey = np.clip(film, 0, 1).astype(np.float32)[..., None] * 255
    blended = grey * (1 - opacity) + _colour(share) * opacity
    image = Image.fromarray(np.rint(blended).astype(np.uint8))
    if caption:
        image = _captioned(image, caption)
    out = BytesIO()
    image.save(out, format="PNG", compress_level=4)
    return out.getvalue()


def caption(*notices: str | None) -> str | None:
    """Join notices, each on its own lines; ``None`` if there are none."""
    lines = [line for notice in notices if notice for line in wrap(notice, _LINE)]
    return "\n".join(lines) or None


def _positions(
    length: int, start: int, end: int, size: int, cells: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32Array]:
    """For each film pixel along one axis: the cells on both sides, and the share of the second."""
    in_input = start + (np.arange(length) + 0.5) * (end - start) / length
    position = np.clip(in_input * cells / size - 0.5, 0, cells - 1)
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, cells - 1)
    return below, above, (position - below).astype(np.float32)


def _mix(
    values: Float32Array,
    below: npt.NDArray[np.intp],
    above: npt.NDArray[np.intp],
    share: Float32Array,
) -> Float32Array:
    weight = share[:, None]
    mixed: Float32Array = values[below] * (1 - weight) + values[above] * weight
    return mixed


def _colour(share: Float32Array) -> Float32Array:
    stops = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(share, stops, _COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _captioned(image: Image.Image, caption: str) -> Image.Image:
    size = max(10, image.width // 36)
    font = ImageFont.load_default(size=size)
    band = round((1.3 * caption.count("\n") + 2) * size)
    out = Image.new("RGB", (image.width, image.height + band), (0, 0, 0))
    out.paste(image, (0, 0))
    draw = ImageDraw.Draw(out)
    middle = (image.width / 2, image.height + band / 2)
    draw.text(middle, caption, fill=(255, 200, 0), font=font, anchor="mm", align="center")
    return out
