"""Find text that is burnt into a film by its appearance, and mask it.

Letters are several thin strokes side by side, in one tone on another, with sharp edges. A cell of
the film counts as *lettered* if it has two tones with few pixels between them, and rows or columns
that change between the two several times. The edge of a shutter changes only once, and anatomy has
no edges as sharp. This helps but guarantees nothing: see ``docs/operate/patient-data.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

CELL: Final = 12  # pixels
_STEP: Final = CELL // 2
_CONTRAST: Final = 0.2  # minimum difference of the two tones, of the full scale
_BETWEEN: Final = 0.45  # maximum share of pixels between the two tones
_LINES: Final = 4  # minimum number of rows and columns with several changes
_BORDER: Final = 0.28  # share of the film from each edge where text is searched for


@dataclass(frozen=True, kw_only=True)
class Region:
    """A half-open rectangle of a film, in fractions of its width and height."""

    x0: float
    y0: float
    x1: float
    y1: float

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of the region, rounded outwards to whole pixels."""
        rows = slice(max(0, int(self.y0 * height)), min(height, -int(-self.y1 * height // 1)))
        columns = slice(max(0, int(self.x0 * width)), min(width, -int(-self.x1 * width // 1)))
        return rows, columns


def find(film: Float32Array) -> tuple[Region, ...]:
    """Find the regions near the edges of ``film`` ``[H, W]`` in [0, 1] that seem to show text."""
    height, width = film.shape
    if min(height, width) < 4 * CELL:
        return ()
    lettered = _find_lettered(film)
    rows, columns = lettered.shape
    y, x = np.arange(rows)[:, None] * _STEP + CELL / 2, np.arange(columns)[None] * _STEP + CELL / 2
    edge = np.minimum(np.minimum(y, height - y) / height, np.minimum(x, width - x) / width)
    found = []
    for y0, x0, y1, x1, cells in _groups(lettered & (edge < _BORDER)):
        if cells < 2:
            continue
        top, left = max(0, (y0 - 1) * _STEP), max(0, (x0 - 1) * _STEP)
        bottom = min(height, (y1 + 1) * _STEP + CELL)
        right = min(width, (x1 + 1) * _STEP + CELL)
        found.append(Region(x0=left / width, y0=top / height, x1=right / width, y1=bottom / height))
    return tuple(found)


def cover(film: Float32Array, regions: Sequence[Region]) -> Float32Array:
    """Return ``film`` with each region filled with the median tone of the pixels around it."""
    out = film.copy()
    for region in regions:
        rows, columns = region.pixels(*film.shape)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        inside = np.zeros(film.shape, dtype=np.bool_)
        inside[rows, columns] = True
        top, left = max(0, rows.start - 2), max(0, columns.start - 2)
        wide = (slice(top, rows.stop + 2), slice(left, columns.stop + 2))
        tones = film[wide][~inside[wide]]
        out[rows, columns] = float(np.median(tones)) if tones.size else 0.0
    return out


def mask(
    film: Float32Array, declared: Sequence[tuple[float, float, float, float]] = ()
) -> Float32Array:
    """Return ``film`` with the declared regions (x0, y0, x1, y1) and all text found covered."""
    regions = [Region(x0=x0, y0=y0, x1=x1, y1=y1) for x0, y0, x1, y1 in declared]
    return cover(film, [*regions, *find(film)])


def _find_lettered(film: Float32Array) -> BoolArray:
    """Find the cells that look like letters. Cells start every half cell."""
    cells = np.lib.stride_tricks.sliding_window_view(film, (CELL, CELL))[::_STEP, ::_STEP]
    low, high = cells.min(axis=(2, 3)), cells.max(axis=(2, 3))
    span = high - low
    sharp = span > _CONTRAST
    found = np.zeros(sharp.shape, dtype=np.bool_)
    candidates = cells[sharp]
    if not len(candidates):
        return found
    share = (candidates - low[sharp][:, None, None]) / span[sharp][:, None, None]
    between = ((share > 0.25) & (share < 0.75)).mean(axis=(1, 2))
    ink = share > 0.5
    changes = [np.count_nonzero(np.diff(ink, axis=axis), axis=axis) for axis in (1, 2)]
    lines = sum((each >= 2).sum(axis=1) for each in changes)
    found[sharp] = (between < _BETWEEN) & (lines >= _LINES)
    return found


def _groups(cells: BoolArray) -> list[tuple[int, int, int, int, int]]:
    """Group nearby cells. Returns first row, first column, last row, last column and size."""
    left = {(int(y), int(x)) for y, x in np.argwhere(cells)}
    near = [(y, x) for y in range(-2, 3) for x in range(-3, 4)]
    groups = []
    while left:
        waiting = [left.pop()]
        members = list(waiting)
        while waiting:
            y, x = waiting.pop()
            for dy, dx in near:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    waiting.append((y + dy, x + dx))
                    members.append((y + dy, x + dx))
        ys, xs = zip(*members, strict=True)
        groups.append((min(ys), min(xs), max(ys), max(xs), len(members)))
    return groups
