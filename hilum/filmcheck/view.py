"""The view that the film check looks at: the model input as a small square of ranks.

Ranks do not depend on exposure, window and tone curve: any tone curve that preserves the order of
the greys gives the same view. An inverted film gives the negative view.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from hilum.imaging.transform import ModelInput

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

SIDE: Final = 64


def view(found: ModelInput) -> Float32Array:
    """The film within the model input as float32 ``[SIDE, SIDE]`` in [−1, 1], stretched to a
    square. See :func:`ranks`."""
    small = Image.fromarray(_film(found)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ranks(np.asarray(small))


def ranks(image: UInt8Array) -> Float32Array:
    """Replace each value by the share of pixels below it plus half the share of equal pixels,
    scaled to [−1, 1]: histogram equalisation that puts a plain area in the middle of its ranks."""
    counts = np.bincount(image.ravel(), minlength=256)
    below = np.cumsum(counts) - 0.5 * counts
    table = (below * (2.0 / image.size) - 1).astype(np.float32)
    return np.asarray(table[image])


def contrast(found: ModelInput) -> int:
    """The number of different grey values of the film in the model input."""
    return int(np.count_nonzero(np.bincount(_film(found).ravel(), minlength=256)))


def _film(found: ModelInput) -> UInt8Array:
    place = found.placement
    return found.image[0, place.y0 : place.y1, place.x0 : place.x1]
