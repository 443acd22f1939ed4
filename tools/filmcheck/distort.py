"""Distorts films as in practice: turned, mirrored, inverted, cropped, framed, marked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from hilum.filmcheck.view import SIDE, ranks

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a film lies: mirrored, then inverted, then turned."""

    turn: int = 0  # quarter turns, counterclockwise
    inverted: bool = False
    mirrored: bool = False

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Pose:
        """Draw a pose; about half of all films are correct in each respect."""
        return cls(
            turn=int(rng.choice(4, p=(0.46, 0.18, 0.18, 0.18))),
            inverted=bool(rng.random() < 0.4),
            mirrored=bool(rng.random() < 0.4),
        )

    def of(self, image: UInt8Array) -> UInt8Array:
        """Put ``image`` into this pose."""
        out = image[:, ::-1] if self.mirrored else image
        out = 255 - out if self.inverted else out
        return np.ascontiguousarray(np.rot90(out, self.turn))


def view(film: UInt8Array, pose: Pose, rng: np.random.Generator) -> Float32Array:
    """A view ``[SIDE, SIDE]`` of ``film`` with all distortions; see
    :func:`hilum.filmcheck.view.ranks`."""
    seen = _moved(film, rng)
    seen = _shaded(seen, rng)
    if rng.random() < 0.3:
        _lines(seen, rng)
    seen = pose.of(seen)
    # Frames and marks are added after exposure, upright.
    if rng.random() < 0.3:
        _framed(seen, rng)
    if rng.random() < 0.5:
        _marked(seen, rng)
    return ranks(seen)


def plain(film: UInt8Array, pose: Pose) -> Float32Array:
    """A view of ``film`` in ``pose``, without distortions."""
    small = Image.fromarray(film).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ranks(pose.of(np.asarray(small)))


def _moved(film: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Tilt by a few degrees, crop or add air around, stretch and warp."""
    side = film.shape[0]
    angle = np.deg2rad(rng.normal(0, 4.5))
    zoom = side / SIDE * np.exp(rng.uniform(-0.22, 0.1) + rng.normal(0, 0.07, 2))
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    dy, dx = (
        ndimage.zoom(rng.normal(0, 1.3, (4, 4)), SIDE / 4, order=3, grid_mode=True, mode="nearest")
        for _ in range(2)
    )
    y, x = y + dy, x + dx
    centre = (side - 1) / 2 + rng.normal(0, 0.035 * side, 2)
    rows = centre[0] + zoom[0] * (y * np.cos(angle) - x * np.sin(angle))
    columns = centre[1] + zoom[1] * (y * np.sin(angle) + x * np.cos(angle))
    mode = "nearest" if rng.random() < 0.5 else "constant"
    edge = float(rng.choice([0, 0, 255]))
    blurred = ndimage.gaussian_filter(film.astype(np.float32), rng.uniform(0.3, 1.1))
    moved = ndimage.map_coordinates(blurred, (rows, columns), order=1, mode=mode, cval=edge)
    return np.asarray(np.clip(moved, 0, 255), dtype=np.uint8)


def _shaded(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Add uneven exposure, edge enhancement, grain and a clipped tone scale."""
    seen = image.astype(np.float32)
    field = ndimage.zoom(rng.normal(0, 1, (3, 3)), SIDE / 3, order=2, grid_mode=True,
                         mode="nearest")  # fmt: skip
    seen = seen + field * rng.uniform(0, 28)
    if rng.random() < 0.4:
        seen = seen + (seen - ndimage.gaussian_filter(seen, rng.uniform(1.5, 7))) * rng.uniform(
            0, 2
        )
    seen = seen + rng.normal(0, rng.uniform(0, 9), seen.shape)
    if rng.random() < 0.3:
        low, high = np.percentile(seen, (rng.uniform(0, 15), rng.uniform(85, 100)))
        seen = (seen - low) / max(high - low, 1) * 255
    return np.asarray(np.clip(seen, 0, 255), dtype=np.uint8)


def _lines(image: UInt8Array, rng: np.random.Generator) -> None:
    """Draw tubes, leads and devices, which are bright and move with the film."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 4))):
        points = [(float(x), float(y)) for x, y in rng.uniform(0, SIDE, (3, 2))]
        pen.line(points, fill=int(rng.integers(200, 256)), width=1)
    if rng.random() < 0.3:
        x, y = rng.uniform(5, SIDE - 15, 2)
        pen.ellipse((x, y, x + 8, y + 7), fill=255)
    image[:] = np.asarray(canvas)


def _framed(image: UInt8Array, rng: np.random.Generator) -> None:
    """Draw the shadow of the shutter or an empty border, black or white, along some edges."""
    tone = 0 if rng.random() < 0.5 else 255
    for turn in range(4):
        if rng.random() < 0.6:
            width = int(rng.uniform(0, 0.14) * SIDE)
            np.rot90(image, turn)[:width] = tone


def _marked(image: UInt8Array, rng: np.random.Generator) -> None:
    """Draw a side marker, letters or a label with text."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, SIDE - 6, 2)
        tone = int(rng.choice([0, 255]))
        if rng.random() < 0.3:
            w, h = rng.uniform(4, 18), rng.uniform(3, 7)
            pen.rectangle((x, y, x + w, y + h), fill=255 - tone)
        letters = rng.integers(65, 91, int(rng.integers(1, 5))).astype(np.uint8)
        pen.text((x, y), bytes(letters).decode(), fill=tone)
    image[:] = np.asarray(canvas)
