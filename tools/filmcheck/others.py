"""Pictures that are not chest films: drawn bones, skulls and slices, photographs, charts, noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

from tools.filmcheck.projections import SIDE

FloatArray = npt.NDArray[np.floating]
UInt8Array = npt.NDArray[np.uint8]
Maker = Callable[[np.random.Generator], FloatArray]


def drawn(rng: np.random.Generator) -> UInt8Array:
    """Draw one image ``[SIDE, SIDE]`` without a chest, of a random kind."""
    kinds, weights = zip(*_KINDS, strict=True)
    made = kinds[int(rng.choice(len(kinds), p=np.array(weights) / sum(weights)))](rng)
    return _shown(made)


def cut(pictures: Sequence[FloatArray], rng: np.random.Generator) -> UInt8Array:
    """Cut a part ``[SIDE, SIDE]`` from one of ``pictures``: photographs, slices, scans."""
    picture = pictures[int(rng.integers(len(pictures)))]
    height, width = picture.shape
    h, w = (max(16, int(side * rng.uniform(0.35, 1))) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = Image.fromarray(picture[top : top + h, left : left + w])
    return _shown(np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


def whole(picture: FloatArray) -> UInt8Array:
    """All of ``picture``, ``[SIDE, SIDE]``."""
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return _shown(np.asarray(image))


def _shown(image: FloatArray) -> UInt8Array:
    low, high = np.percentile(image, (0.5, 99.5))
    scaled = (image - low) / max(float(high - low), 1e-6) * 255
    return np.asarray(np.clip(scaled, 0, 255), dtype=np.uint8)


def _limb(rng: np.random.Generator) -> FloatArray:
    """Tubular bones in soft tissue: a leg, an arm, a hand, with their joints."""
    height = width = SIDE
    thick: FloatArray = np.zeros((height, width), dtype=np.float32)
    rays = int(rng.choice([1, 2, 2, 4, 5]))
    angle = rng.uniform(-0.5, 0.5) + (np.pi / 2 if rng.random() < 0.35 else 0)
    spread = rng.uniform(0, 0.22) * (rays > 2)
    offsets = (np.arange(rays) - (rays - 1) / 2) * rng.uniform(0.1, 0.24) * width
    flesh_r = rng.uniform(0.1, 0.26) * width / (1 if rays < 3 else 2.2)
    for n, offset in enumerate(offsets):
        turn = angle + (n - (rays - 1) / 2) * spread
        along, across = _axes(turn, offset, rng)
        flesh = _chord(across, flesh_r * rng.uniform(0.85, 1.15))
        ends = np.abs(along) < rng.uniform(0.32, 0.75) * height
        thick = np.maximum(thick, flesh * ends)
        radius = flesh_r * rng.uniform(0.25, 0.45)
        joints = rng.uniform(0, 1) * height / rng.integers(1, 4)
        pitch = height / int(rng.integers(1, 5))
        gap = np.abs((along + joints) % pitch - pitch / 2)
        knob = 1 + 0.5 * np.exp(-(((gap - pitch / 2) / (0.1 * pitch + 2)) ** 2))
        bone = _chord(across, radius * knob)
        marrow = _chord(across, radius * knob * rng.uniform(0.5, 0.8))
        slit = gap < pitch / 2 - rng.uniform(0.5, 2)
        thick = thick + (bone * 1.4 - marrow) * slit * ends * rng.uniform(1, 2.2)
    return _film(thick / width * rng.uniform(3, 8), rng)


def _skull(rng: np.random.Generator) -> FloatArray:
    """A shell of bone with hollows: a skull, from the front or the side."""
    y, x = _grid()
    a, b = rng.uniform(0.28, 0.45, 2) * SIDE
    r = np.sqrt(((x - rng.normal(0, 5)) / a) ** 2 + ((y - rng.normal(0, 5)) / b) ** 2)
    thick = _chord(r, 1) * 1.5 + 4 * (_chord(r, 1) - _chord(r, rng.uniform(0.86, 0.95)))
    for _ in range(int(rng.integers(1, 5))):
        u, v = rng.normal(0, 0.35, 2) * (a, b)
        s = rng.uniform(0.1, 0.3) * a
        hole = np.exp(-(((x - u) ** 2 + (y - v) ** 2) / s**2))
        thick = thick - rng.uniform(0.4, 1) * hole * (r < 1)
    return _film(np.maximum(thick, 0) * rng.uniform(1, 2), rng)


def _pelvis(rng: np.random.Generator) -> FloatArray:
    """A wide body with a column and two rings of bone: pelvis, lumbar spine."""
    y, x = _grid()
    body = _chord(x, rng.uniform(0.4, 0.75) * SIDE) / SIDE * rng.uniform(3, 6)
    thick = body * rng.uniform(0.8, 1.2)
    column = _chord(x - rng.normal(0, 3), rng.uniform(4, 10)) / 8
    thick = thick + column * (1 + 0.3 * np.sin(y * rng.uniform(0.3, 0.9))) * (
        y < rng.uniform(-20, 50)
    )
    if rng.random() < 0.7:
        for side in (-1, 1):
            u, v = side * rng.uniform(14, 28), rng.uniform(0, 22)
            r = np.sqrt(((x - u) / rng.uniform(9, 18)) ** 2 + ((y - v) / rng.uniform(9, 20)) ** 2)
            thick = thick + rng.uniform(0.5, 1.2) * np.exp(-(((r - 1) / 0.25) ** 2))
            thick = thick + rng.uniform(0, 1) * np.exp(-(r**2))
    gas = ndimage.gaussian_filter(rng.random((SIDE, SIDE)), rng.uniform(2, 5))
    return _film(thick + (gas - gas.mean()) / gas.std() * rng.uniform(0, 0.25), rng)


def _breast(rng: np.random.Generator) -> FloatArray:
    """Half an ellipse at one edge with a texture of strands: a mammogram."""
    y, x = _grid()
    r = np.sqrt(((x + SIDE / 2) / rng.uniform(40, 85)) ** 2 + (y / rng.uniform(28, 46)) ** 2)
    strands = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), (1.5, 3))
    thick = _chord(r, 1) * (1 + rng.uniform(0.3, 1.2) * strands / strands.std())
    return thick if rng.random() < 0.5 else np.fliplr(thick)


def _fan(rng: np.random.Generator) -> FloatArray:
    """Speckle in a sector: ultrasound."""
    y, x = _grid()
    depth = np.hypot(x, y + SIDE / 2 + 8)
    inside = (np.abs(np.arctan2(x, y + SIDE / 2 + 8)) < rng.uniform(0.4, 0.8)) & (depth > 20)
    smooth = ndimage.gaussian_filter(rng.random((SIDE, SIDE)), rng.uniform(3, 9))
    speckle = rng.rayleigh(1, (SIDE, SIDE)) * (smooth / smooth.mean()) ** rng.uniform(2, 8)
    return np.asarray(speckle * inside * (depth < rng.uniform(85, 110)))


def _cloud(rng: np.random.Generator) -> FloatArray:
    """Noise whose power falls with frequency as in photographs."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij")
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1
    noise = rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)
    return np.asarray(np.fft.irfft2(noise / radius ** rng.uniform(0, 2.4), s=(SIDE, SIDE)))


def _gradient(rng: np.random.Generator) -> FloatArray:
    """Smooth shades, stripes, a vignette, a plain field with an edge."""
    y, x = _grid()
    a, b, c = rng.normal(size=3)
    made = (a * x + b * y) / SIDE + c * (x**2 + y**2) / SIDE**2
    made = made + rng.uniform(0, 1) * np.sin(x * rng.uniform(0.03, 0.8) + y * rng.uniform(0, 0.5))
    if rng.random() < 0.4:
        made = made + rng.normal() * ((x > rng.uniform(-40, 40)) ^ (y > rng.uniform(-40, 40)))
    return np.asarray(made + rng.normal(0, rng.uniform(0.001, 0.3), (SIDE, SIDE)))


def _chart(rng: np.random.Generator) -> FloatArray:
    """Bars, curves, boxes and text on a page: a report, a form, a screen."""
    image = Image.new("L", (SIDE * 2, SIDE * 2), int(rng.choice([255, 255, 240, 20, 0])))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 25))):
        x, y, w, h = (int(n) for n in rng.uniform((0, 0, 4, 2), (180, 180, 90, 90)))
        tone, kind = int(rng.integers(256)), rng.integers(5)
        if kind == 0:
            pen.rectangle((x, y, x + w, y + h), fill=tone)
        elif kind == 1:
            pen.ellipse((x, y, x + w, y + h), outline=tone, width=2)
        elif kind == 2:
            points = [(int(px), int(py)) for px, py in rng.uniform(0, 2 * SIDE, (6, 2))]
            pen.line(points, fill=tone, width=2)
        else:
            letters = rng.integers(65, 91, int(rng.integers(3, 20))).astype(np.uint8)
            pen.text((x, y), bytes(letters).decode(), fill=tone)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)


def _film(thick: FloatArray, rng: np.random.Generator) -> FloatArray:
    """What thickness looks like on a film: brighter where more is absorbed, with noise."""
    shown = ndimage.gaussian_filter(np.asarray(thick, dtype=np.float32), rng.uniform(0.4, 1.2))
    primary = np.exp(-shown)
    scatter = ndimage.gaussian_filter(primary, SIDE * rng.uniform(0.04, 0.1))
    seen = -np.log(primary + scatter * rng.uniform(0.1, 0.5) + 1e-3)
    return np.asarray(seen + rng.normal(0, rng.uniform(0.005, 0.06), seen.shape))


def _grid() -> tuple[FloatArray, FloatArray]:
    """y and x from the middle, pixels."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
    return y, x


def _axes(turn: float, offset: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Along and across a line turned by ``turn`` radians, ``offset`` pixels from the middle."""
    y, x = _grid()
    x, y = x - rng.normal(0, 3), y - rng.normal(0, 8)
    along = x * np.sin(turn) + y * np.cos(turn)
    across = x * np.cos(turn) - y * np.sin(turn) - offset
    return along, across


def _chord(distance: FloatArray, radius: FloatArray | float) -> FloatArray:
    """How long a ray runs through a cylinder or ball that it passes at ``distance``."""
    return np.asarray(2 * np.sqrt(np.maximum(np.square(radius) - np.square(distance), 0)))


_KINDS: Final[tuple[tuple[Maker, float], ...]] = (
    (_limb, 5),
    (_skull, 2),
    (_pelvis, 3),
    (_breast, 1),
    (_fan, 1),
    (_cloud, 2),
    (_gradient, 1.5),
    (_chart, 1.5),
)
