"""Stored values at the resolution a model needs, without decoding those it does not.

A network of 224 × 224 pixels sees one sample in more than a hundred of a film of 3056 × 2544. JPEG
2000 keeps the film as a pyramid, so the levels above the one needed are left undecoded (ISO 15444-1
annex F); JPEG can leave out the high frequencies of each block (ISO 10918-1 annex A); everything
else is decoded whole and averaged over blocks. How many samples are kept follows from
:attr:`hilum.imaging.spec.PreprocessSpec.decode_side`; :mod:`hilum.imaging.resample`
says what they stand for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, Final

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

from hilum.dicom.decode import read_frame
from hilum.dicom.decode import stored_values as every_value
from hilum.dicom.greyscale import padding, stored_range
from hilum.dicom.parse import DicomObject
from hilum.dicom.samples import Box, Samples
from hilum.errors import LimitExceededError

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer]

_WAVELETS: Final = {JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL}
_BASELINE_BITS: Final = 8
_PILLOW_BITS: Final = 16  # Pillow shifts deeper than 8-bit JPEG 2000 samples up to this
# Shares of the samples asked for that are enough: means alias less than a wavelet's low-pass.
_OF_COSINES: Final = 0.8
_OF_MEANS: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Samples of a film, and how they stand for its pixels."""

    values: Integers | Float32Array  # [h, w], stored values; means are not whole numbers
    box: Box | Samples
    padding: BoolArray | None = None  # [h, w], true: not image


def stored_values(opened: DicomObject, *, side: int) -> Reduced:
    """The stored values with about ``side`` samples along the long side: at least as many low-pass
    samples, 0.9 times as many means, or 0.8 times if the decoder makes them.

    A film with declared padding is decoded whole, for only its own values tell where that is; means
    are those of what is image.

    The same errors as :func:`hilum.dicom.decode.stored_values`.
    """
    syntax, how = opened.header.transfer_syntax, opened.greyscale
    if how.padding is None:
        if syntax in _WAVELETS and (found := _wavelet(opened, side=side)) is not None:
            return found
        if syntax == JPEGBaseline8Bit and (found := _scaled_dct(opened, side=side)) is not None:
            return found
    values = every_value(opened)
    factor = max(1, int(max(values.shape) / (side * _OF_MEANS)))
    outside = padding(values, how)
    if outside is None:
        return _averaged(block_means(values, factor), factor, shape=values.shape)
    means, outside = means_within(values, outside, factor)
    return replace(_averaged(means, factor, shape=values.shape), padding=outside)


def block_means(values: Integers, factor: int) -> Integers | Float32Array:
    """Means of ``factor`` × ``factor`` blocks, ``[⌈H/f⌉, ⌈W/f⌉]``.

    The last row and column of blocks are completed by repeating the film's edge.
    """
    if factor == 1:
        return values
    return _block_sums(values, factor).astype(np.float32) / np.float32(factor * factor)


def means_within(
    values: Integers, outside: BoolArray, factor: int
) -> tuple[Integers | Float32Array, BoolArray]:
    """:func:`block_means` of what is not ``outside`` ``[H, W]``, which is not all of it, and where
    most of a block is."""
    if factor == 1:
        return values, outside
    kept = _block_sums((~outside).view(np.uint8), factor)
    film: Integers = np.where(outside, values.dtype.type(0), values)
    means = _block_sums(film, factor).astype(np.float32)
    means /= np.maximum(kept, 1).astype(np.float32)
    most = 2 * kept.astype(np.int64) < factor * factor
    if most.all():  # the film is thinner than a block
        most = kept == 0
    return means, most


def _block_sums(values: Integers, factor: int) -> Integers:
    """Of ``factor`` × ``factor`` blocks; whole rows first: they lie in one piece in memory, and are
    a factor fewer afterwards."""
    rows = _sums(values, factor)
    return _sums(np.ascontiguousarray(rows.T), factor).T


def _sums(values: Integers, factor: int) -> Integers:
    """Of each ``factor`` rows, the last one repeated if some are missing."""
    height, width = values.shape
    blocks, rest = divmod(height, factor)
    sums = np.empty((blocks + bool(rest), width), dtype=_wide_enough(values, factor))
    whole = values[: blocks * factor].reshape(blocks, factor, width)
    np.add.reduce(whole, axis=1, dtype=sums.dtype, out=sums[:blocks])
    if rest:
        np.add.reduce(values[blocks * factor :], axis=0, dtype=sums.dtype, out=sums[blocks])
        sums[blocks] += values[-1] * sums.dtype.type(factor - rest)
    return sums


def _wide_enough(values: Integers, factor: int) -> np.dtype[Any]:
    """The narrowest integer that sums of ``factor`` values fit: the same as that of the values, if
    it does, adds up several times as fast."""
    low, high = int(values.min()) * factor, int(values.max()) * factor
    for kind in (values.dtype.type, np.int32, np.int64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def _averaged(values: Integers | Float32Array, factor: int, *, shape: tuple[int, ...]) -> Reduced:
    rows, columns = shape
    if factor == 1:
        return Reduced(values=values, box=(0.0, 0.0, float(columns), float(rows)))
    return Reduced(
        values=values, box=Samples(kind="means", step=factor, rows=rows, columns=columns)
    )


def _scaled_dct(opened: DicomObject, *, side: int) -> Reduced | None:
    """A baseline JPEG through an inverse DCT of fewer coefficients: means of 2, 4 or 8 pixels.
    ``None`` if this film has to be decoded whole: its samples are not the stored values but their
    bits (a sign, Bits Stored below the 8 of the codestream), whose mean means nothing, or it is
    another JPEG than the transfer syntax says, or decoding a part of it fails."""
    header = opened.header
    frame, declared = read_frame(opened)
    baseline = declared.bits == _BASELINE_BITS and not declared.lossless
    if not baseline or header.signed or declared.bits > header.bits_stored:
        return None
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(frame)) as image:
            # Pillow scales by the largest of 8, 4, 2 that leaves both sides at least this long.
            scale = side * _OF_COSINES / max(header.rows, header.columns)
            width, height = int(header.columns * scale), int(header.rows * scale)
            image.draft("L", (max(1, width), max(1, height)))
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError):
        return None
    shape = (header.rows, header.columns)
    factor = next(f for f in (1, 2, 4, 8) if tuple(-(-n // f) for n in shape) == values.shape)
    return _averaged(values, factor, shape=shape)


def _wavelet(opened: DicomObject, *, side: int) -> Reduced | None:
    """The low-pass image that is just large enough; ``None`` if this film has to be decoded whole:
    there is no level to leave out, the pyramid starts off the origin, its samples are not plainly
    the stored values, its end was not as it should be, or decoding in part fails: decoding all of
    it then says what is wrong, if anything is.

    A codestream of more bits than Bits Stored is no plain one even if those bits look empty here:
    an old overlay of thin lines in them averages to what could as well be grey, and only the whole
    film tells."""
    header = opened.header
    frame, declared = read_frame(opened)
    halvings = max(header.rows, header.columns) // side
    level = min(declared.levels or 0, halvings.bit_length() - 1)
    plain = (
        header.high_bit == header.bits_stored - 1
        and declared.signed[0] == header.signed
        and declared.at_origin
        and declared.bits <= min(header.bits_stored, _PILLOW_BITS)
    )
    if level < 1 or not plain or declared.mended:
        return None
    words = _low_pass(frame, (header.rows, header.columns), level)
    if words is None:
        return None
    values = _unshifted(words, declared.bits, signed=header.signed)
    lowest, highest = stored_range(header)
    if values.min() < lowest or values.max() > highest:
        return None
    return Reduced(
        values=values - _rounded_up(level) if declared.reversible else values,
        box=Samples(
            kind="5/3" if declared.reversible else "9/7",
            step=1 << level,
            rows=header.rows,
            columns=header.columns,
        ),
    )


def _low_pass(frame: bytes, shape: tuple[int, int], level: int) -> Integers | None:
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
    except (OSError, ValueError, SyntaxError):
        return None


def _rounded_up(level: int) -> np.float32:
    """How much too large the low-pass of the reversible wavelet is, stored values.

    Its two lifting steps round (ISO 15444-1 equations F-9, F-10): down by 1/4 the predicted value,
    so that the detail is too large, of which the update adds a half, and up by 1/8 the update.
    Together 1/4 along each axis at each level.
    """
    return np.float32(level / 2)


def _unshifted(words: Integers, bits: int, *, signed: bool) -> npt.NDArray[np.int32]:
    """Pillow gives 8 or 16 bits, the sample shifted to their top and signed ones moved up by half
    their range."""
    width = 8 * words.dtype.itemsize
    values = words.astype(np.int32) >> (width - bits)
    return values - (1 << (bits - 1)) if signed else values
