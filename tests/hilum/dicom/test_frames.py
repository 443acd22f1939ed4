"""Several frames: the first one is found whatever says where it ends, or the object is refused."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
)
from support.encodings import described, native
from support.tiny_film import film

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.dicom.frames import first
from hilum.dicom.reduced import stored_values as reduced_values
from hilum.errors import HilumError
from hilum.settings import Limits

LIMITS = Limits()
FRAMES = np.random.default_rng(5).integers(0, 4096, (3, 24, 20), dtype=np.uint16)
ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"


def item(content: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content


def items(fragments: Sequence[bytes], table: bytes = b"") -> bytes:
    return item(table) + b"".join(map(item, fragments)) + END


def jpegls(frame: np.ndarray) -> bytes:
    data = bytes(imagecodecs.jpegls_encode(frame))
    return data + b"\0" * (len(data) % 2)


def opened(pixel_data: bytes, syntax: str, **attributes: Any) -> dicom.DicomObject:
    ds = pydicom.dcmread(BytesIO(film(1, rows=24, columns=20, NumberOfFrames=3)))
    ds.PixelData = pixel_data
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    ds.save_as(out)
    return dicom.open_object(out.getvalue(), LIMITS)


CODED = [jpegls(frame) for frame in FRAMES]
HALVES = [part for code in CODED for part in (code[:100], code[100:])]


def starts(fragments: Sequence[bytes], each: int) -> list[int]:
    """Offsets of frames of ``each`` fragments."""
    sizes = [8 + len(part) for part in fragments]
    return [sum(sizes[:n]) for n in range(0, len(fragments), each)]


@pytest.mark.parametrize(
    ("fragments", "table"),
    [
        (CODED, b""),
        (CODED, struct.pack("<3I", *starts(CODED, 1))),
        (HALVES, struct.pack("<3I", *starts(HALVES, 2))),
        (HALVES, b""),  # told by the end marker
        # A table that fits no fragments says nothing.
        (CODED, struct.pack("<2I", *starts(CODED, 1)[:2])),
        (CODED, struct.pack("<3I", 0, 7, 9)),
        (CODED, struct.pack("<3I", 8, 16, 24)),
        (HALVES, bytes(12)),
    ],
)
def test_where_the_first_frame_ends(fragments: list[bytes], table: bytes) -> None:
    found = opened(items(fragments, table), JPEGLSLossless)
    assert found.header.frames == 3
    assert np.array_equal(stored_values(found), FRAMES[0])


def test_an_extended_offset_table() -> None:
    data, offsets, lengths = encapsulate_extended(CODED)
    tables = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    assert np.array_equal(stored_values(opened(data, JPEGLSLossless, **tables)), FRAMES[0])
    # It counts, not the number of fragments: here frames are in two parts each.
    table = struct.pack("<3Q", *starts(HALVES, 2))
    found = opened(items(HALVES), JPEGLSLossless, ExtendedOffsetTable=table)
    assert np.array_equal(stored_values(found), FRAMES[0])


def test_a_single_frame_in_many_fragments_needs_no_table() -> None:
    pieces = [CODED[0][n : n + 50] for n in range(0, len(CODED[0]), 50)]
    for table in (b"", struct.pack("<I", 0), struct.pack("<I", 999)):
        found = opened(items(pieces, table), JPEGLSLossless, NumberOfFrames=1)
        assert np.array_equal(stored_values(found), FRAMES[0])


def test_the_first_frame_is_decoded_reduced_too() -> None:
    big = np.random.default_rng(1).integers(0, 4096, (2, 256, 256), dtype=np.uint16)
    coded = [bytes(imagecodecs.jpeg2k_encode(f, level=0, codecformat="j2k")) for f in big]
    many = opened(items(coded), JPEG2000Lossless, Rows=256, Columns=256, NumberOfFrames=2)
    one = opened(items(coded[:1]), JPEG2000Lossless, Rows=256, Columns=256, NumberOfFrames=1)
    less = reduced_values(many, side=64).values
    assert less.shape[0] < 256
    assert np.array_equal(less, reduced_values(one, side=64).values)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_native_frames(syntax: str) -> None:
    said = described(FRAMES[0], bits=12)
    found = dicom.open_object(native(FRAMES, syntax, **said, NumberOfFrames=3), LIMITS)
    assert np.array_equal(stored_values(found), FRAMES[0])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (items(CODED[:2], struct.pack("<3I", 0, 7, 9)), "dicom.decode_failed"),
        (items(CODED[:2]), "dicom.decode_failed"),
        (items([b"\1\2" * 20] * 4), "dicom.decode_failed"),  # no marker, no table
        (items(CODED)[:-30], "dicom.truncated"),
        (item(b""), "dicom.truncated"),
        (b"", "dicom.truncated"),
        (b"\0" * 40, "dicom.decode_failed"),
        (item(b"") + item(b"") * 2**17 + END, "dicom.decode_failed"),
    ],
)
def test_frames_that_cannot_be_told_apart(data: bytes, code: str) -> None:
    with pytest.raises(HilumError) as caught:
        first(data, frames=3)
    assert caught.value.code == code


def test_what_functional_groups_say_of_the_first_frame() -> None:
    """An enhanced object has its window and its rescale there (PS3.3 C.7.6.16.2)."""

    def group(macro: str, **attributes: Any) -> Dataset:
        inner, outer = Dataset(), Dataset()
        for keyword, value in attributes.items():
            setattr(inner, keyword, value)
        setattr(outer, macro, [inner])
        return outer

    window = group("FrameVOILUTSequence", WindowCenter=1000, WindowWidth=500)
    other = group("FrameVOILUTSequence", WindowCenter=3000, WindowWidth=100)
    rescale = group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=-10,
                    RescaleType="US")  # fmt: skip
    said = described(FRAMES[0], bits=12)
    grouped = native(
        FRAMES, ExplicitVRLittleEndian, **said, NumberOfFrames=3,
        PerFrameFunctionalGroupsSequence=[window, other, other],
        SharedFunctionalGroupsSequence=[rescale],
    )  # fmt: skip
    plain = native(
        FRAMES[0], ExplicitVRLittleEndian, **said,
        WindowCenter=1000, WindowWidth=500, RescaleSlope=2, RescaleIntercept=-10,
    )  # fmt: skip
    one, two = (dicom.decode(dicom.open_object(data, LIMITS)) for data in (grouped, plain))
    assert np.array_equal(one.pixels, two.pixels)
    assert one.pixels.min() == 0
    assert one.pixels.max() == 1
