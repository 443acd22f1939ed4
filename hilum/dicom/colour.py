"""Turn colour captures of grey films into grey (PS3.3 C.7.6.3.1.2).

A film that was digitised, exported or captured from a screen in colour is still a grey film: its
red, green and blue agree. Such an image is read. An image with colours is no radiograph of a
modality, but a photograph, a screen with coloured annotations or a false-colour rendering, and is
refused. The same check detects a wrong colour space: grey read as YCbCr, or YCbCr read as RGB, has
colours everywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from hilum.dicom.greyscale import StoredValues
from hilum.errors import ColouredPixelsError

Float32Array = npt.NDArray[np.float32]

# Lossy compression changes grey this much; a logo or a dead pixel may have this share.
_TOLERANCE: Final = 10 / 255
_SHARE: Final = 0.001
# Y of YBR_FULL from R, G, B. If R = G = B, it is that value.
_LUMINANCE: Final = (0.2990, 0.5870, 0.1140)
_ROWS_AT_ONCE: Final = 64  # number of rows in temporary copies


def grey(stored: StoredValues, *, ybr: bool, bits: int) -> Float32Array:
    """The luminance of ``stored``, float32 ``[H, W]`` in [0, 1], larger is brighter.

    Args:
        stored: unsigned ``[H, W, 3]``, R, G, B or Y, CB, CR.
        ybr: whether it is Y, CB, CR.
        bits: the full scale of ``stored`` is ``2**bits - 1``.

    Raises:
        ColouredPixelsError: more than a trace of the pixels have a colour.
    """
    top = np.float32((1 << bits) - 1)
    shown = np.empty(stored.shape[:2], dtype=np.float32)
    coloured = 0
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        first, second, third = np.moveaxis(stored[rows].astype(np.float32) / top, -1, 0)
        if ybr:
            shown[rows] = first
            # The distances of red and blue from grey are 1.402 CR and 1.772 CB.
            middle = np.float32(1 << (bits - 1)) / top
            spread = np.maximum(1.772 * abs(second - middle), 1.402 * abs(third - middle))
        else:
            red, green, blue = _LUMINANCE
            shown[rows] = red * first + green * second + blue * third
            brightest = np.maximum(np.maximum(first, second), third)
            spread = brightest - np.minimum(np.minimum(first, second), third)
        coloured += int(np.count_nonzero(spread > _TOLERANCE))
    share = coloured / shown.size
    if share > _SHARE:
        raise ColouredPixelsError(
            f"{share:.1%} of the pixels have a colour; a grey film has at most {_SHARE:.1%}."
        )
    return shown
