"""Turn films into model input. Training and serving use this one implementation.

The steps are: letterbox the film to a square, resize with antialiasing, stretch between two
percentiles of the film itself, quantise to 8 bits. Colour replication and the normalisation of the
pretrained weights are inside the model's graph, so they cannot differ between training and serving.

A spec may have an *intermediate*: a 16-bit grey image that is made of the film first, and from
which the input is made. It is small enough for a cache (:mod:`hilum.pipeline.cache`), and models of
several sizes can share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from hilum import dicom
from hilum.dicom import DicomObject
from hilum.dicom.reduced import Box, Samples
from hilum.imaging import resample
from hilum.imaging.spec import PreprocessSpec

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
BoolArray = npt.NDArray[np.bool_]

_ROWS_AT_ONCE: Final = 64  # of a film, as floats


class Rows(Protocol):
    """A film whose rows are computed on request, such as :class:`hilum.dicom.greyscale.Shown`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(H, W)``."""
        ...

    def rows(self, start: int, stop: int) -> Float32Array:
        """Rows from ``start`` up to ``stop``, float32 ``[n, W]``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the film lies in the square input: a half-open box in input pixels."""

    x0: int
    y0: int
    x1: int
    y1: int
    size: int

    @classmethod
    def letterbox(cls, *, height: int, width: int, size: int) -> Placement:
        """The centred box of a ``height``×``width`` film whose long side is scaled to ``size``."""
        scale = size / max(height, width)
        h = max(1, min(size, round(height * scale)))
        w = max(1, min(size, round(width * scale)))
        x0, y0 = (size - w) // 2, (size - h) // 2
        return cls(x0=x0, y0=y0, x1=x0 + w, y1=y0 + h, size=size)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The size of a film, and where it lies in the available pixels."""

    rows: int
    columns: int
    box: Box | Samples  # where it lies in the pixels, or how these stand for it

    @classmethod
    def whole(cls, pixels: Float32Array | Rows) -> Extent:
        """The extent of a film of which every pixel is available."""
        rows, columns = pixels.shape
        return cls(rows=rows, columns=columns, box=(0.0, 0.0, float(columns), float(rows)))


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """One image as input of the engine."""

    image: UInt8Array  # [1, S, S], 0 = black, also outside the film
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class Grey:
    """The intermediate: a film as a 16-bit grey image."""

    values: UInt16Array  # [h, w], from the darkest to the brightest value of the film
    padded: bool  # true: 0 is padding, and the film begins at 1
    rows: int  # of the film itself
    columns: int


# What a cache keeps of a film: the intermediate, if the spec has one, else the input.
Stage: TypeAlias = Grey | ModelInput


def model_input(opened: DicomObject, spec: PreprocessSpec) -> ModelInput:
    """Decode as much of ``opened`` as ``spec`` requests, and turn it into model input.

    Raises:
        DicomError: the pixels cannot be decoded, see :func:`hilum.dicom.decode`.
    """
    return input_from_stage(decode_to_stage(opened, spec), spec)


def decode_to_stage(opened: DicomObject, spec: PreprocessSpec) -> Stage:
    """Like :func:`model_input`, but stop at the stage that a cache keeps.

    Raises:
        DicomError: see :func:`model_input`.
    """
    film = dicom.decode_rows(opened, side=spec.decode_side)
    extent = Extent(rows=film.header.rows, columns=film.header.columns, box=film.box)
    return _make_stage(film.pixels, spec, padding=film.padding, film=extent)


def make_input(
    pixels: Float32Array | Rows,
    spec: PreprocessSpec,
    *,
    padding: BoolArray | None = None,
    extent: Extent | None = None,
) -> ModelInput:
    """Turn a film into model input.

    Args:
        pixels: float32 ``[H, W]`` in presentation space: larger is brighter, in any range (see
            :mod:`hilum.dicom`). 8-bit images of public data sets need no conversion.
        spec: the preprocessing of the package.
        padding: bool ``[H, W]``, true where the header declares pixel padding. Such pixels do not
            count for the percentiles, and become black.
        extent: the extent of the film, if ``pixels`` are not all of its pixels.

    Returns:
        uint8 ``[1, S, S]`` and where the film lies in it. A film of one constant value becomes
        black.
    """
    film = extent or Extent.whole(pixels)
    return input_from_stage(_make_stage(pixels, spec, padding=padding, film=film), spec)


def _make_stage(
    pixels: Float32Array | Rows, spec: PreprocessSpec, *, padding: BoolArray | None, film: Extent
) -> Stage:
    if spec.intermediate is None:
        return _input(pixels, spec, padding=padding, film=film)
    return make_grey(pixels, spec.intermediate, padding=padding, film=film)


def make_grey(
    pixels: Float32Array | Rows, side: int, *, padding: BoolArray | None = None, film: Extent
) -> Grey:
    """Turn a film (see :func:`make_input`) into a grey image whose long side has ``side`` pixels,
    or as many as the film if that has fewer."""
    longest = max(film.rows, film.columns)
    place = Placement.letterbox(height=film.rows, width=film.columns, size=min(side, longest))
    small, outside = _resized(pixels, film, (place.x1 - place.x0, place.y1 - place.y0), padding)
    seen = small if outside is None else small[~outside]
    values = np.zeros(small.shape, dtype=np.uint16)
    if seen.size:
        low, high, least = float(seen.min()), float(seen.max()), int(outside is not None)
        scaled = (small - low) * ((65535.0 - least) / ((high - low) or 1)) + least
        values = np.clip(np.rint(scaled), least, 65535).astype(np.uint16)
    if outside is not None:
        values[outside] = 0
    return Grey(values=values, padded=outside is not None, rows=film.rows, columns=film.columns)


def input_from_stage(stage: Stage, spec: PreprocessSpec) -> ModelInput:
    """Turn the stage of a film into the model input of ``spec``."""
    if not isinstance(stage, Grey):
        return stage
    pixels = stage.values.astype(np.float32)
    film = Extent(rows=stage.rows, columns=stage.columns, box=Extent.whole(pixels).box)
    padding = stage.values == 0 if stage.padded else None
    return _input(pixels, spec, padding=padding, film=film)


def _input(
    pixels: Float32Array | Rows, spec: PreprocessSpec, *, padding: BoolArray | None, film: Extent
) -> ModelInput:
    place = Placement.letterbox(height=film.rows, width=film.columns, size=spec.size)
    small, outside = _resized(pixels, film, (place.x1 - place.x0, place.y1 - place.y0), padding)
    seen = small if outside is None else small[~outside]
    canvas = np.zeros((1, spec.size, spec.size), dtype=np.uint8)
    if seen.size:
        low, high = np.percentile(seen, spec.stretch_percentiles)
        if high > low:
            scaled = (small - low) * (255.0 / (high - low))
            stretched = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
            if outside is not None:
                stretched[outside] = 0
            canvas[0, place.y0 : place.y1, place.x0 : place.x1] = stretched
    return ModelInput(image=canvas, placement=place)


def _resized(
    pixels: Float32Array | Rows, film: Extent, size: tuple[int, int], padding: BoolArray | None
) -> tuple[Float32Array, BoolArray | None]:
    """The film resized to ``size`` = (width, height), and the pixels that are mostly padding."""
    if padding is None or not padding.any():
        return resize(pixels, film.box, size), None
    # Padding must not affect its neighbours or the percentiles: resize the film with weights, and
    # divide by the weights.
    weight = resize(_Within(None, padding), film.box, size)
    outside = weight < 0.5
    filled = resize(_Within(pixels, padding), film.box, size)
    return np.divide(filled, weight, out=np.zeros_like(weight), where=~outside), outside


@dataclass(frozen=True)
class _Within:
    """A film with 0 where it is padding; without pixels, 1 everywhere else."""

    pixels: Float32Array | Rows | None
    padding: BoolArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.padding.shape

    def rows(self, start: int, stop: int) -> Float32Array:
        inside = ~self.padding[start:stop]
        if self.pixels is None:
            return inside.astype(np.float32)
        return np.where(inside, _rows(self.pixels, start, stop), np.float32(0))


def resize(pixels: Float32Array | Rows, box: Box | Samples, size: tuple[int, int]) -> Float32Array:
    """Resize the part of ``[H, W]`` in ``box``, or the film that it stands for, to ``size`` =
    (width, height), with a filter that is widened to shrink.

    To shrink a whole film that is not tall, Pillow first resizes each row by itself, then along
    columns. Then the first step is done on some rows at a time: the bits are the same, and the film
    never exists as floats.
    """
    height, width = pixels.shape
    if isinstance(box, Samples):
        return resample.resize(_rows(pixels, 0, height), box, size)
    tall = 2 * height > 3 * width  # Pillow changes the order at twice as high as wide
    uneven = abs(size[0] * height - size[1] * width) > height + width
    smaller = size[0] < width and size[1] < height
    if box != Extent.whole(pixels).box or tall or uneven or not smaller:
        return _at_once(pixels, size, box)
    narrow = np.empty((height, size[0]), dtype=np.float32)
    for start in range(0, height, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, height)
        lines = (0, 0, width, stop - start)
        part = _rows(pixels, start, stop)
        narrow[start:stop] = _bilinear(part, (size[0], stop - start), lines)
    return _bilinear(narrow, size, (0, 0, size[0], height))


def _at_once(pixels: Float32Array | Rows, size: tuple[int, int], box: Box) -> Float32Array:
    """Resize a film that exists as floats once, in the memory of Pillow."""
    height, width = pixels.shape
    whole = Image.new("F", (width, height))
    for start in range(0, height, _ROWS_AT_ONCE):
        part = _rows(pixels, start, min(start + _ROWS_AT_ONCE, height))
        whole.paste(Image.fromarray(np.ascontiguousarray(part, dtype=np.float32)), (0, start))
    return np.asarray(whole.resize(size, Image.Resampling.BILINEAR, box), dtype=np.float32)


def _bilinear(pixels: Float32Array, size: tuple[int, int], box: Box) -> Float32Array:
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box), dtype=np.float32)


def _rows(pixels: Float32Array | Rows, start: int, stop: int) -> Float32Array:
    return pixels[start:stop] if isinstance(pixels, np.ndarray) else pixels.rows(start, stop)
