"""What films show beside the chest: breasts, monitor leads, side markers.

As in hospitals, leads and the letters ``AP`` are on bedside films. They say how the film was taken,
and so how ill the patient may be, without showing any disease.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from trainer.arrays import Float32Array, UInt8Array
from trainer.synthetic.anatomy import COARSE, LUNG_LEFT, LUNG_RIGHT, VOXEL_MM, WATER_PER_MM, Anatomy
from trainer.synthetic.film import BITS
from trainer.synthetic.pose import View


def breasts(chest: Anatomy, rng: np.random.Generator) -> Float32Array:
    """Line integrals ``[X, Z]`` of two breasts in front of the lower lungs, thin at their edges."""
    shape = (chest.organs.shape[0] * COARSE, chest.organs.shape[2] * COARSE)
    x, z = np.ogrid[: shape[0], : shape[1]]
    thick = rng.uniform(15, 50)
    width, height = rng.uniform(48, 66) / VOXEL_MM, rng.uniform(40, 62) / VOXEL_MM
    total = np.zeros(shape)
    for organ in (LUNG_LEFT, LUNG_RIGHT):
        lung = np.argwhere(np.isin(chest.organs, organ).any(axis=1)) * COARSE
        across = lung[:, 0].mean() + rng.normal(0, 3)
        centre = lung[:, 1].min() + 0.32 * np.ptp(lung[:, 1]) + rng.normal(0, 4)
        away = ((x - across) / width) ** 2 + ((z - centre) / height) ** 2
        total += thick * np.maximum(1 - away, 0)
    return np.asarray(total * 0.95 * WATER_PER_MM, dtype=np.float32)


def leads(shape: tuple[int, int], rng: np.random.Generator) -> Float32Array:
    """Line integrals ``[X, Z]`` of one to three monitor leads and their electrodes."""
    drawn = Image.new("L", (shape[1], shape[0]))  # rows are x
    pen = ImageDraw.Draw(drawn)
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform((0.1, 0.1), (0.9, 0.7)) * shape
        end = np.array([rng.choice([0.0, 1.0]), rng.uniform(0.3, 1.0)]) * shape
        bend = (start + end) / 2 + rng.normal(0, 0.12, 2) * shape
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        pen.line([(float(z), float(x)) for x, z in curve], fill=255, width=1)
        radius = 6 / VOXEL_MM
        box = (start[1] - radius, start[0] - radius, start[1] + radius, start[0] + radius)
        pen.ellipse(box, outline=255, width=2)
    metal = ndimage.gaussian_filter(np.asarray(drawn, dtype=np.float32) / 255, 0.5)
    return np.asarray(metal * rng.uniform(0.5, 1.2), dtype=np.float32)


def mark(pixels: npt.NDArray[np.uint16], view: View, rng: np.random.Generator) -> None:
    """Draw the marker of the patient's left side, and ``AP`` on such films, into the upper right
    corner of the film ``[H, W]``."""
    glyphs = _glyphs("L" if view == "PA" else "L\nAP")
    scale = max(pixels.shape) / 11 / glyphs.shape[0] * (1 if view == "PA" else 1.8)
    shape = np.maximum(1, np.rint(np.array(glyphs.shape) * scale)).astype(int)
    stamp = np.asarray(Image.fromarray(glyphs).resize((shape[1], shape[0]))) > 127
    row, column = (int(n) for n in rng.uniform(0.02, 0.06, 2) * pixels.shape)
    corner = pixels[row : row + shape[0], pixels.shape[1] - column - shape[1] :][:, : shape[1]]
    corner[stamp[: corner.shape[0], : corner.shape[1]]] = round((2**BITS - 1) * 0.97)


@cache
def _glyphs(text: str) -> UInt8Array:
    font = ImageFont.load_default(size=40)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), text, font=font
    )
    drawn = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
    ImageDraw.Draw(drawn).multiline_text((-left, -top), text, fill=255, font=font)
    return np.asarray(drawn)
