"""The tiny film in every transfer syntax."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from support.tiny_film import film


def rewritten(data: bytes, syntax: str, **attributes: Any) -> bytes:
    """The film ``data`` with other attributes, written in an uncompressed transfer syntax; words
    of Pixel Data and of LUTs must come in its order."""
    read = pydicom.dcmread(BytesIO(data))
    ds = pydicom.Dataset()  # does not remember how it was encoded
    ds.update(read)
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        elif isinstance(value, DataElement):
            ds[keyword] = value
        else:
            setattr(ds, keyword, value)
    ds.file_meta = read.file_meta
    ds.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    little = syntax != ExplicitVRBigEndian
    ds.save_as(
        out,
        little_endian=little,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        enforce_file_format=True,
    )
    return out.getvalue()


def encoded(frame: bytes, syntax: str, **attributes: Any) -> bytes:
    """A film whose pixel data is ``frame``, as ``syntax`` has it."""
    ds = pydicom.dcmread(BytesIO(film(1, **attributes)))
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    ds.save_as(out)
    return out.getvalue()


def described(pixels: np.ndarray, *, bits: int, signed: bool = False) -> dict[str, Any]:
    """The image pixel module of grey ``pixels`` ``[H, W]`` of ``bits`` stored bits."""
    allocated = 8 * pixels.dtype.itemsize
    return {
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
    }


def native(pixels: np.ndarray, syntax: str, **attributes: Any) -> bytes:
    """A film of ``pixels`` in an uncompressed transfer syntax."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    raw += b"\0" * (len(raw) % 2)
    if pixels.dtype.itemsize == 1 and order == ">":  # OW: bytes of each word are swapped
        raw = np.frombuffer(raw, ">u2").astype("<u2").tobytes()
    size = {name: attributes.pop(name) for name in ("rows", "columns") if name in attributes}
    element = DataElement("PixelData", "OW", raw)
    return rewritten(_plain(**size), syntax, **attributes, PixelData=element)


@cache
def _plain(**size: int) -> bytes:
    return film(1, **size)
