"""Decode stored values at the resolution that a model needs, and no others.

A network of 224 × 224 pixels sees one sample in more than a hundred of a film of 3056 × 2544. JPEG
2000 stores the film as a pyramid, so the levels above the needed one are not decoded (ISO 15444-1
annex F). JPEG can leave out the high frequencies of each block (ISO 10918-1 annex A). Everything
else is decoded whole and averaged over blocks. The number of samples follows from
:attr:`hilum.imaging.spec.PreprocessSpec.decode_side`; :mod:`hilum.imaging.resample` resizes them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import ImageFile, JpegImagePlugin
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from pydicom.uid import JPEGBaseline8Bit

from hilum.dicom.decode import read_frame
from hilum.dicom.decode import stored_values as every_value
from hilum.dicom.greyscale import padding, stored_range
from hilum.dicom.parse import DicomObject
from hilum.dicom.syntaxes import KINDS
from hilum.errors import LimitExceededError

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer]

_BASELINE_BITS: Final = 8
_PILLOW_BITS: Final = 16  # Pillow shifts deeper than 8-bit JPEG 2000 samples up to this
# Shares of the requested samples that are enough: means alias less than a wavelet's low-pass.
_OF_COSINES: Final = 0.8
_OF_MEANS: Final = 0.9


Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How samples stand for the pixels of a film.

    Sample ``k`` of ``means`` is the mean of pixels ``k·step`` to ``(k+1)·step − 1``. A sample ``k``
    of a wavelet's low-pass lies on pixel ``k·step``, and ``step`` is a power of two.
    """

    kind: Literal["means", "5/3", "9/7"]
    step: int
    rows: int  # of the film
    columns: int


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Samples of a film, and how they stand for its pixels."""

    values: Integers | Float32Array  # [h, w], stored values; means are not whole numbers
    box: Box | Samples
    padding: BoolArray | None = None  # [h, w], true: not image


def stored_values(opened: DicomObject, *, side: int) -> Reduced:
    """The stored values with about ``side`` samples along the long side: at least ``side`` low-pass
    samples, 0.9 times as many means, or 0.8 times as many means that the decoder makes.

    A film with declared padding is decoded whole, because only its own values tell where the
    padding is. Its means leave out the padding.

    Raises:
        DicomError: see :func:`hilum.dicom.decode.decode_stored`.
    """
    syntax, how = opened.header.transfer_syntax, opened.greyscale
    if how.padding is None:
        if KINDS.get(syntax) == "JPEG 2000" and (found := _wavelet(opened, side=side)) is not None:
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
    """:func:`block_means` of the values that are not ``outside`` ``[H, W]``, and the blocks that
    lie mostly outside. Some value must be inside."""
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
    """Sums of ``factor`` × ``factor`` blocks. Rows are added first: they lie in one piece in
    memory, and there are ``factor`` times fewer afterwards."""
    rows = _sums(values, factor)
    return _sums(np.ascontiguousarray(rows.T), factor).T


def _sums(values: Integers, factor: int) -> Integers:
    """Sums of each ``factor`` rows. The last row is repeated if some are missing."""
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
    """The narrowest integer that holds sums of ``factor`` values. If that is the type of the
    values, adding is several times as fast."""
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
    """Decode a baseline JPEG by an inverse DCT of fewer coefficients: means of 2, 4 or 8 pixels.

    ``None`` if this film must be decoded whole: its samples are only the bits of the stored values
    (a sign, Bits Stored below the 8 of the codestream), so that their mean has no meaning, or it is
    another JPEG than the transfer syntax says, or decoding a part of it fails.
    """
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
    """The smallest low-pass image that is large enough.

    ``None`` if this film must be decoded whole: there is no level to leave out, the pyramid does
    not start at the origin, its samples may not be the stored values, its end was mended, or
    decoding in part fails. Decoding all of it then says what is wrong, if anything is.

    The samples of a codestream with more bits than Bits Stored may not be the stored values, even
    if those bits look empty here: thin lines of an old overlay in them average to a plausible grey.
    """
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
    """By how much the low-pass of the reversible wavelet is too large, in stored values.

    Its two lifting steps round (ISO 15444-1 equations F-9, F-10). The predicted value is rounded
    down by 1/4, so the detail is too large by 1/4, and the update adds half of that; the update
    itself is rounded up by 1/8. Together that is 1/4 along each axis at each level.
    """
    return np.float32(level / 2)


def _unshifted(words: Integers, bits: int, *, signed: bool) -> npt.NDArray[np.int32]:
    """Undo what Pillow does to samples: it shifts them to the top of 8 or 16 bits, and moves signed
    ones up by half their range."""
    width = 8 * words.dtype.itemsize
    values = words.astype(np.int32) >> (width - bits)
    return values - (1 << (bits - 1)) if signed else values
