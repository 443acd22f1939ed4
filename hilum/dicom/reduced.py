"""Stored values at the resolution a model needs, without decoding those it does not.

A network of 224 × 224 pixels sees one sample in more than a hundred of a film of 3056 × 2544. JPEG
2000 keeps the film as a pyramid, so the levels above the one needed are left undecoded (ISO 15444-1
annex F); JPEG can leave out the high frequencies of each block (ISO 10918-1 annex A); everything
else is decoded whole and averaged over blocks. At least ``side`` samples along the long side are
kept, see :attr:`hilum.preprocess.PreprocessSpec.decode_side`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ImageFile, JpegImagePlugin
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from hilum.dicom import codestream
from hilum.dicom.decode import checked_frame
from hilum.dicom.decode import stored_values as every_value
from hilum.dicom.parse import DicomObject
from hilum.errors import DecodeError, LimitExceededError

Float32Array = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer]

_WAVELETS: Final = {JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}
_PILLOW_BITS: Final = 16  # Pillow shifts deeper than 8-bit JPEG 2000 samples up to this
# A mean of what it covers has no aliasing, so fewer of them do than of a wavelet's samples.
_OF_MEANS: Final = 0.7


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Samples of a film on a coarser grid.

    Sample ``(i, j)`` is centred at ``(i + 0.5, j + 0.5)``; the whole film covers ``box`` = x0, y0,
    x1, y1 in these coordinates, which may reach half a sample beyond the last one.
    """

    values: Integers | Float32Array  # [h, w], stored values; means are not whole numbers
    box: tuple[float, float, float, float]


def stored_values(opened: DicomObject, *, side: int) -> Reduced:
    """The stored values with about ``side`` samples along the long side: at least as many low-pass
    samples, or 0.7 times as many means.

    The same errors as :func:`hilum.dicom.decode.stored_values`.
    """
    syntax = opened.header.transfer_syntax
    if syntax in _WAVELETS and (found := _wavelet(opened, side=side)) is not None:
        return found
    if syntax == JPEGBaseline8Bit:
        return _scaled_dct(opened, side=side)
    values = every_value(opened)
    factor = max(1, int(max(values.shape) / (side * _OF_MEANS)))
    return _averaged(block_means(values, factor), factor, shape=values.shape)


def block_means(values: Integers, factor: int) -> Integers | Float32Array:
    """Means of ``factor`` × ``factor`` blocks, ``[⌈H/f⌉, ⌈W/f⌉]``.

    The last row and column of blocks are completed by repeating the film's edge.
    """
    if factor == 1:
        return values
    height, width = values.shape
    missing = ((0, -height % factor), (0, -width % factor))
    whole = np.pad(values, missing, mode="edge") if missing != ((0, 0), (0, 0)) else values
    # Whole rows first: they lie in one piece in memory, and are a factor fewer afterwards.
    total = np.int64 if values.dtype.itemsize > 2 else np.int32
    rows = whole[::factor].astype(total)
    for i in range(1, factor):
        np.add(rows, whole[i::factor], out=rows)
    blocks = rows[:, ::factor].copy()
    for i in range(1, factor):
        np.add(blocks, rows[:, i::factor], out=blocks)
    return blocks.astype(np.float32) / np.float32(factor * factor)


def _averaged(values: Integers | Float32Array, factor: int, *, shape: tuple[int, ...]) -> Reduced:
    """Each sample is the mean of what it covers, so the grids share their corner."""
    height, width = shape
    return Reduced(values=values, box=(0.0, 0.0, width / factor, height / factor))


def _scaled_dct(opened: DicomObject, *, side: int) -> Reduced:
    """A baseline JPEG through an inverse DCT of fewer coefficients: means of 2, 4 or 8 pixels."""
    header = opened.header
    frame, _ = checked_frame(opened)
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(frame)) as image:
            # Pillow scales by the largest of 8, 4, 2 that leaves both sides at least this long.
            scale = side * _OF_MEANS / max(header.rows, header.columns)
            image.draft("L", (int(header.columns * scale), int(header.rows * scale)))
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"The decoder failed ({type(error).__name__}).") from None
    factor = next(f for f in (1, 2, 4, 8) if -(-header.rows // f) == values.shape[0])
    return _averaged(values, factor, shape=(header.rows, header.columns))


def _wavelet(opened: DicomObject, *, side: int) -> Reduced | None:
    """The low-pass image that is just large enough; ``None`` if this film has to be decoded whole:
    there is no level to leave out, the pyramid starts off the origin, its samples are not plainly
    the stored values, or its end is missing, which a partial decoding might not notice."""
    header = opened.header
    frame, declared = checked_frame(opened)
    halvings = max(header.rows, header.columns) // side
    level = min(declared.levels or 0, halvings.bit_length() - 1)
    plain = (
        header.high_bit == header.bits_stored - 1
        and declared.signed[0] == header.signed
        and declared.at_origin
        and declared.bits <= _PILLOW_BITS
    )
    if level < 1 or not plain or not codestream.is_whole(frame):
        return None
    words = _low_pass(frame, (header.rows, header.columns), level)
    values = _unshifted(words, declared.bits, signed=header.signed)
    if declared.bits > header.bits_stored and values.max() >= 1 << header.bits_stored:
        return None  # something else, an old overlay, lies in the bits above
    flat = _flattened(values, level) if declared.reversible else values
    return _low_pass_grid(flat, level, (header.rows, header.columns))


def _low_pass(frame: bytes, shape: tuple[int, int], level: int) -> Integers:
    # Pillow rounds the reduced size, OpenJPEG takes the ceiling (ISO 15444-1 equation B-14): with
    # Pillow's own size an odd side ends as a broken data stream.
    size = (-(-shape[1] >> level), -(-shape[0] >> level))
    try:
        with Jpeg2KImageFile(io.BytesIO(frame)) as image:
            tile = image.tile[0]
            assert isinstance(tile.args, tuple)
            codec, _reduce, layers, *rest = tile.args
            image._size = size
            reduced = (codec, level, layers, *rest)
            image.tile = [ImageFile._Tile(tile.codec_name, (0, 0, *size), 0, reduced)]
            ImageFile.ImageFile.load(image)
            return np.asarray(image)
    except MemoryError:
        raise LimitExceededError("The decoder needs more memory than there is.") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"The decoder failed ({type(error).__name__}).") from None


def _flattened(values: Integers, level: int) -> Float32Array:
    """Undo the lift that the low-pass of the 5/3 wavelet gives to medium frequencies.

    Its response is H(f) = 3/4 + cos(2πf)/2 − cos(4πf)/4: up to 1.125 where it should be one. The
    three taps (a, 1 − 2a, a) cancel the product over the levels at a fifth of the sampling rate,
    and damp what was aliased above.
    """
    lift = 1.0
    for halving in range(1, level + 1):
        f = 0.2 / 2**halving
        lift *= 0.75 + 0.5 * math.cos(2 * math.pi * f) - 0.25 * math.cos(4 * math.pi * f)
    a = np.float32((1 - 1 / lift) / (2 * (1 - math.cos(2 * math.pi * 0.2))))
    flat = values.astype(np.float32)
    for axis in (0, 1):
        width = [(1, 1) if axis == n else (0, 0) for n in (0, 1)]
        wide = np.moveaxis(np.pad(flat, width, mode="edge"), axis, 0)
        taps = wide[1:-1] + a * (wide[:-2] + wide[2:] - 2 * wide[1:-1])
        flat = np.moveaxis(taps, 0, axis)
    return flat


def _unshifted(words: Integers, bits: int, *, signed: bool) -> npt.NDArray[np.int32]:
    """Pillow gives 8 or 16 bits, the sample shifted to their top and signed ones moved up by half
    their range."""
    width = 8 * words.dtype.itemsize
    values = words.astype(np.int32) >> (width - bits)
    return values - (1 << (bits - 1)) if signed else values


def _low_pass_grid(values: Integers | Float32Array, level: int, shape: tuple[int, int]) -> Reduced:
    """Low-pass sample ``i`` of level ``r`` sits on sample ``i·2^r`` of the film, not in the middle
    of a block: a point ``u`` of the film is at ``(u − ½)/2^r + ½`` here."""
    step = 1 << level
    height, width = shape

    def here(u: float) -> float:
        return (u - 0.5) / step + 0.5

    return Reduced(values=values, box=(here(0), here(0), here(width), here(height)))
