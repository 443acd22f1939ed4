"""Files as they come: odd character sets, private sequences, padding, group lengths, overlays."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from support.decode_cases import pixels
from support.encodings import described, encoded, native, rewritten
from support.tiny_film import film

from hilum import dicom
from hilum.dicom import Film
from hilum.dicom.decode import stored_values
from hilum.errors import HilumError
from hilum.settings import Limits

LIMITS = Limits()
GROUP_8 = b"\x08\x00\x16\x00"  # SOP Class UID, the first element of the tiny film
IMAGE_PIXEL = b"\x28\x00\x02\x00"  # Samples per Pixel


def opened(data: bytes) -> dicom.DicomObject:
    return dicom.open_object(data, LIMITS)


def shown(data: bytes) -> Film:
    return dicom.decode(opened(data))


PLAIN = film(1)
PIXELS = stored_values(opened(PLAIN))


def inserted(data: bytes, before: bytes, element: bytes) -> bytes:
    at = data.index(before, 132)
    if before == GROUP_8:  # the same tag may stand in the file meta information's values
        at = data.index(before, data.index(b"\x02\x00\x10\x00"))
    return data[:at] + element + data[at:]


def explicit(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", group, element) + vr
    if vr in {b"OB", b"OW", b"SQ", b"UN"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def private_sequence(depth: int) -> bytes:
    """Private sequences of undefined length within each other, VR UN and SQ in turn."""
    inner = explicit(0x0029, 0x1001, b"LO", b"ZEBRA ")
    for level in range(depth):
        vr = b"UN" if level % 2 else b"SQ"
        if vr == b"UN":  # its content is implicit VR (PS3.5 section 6.2.2)
            inner = struct.pack("<HHI", 0x0029, 0x1001, 6) + b"ZEBRA "
        inner = (
            struct.pack("<HH", 0x0029, 0x1010) + vr + b"\0\0\xff\xff\xff\xff"
            + ITEM + inner + ITEM_END + SEQUENCE_END
        )  # fmt: skip
    return explicit(0x0029, 0x0010, b"LO", b"ACME 1") + inner


@pytest.mark.parametrize(
    "data",
    [
        inserted(PLAIN, GROUP_8, explicit(0x0008, 0x0000, b"UL", struct.pack("<I", 99999))),
        inserted(PLAIN, GROUP_8, explicit(0x0008, 0x0005, b"CS", b"ISO_IR 999")),
        inserted(PLAIN, GROUP_8, explicit(0x0008, 0x0005, b"CS", b"\\ISO 2022 IR 87\\NONSENSE ")),
        inserted(PLAIN, GROUP_8, explicit(0x0008, 0x0005, b"CS", b"")),
        inserted(PLAIN, GROUP_8, explicit(0x0008, 0x0005, b"CS", b"\xff\xfe\xff\xfe")),
        inserted(PLAIN, IMAGE_PIXEL, private_sequence(1)),
        inserted(PLAIN, IMAGE_PIXEL, private_sequence(2)),
        inserted(PLAIN, IMAGE_PIXEL, explicit(0x0028, 0x0000, b"UL", b"\1\0\0\0")),
        PLAIN + explicit(0xFFFC, 0xFFFC, b"OB", bytes(100)),
        PLAIN + bytes(2),
        PLAIN + bytes(512),
        film(1, SpecificCharacterSet="ISO_IR 192", PatientName="Żółć^Ąę"),
        film(1, SmallestImagePixelValue=17, LargestImagePixelValue=3),
    ],
)
def test_read_all_the_same(data: bytes) -> None:
    assert np.array_equal(stored_values(opened(data)), PIXELS)
    assert np.array_equal(shown(data).pixels, shown(PLAIN).pixels)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("part", ["no preamble", "no preamble, no meta"])
def test_without_file_meta(syntax: str, part: str) -> None:
    whole = rewritten(PLAIN, syntax)
    start = 132
    if part.endswith("no meta"):
        start = whole.index(GROUP_8, whole.index(b"\x02\x00\x10\x00"))
    found = opened(whole[start:])
    assert found.header.transfer_syntax == syntax
    assert np.array_equal(stored_values(found), PIXELS)


def test_big_endian_without_file_meta() -> None:
    whole = native(PIXELS, ExplicitVRBigEndian, **described(PIXELS, bits=12))
    start = whole.index(b"\x00\x08\x00\x16", whole.index(b"\x02\x00\x10\x00"))
    found = opened(whole[start:])
    assert found.header.transfer_syntax == ExplicitVRBigEndian
    assert np.array_equal(stored_values(found), PIXELS)


def test_a_file_that_ends_with_padding_inside_pixel_data() -> None:
    """An odd number of 8-bit pixels is padded to an even length (PS3.5 section 8.1.1)."""
    values = np.arange(15, dtype=np.uint8).reshape(3, 5)
    found = stored_values(opened(native(values, ExplicitVRLittleEndian,
                                        **described(values, bits=8))))  # fmt: skip
    assert np.array_equal(found, values)


# --- overlays -----------------------------------------------------------------------------


def overlay() -> dict[str, Any]:
    return {
        "OverlayRows": 48,
        "OverlayColumns": 40,
        "OverlayType": "G",
        "OverlayOrigin": [1, 1],
        "OverlayBitsAllocated": 1,
        "OverlayBitPosition": 0,
    }


def test_overlays_are_not_burnt_in() -> None:
    """A graphic in a 60xx group is no part of the film (PS3.3 C.9.2)."""
    parts = b"".join(
        [
            explicit(0x6000, 0x0010, b"US", struct.pack("<H", 48)),
            explicit(0x6000, 0x0011, b"US", struct.pack("<H", 40)),
            explicit(0x6000, 0x0040, b"CS", b"G "),
            explicit(0x6000, 0x0100, b"US", struct.pack("<H", 1)),
            explicit(0x6000, 0x0102, b"US", struct.pack("<H", 0)),
            explicit(0x6000, 0x3000, b"OW", b"\xff" * 240),
        ]
    )
    data = inserted(PLAIN, b"\xe0\x7f\x10\x00", parts)
    assert len(data) > len(PLAIN)
    assert np.array_equal(shown(data).pixels, shown(PLAIN).pixels)


def test_overlays_in_high_bits_are_masked_away() -> None:
    """Retired, and still in archives (PS3.5 section 8.1.2)."""
    drawn = PIXELS | np.where(np.random.default_rng(3).random(PIXELS.shape) < 0.5, 0x1000, 0x8000)
    data = native(drawn.astype(np.uint16), ExplicitVRLittleEndian, **described(PIXELS, bits=12))
    assert np.array_equal(stored_values(opened(data)), PIXELS)
    frame = imagecodecs.jpeg2k_encode(drawn.astype(np.uint16), level=0, codecformat="j2k")
    data = encoded(bytes(frame), JPEG2000Lossless)
    assert np.array_equal(stored_values(opened(data)), PIXELS)


# --- codestreams that differ from the header -------------------------------------------------


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_2000_of_another_sign_keeps_the_bits(bits: int) -> None:
    """A signed film encoded as unsigned, and the other way round: two's complement, as pydicom
    reads it (and J2K_pixelrep_mismatch.dcm shows)."""
    signed, mask = pixels(bits, signed=True), (1 << bits) - 1
    bare = (signed.astype(np.int64) & mask).astype(np.uint16)

    def j2k(values: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(
            values, level=0, codecformat="j2k", bitspersample=bits, reversible=True))  # fmt: skip

    data = encoded(j2k(bare), JPEG2000Lossless, **described(signed, bits=bits, signed=True))
    assert np.array_equal(stored_values(opened(data)), signed)
    data = encoded(j2k(signed), JPEG2000Lossless, **described(bare, bits=bits))
    assert np.array_equal(stored_values(opened(data)), bare)


def test_a_shallower_unsigned_codestream_of_a_signed_film() -> None:
    """The sign is the codestream's highest bit (pydicom: the precision decides)."""
    signed = pixels(10, signed=True)
    bare = (signed.astype(np.int64) & 0x3FF).astype(np.uint16)
    frame = imagecodecs.jpeg2k_encode(bare, level=0, codecformat="j2k", bitspersample=10)
    data = encoded(bytes(frame), JPEG2000Lossless, **described(signed, bits=16, signed=True))
    assert np.array_equal(stored_values(opened(data)), signed)


def test_a_signed_codestream_that_is_shallower_than_the_header() -> None:
    signed = pixels(10, signed=True)
    frame = imagecodecs.jpeg2k_encode(signed, level=0, codecformat="j2k", bitspersample=10)
    data = encoded(bytes(frame), JPEG2000Lossless, **described(signed, bits=12, signed=True))
    assert np.array_equal(stored_values(opened(data)), signed)


def test_high_bit_counts_words_not_codestreams() -> None:
    values = pixels(12)
    frame = imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", bitspersample=12)
    data = encoded(bytes(frame), JPEG2000Lossless, **{**described(values, bits=12), "HighBit": 15})
    assert np.array_equal(stored_values(opened(data)), values)


def test_what_overshoots_stays_white() -> None:
    """Lossy values above Bits Stored must not lose their highest bit: white would turn black."""
    values = pixels(10, smooth=True)
    values[20:40, 10:30] = 1023
    frame = imagecodecs.jpeg8_encode(values, level=40, bitspersample=12)
    assert imagecodecs.jpeg8_decode(frame).max() > 1023, "or this test shows nothing"
    data = encoded(bytes(frame), JPEGExtended12Bit, **described(values, bits=10))
    found = stored_values(opened(data))
    assert np.abs(found.astype(int) - values).max() < 100
    near = imagecodecs.jpegls_encode(values, level=7)  # as 16 bits, so that it may overshoot
    assert imagecodecs.jpegls_decode(near).max() > 1023
    data = encoded(bytes(near), JPEGLSNearLossless, **described(values, bits=10))
    assert np.abs(stored_values(opened(data)).astype(int) - values).max() <= 7


def test_a_signed_film_that_overshoots() -> None:
    values = pixels(10, signed=True, smooth=True)
    near = imagecodecs.jpegls_encode(values.view(np.uint16), level=0)
    data = encoded(bytes(near), JPEGLSNearLossless, **described(values, bits=10, signed=True))
    assert np.array_equal(stored_values(opened(data)), values)


def test_jpeg_2000_deeper_than_can_be_trusted_is_refused() -> None:
    values = pixels(32)
    frame = imagecodecs.jpeg2k_encode(values >> 6, level=0, codecformat="j2k", bitspersample=26)
    data = encoded(bytes(frame), JPEG2000Lossless, **described(values, bits=32))
    with pytest.raises(HilumError, match=r"26 bits") as caught:
        shown(data)
    assert caught.value.code == "dicom.unsupported_pixels"
