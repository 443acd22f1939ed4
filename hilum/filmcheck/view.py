"""What the check looks at: the model's input, small, square and by rank.

Ranks make it blind to exposure, window and tone curve: whatever rises where the film gets brighter
gives the same view; an inverted film gives the negative of it.
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
    """The film within the model's input as float32 ``[SIDE, SIDE]`` in [−1, 1], squashed to a
    square; see :func:`ranks`."""
    place = found.placement
    film = found.image[0, place.y0 : place.y1, place.x0 : place.x1]
    small = Image.fromarray(film).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ranks(np.asarray(small))


def ranks(image: UInt8Array) -> Float32Array:
    """Each value replaced by the share of pixels below it, half of its equals counted, from −1
    to 1: histogram equalisation in which a plain area stays in the middle of its ranks."""
    counts = np.bincount(image.ravel(), minlength=256)
    below = np.cumsum(counts) - 0.5 * counts
    table = (below * (2.0 / image.size) - 1).astype(np.float32)
    return np.asarray(table[image])


def contrast(found: ModelInput) -> int:
    """The number of different grey values of the film in the model's input; 1: nothing to see."""
    place = found.placement
    film = found.image[0, place.y0 : place.y1, place.x0 : place.x1]
    return int(np.count_nonzero(np.bincount(film.ravel(), minlength=256)))
