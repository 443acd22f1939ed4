"""Films of the size of a digital detector, made from the one real chest film of pydicom-data."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

ROWS, COLUMNS, BITS = 3056, 2544, 12

Pixels = npt.NDArray[np.uint8 | np.uint16]


def htj2k(values: Pixels, bits: int) -> bytes:
    """``values`` without loss as HTJ2K that declares ``bits`` bits, as encoders for DICOM do.

    imagecodecs' always declares the word's: so it gets signed values, which are not moved to the
    middle of the word, and SIZ (ISO 15444-1 A.5.1) is made to say what they are.
    """
    moved = (values.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    frame = bytearray(imagecodecs.htj2k_encode(moved))
    depth = frame.index(b"\xff\x51") + 40
    assert frame[depth] == 0x80 | 15  # signed, 16 bits
    frame[depth] = bits - 1
    return bytes(frame)


SYNTAXES: Final[dict[str, tuple[UID, int, Callable[[Pixels], Any] | None]]] = {
    "native": (ExplicitVRLittleEndian, 12, None),
    "jpeg": (JPEGBaseline8Bit, 8, lambda p: imagecodecs.jpeg8_encode(p, level=92)),
    "jpeg-lossless": (
        JPEGLosslessSV1,
        12,
        lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=BITS),
    ),
    "jpeg-ls": (JPEGLSLossless, 12, imagecodecs.jpegls_encode),
    "j2k": (
        JPEG2000Lossless,
        12,
        lambda p: imagecodecs.jpeg2k_encode(p, level=0, codecformat="j2k", bitspersample=BITS),
    ),
    "htj2k": (HTJ2KLossless, 12, lambda p: htj2k(p, BITS)),
}


def real_dataset() -> Dataset:
    """RG1 of pydicom-data: a PA chest film, 1955 × 1841, MONOCHROME1, 15 bits."""
    return pydicom.dcmread(str(get_testdata_file("RG1_UNCR.dcm")))


def pixels(bits: int) -> Pixels:
    """RG1 at :data:`ROWS` × :data:`COLUMNS`, with the noise of a detector."""
    source = np.asarray(real_dataset().pixel_array, dtype=np.float32)
    grown = Image.fromarray(source).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC)
    grey = np.asarray(grown) / 2**15 * 2**bits
    grey = grey + np.random.default_rng(0).normal(0, 2 ** (bits - 9), grey.shape)
    whole = np.rint(np.clip(grey, 0, 2**bits - 1))
    return np.asarray(whole, dtype=np.uint8 if bits <= 8 else np.uint16)


def film(name: str) -> bytes:
    """The film as a DICOM object in the transfer syntax called ``name`` in :data:`SYNTAXES`."""
    syntax, bits, encode = SYNTAXES[name]
    values = pixels(bits)
    dataset = real_dataset()
    dataset.Rows, dataset.Columns = values.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * values.itemsize, bits, bits - 1
    for keyword in ("WindowCenter", "WindowWidth", "PixelPaddingValue", "VOILUTSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    _encode(dataset, values, encode)
    dataset.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def _encode(dataset: Dataset, values: Pixels, encode: Callable[[Pixels], Any] | None) -> None:
    if encode is None:
        dataset.PixelData = values.tobytes()
        return
    dataset.PixelData = encapsulate([bytes(encode(values))])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def write(folder: Path) -> dict[str, Path]:
    """Write all films to files, for peers that read files only."""
    written = {}
    for name in SYNTAXES:
        written[name] = folder / f"{name}.dcm"
        written[name].write_bytes(film(name))
    return written
