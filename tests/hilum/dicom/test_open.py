"""What is read and what is refused, each with its code; hostile files cost nothing."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from support.encodings import encoded, rewritten
from support.tiny_film import film

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.errors import HilumError
from hilum.settings import Limits

LIMITS = Limits()
# No value of a data set may show in an error.
MARKER = "ZEBRA^MARKER"


def values(data: bytes) -> np.ndarray:
    return stored_values(dicom.open_object(data, LIMITS))


PIXELS = np.frombuffer(
    pydicom.dcmread(pydicom.filebase.DicomBytesIO(film(1))).PixelData, "<u2"
).reshape(48, 40)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_native_syntaxes(syntax: str) -> None:
    assert np.array_equal(values(rewritten(film(1), syntax)), PIXELS)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="j2k")),
        (JPEGLSLossless, imagecodecs.jpegls_encode(PIXELS)),
        (JPEGLosslessSV1, imagecodecs.jpeg8_encode(PIXELS, lossless=True, bitspersample=12)),
    ],
)
def test_lossless_codecs_give_back_every_bit(syntax: str, frame: bytes) -> None:
    assert np.array_equal(values(encoded(bytes(frame), syntax)), PIXELS)


def test_jpeg_baseline() -> None:
    smooth = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)
    frame = imagecodecs.jpeg8_encode(smooth, level=98)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    found = values(encoded(bytes(frame), JPEGBaseline8Bit, **bits))
    assert np.abs(found.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_pydicoms_encodings_of_one_image_agree(name: str) -> None:
    def stored(file: str) -> np.ndarray:
        return values(_file(file))

    assert np.array_equal(stored(name), stored("MR_small.dcm"))
    reference = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array
    assert np.array_equal(stored(name), reference)


def test_sign_of_codestream_and_header_differ() -> None:
    """pydicom documents this file: signed in the header, unsigned in the codestream."""
    path = str(get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False))
    found = values(Path(path).read_bytes())
    assert found.dtype == np.int16
    assert found.min() == -2000, "outside the scanner's circle"


def test_twelve_bit_extended_jpeg() -> None:
    smooth = (np.add.outer(np.arange(48), np.arange(40)) * 45).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12)
    found = values(encoded(bytes(frame), JPEGExtended12Bit))
    assert np.abs(found.astype(int) - smooth).max() <= 12, "within 0.3 % of full scale"
    # A real one, written by other software.
    scan = values(_file("JPGExtended.dcm"))
    assert scan.shape == (1024, 256)
    assert 200 < scan.max() < 300


def test_a_real_film_is_the_same_in_both_encodings() -> None:
    plain, wavelet = (
        dicom.decode(dicom.open_object(_file(f"RG1_{kind}.dcm"), LIMITS))
        for kind in ("UNCR", "J2KR")
    )
    assert np.array_equal(plain.pixels, wavelet.pixels)
    assert plain.pixels.shape == (1955, 1841)
    # The right way round: lungs darker than the mediastinum between them.
    row = plain.pixels[600:900]
    assert row[:, 450:600].mean() < row[:, 850:950].mean() - 0.05


def test_a_file_without_preamble_and_meta() -> None:
    whole = rewritten(film(1), ImplicitVRLittleEndian)
    start = whole.index(b"\x08\x00\x16\x00", 132)
    assert np.array_equal(values(whole[start:]), PIXELS)


def _nested(depth: int) -> bytes:
    """Sequences of undefined length within each other, written by hand."""
    whole = rewritten(film(1), ImplicitVRLittleEndian)
    at = whole.index(b"\x28\x00\x02\x00", 300)  # before the image pixel module
    opening = b"\x18\x00\x12\x90\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return whole[:at] + opening * depth + closing * depth + whole[at:]


def _bomb_j2k() -> bytes:
    frame = bytearray(imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="j2k"))[:900]
    struct.pack_into(">II", frame, 8, 16000, 16000)
    return encoded(bytes(frame), JPEG2000Lossless, rows=48, columns=40)


def _bomb_deflate() -> bytes:
    whole = rewritten(film(1), DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<I", whole, 140)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = b"".join(packer.compress(b"\0" * 2**20) for _ in range(64)) + packer.flush()
    return whole[: 144 + length] + body


def _huge() -> bytes:
    return film(1, Rows=60000, Columns=60000)


WHOLE = film(1)
J2K = bytes(imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="j2k"))
LOSSLESS = bytes(imagecodecs.jpeg8_encode(PIXELS, lossless=True, bitspersample=12))
TWELVE = bytes(imagecodecs.jpeg8_encode(PIXELS, level=98, bitspersample=12))
JPEG_LS = bytes(imagecodecs.jpegls_encode(PIXELS))
HTJ2K = bytes(imagecodecs.htj2k_encode(PIXELS, reversible=True))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "dicom.empty"),
        (b"\0" * 50, "dicom.truncated"),
        (b"not dicom at all, but long enough to have a preamble" * 9, "dicom.not_dicom"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "dicom.not_dicom"),
        (WHOLE[:132], "dicom.truncated"),
        (WHOLE[:-1], "dicom.truncated"),
        (film(1, PixelData=None), "dicom.no_pixel_data"),
        (film(1, PixelData=b"\0\0"), "dicom.truncated"),
        (film(1, Rows=None), "dicom.inconsistent_pixels"),
        (film(1, Rows=0), "dicom.inconsistent_pixels"),
        (film(1, BitsStored=17), "dicom.inconsistent_pixels"),
        (film(1, BitsAllocated=32, BitsStored=32, HighBit=31), "dicom.truncated"),
        (film(1, BitsAllocated=1, BitsStored=1, HighBit=0), "dicom.unsupported_pixels"),
        (film(1, BitsAllocated=24, BitsStored=24, HighBit=23), "dicom.unsupported_pixels"),
        (film(1, BitsAllocated=64, BitsStored=64, HighBit=63), "dicom.unsupported_pixels"),
        (film(1, PhotometricInterpretation="RGB", SamplesPerPixel=3), "dicom.truncated"),
        (film(1, PhotometricInterpretation="RGB"), "dicom.inconsistent_pixels"),
        (film(1, SamplesPerPixel=3), "dicom.inconsistent_pixels"),
        (film(1, PhotometricInterpretation="HSV", SamplesPerPixel=3), "dicom.unsupported_pixels"),
        (film(1, PhotometricInterpretation=None), "dicom.unsupported_pixels"),
        (film(1, PhotometricInterpretation="PALETTE COLOR"), "dicom.inconsistent_pixels"),
        (film(1, PixelData=None, FloatPixelData=bytes(4)), "dicom.unsupported_pixels"),
        (film(1, NumberOfFrames=-1), "dicom.inconsistent_pixels"),
        (_huge(), "dicom.limit_exceeded"),
        (encoded(J2K, "1.2.840.10008.1.2.4.100"), "dicom.unsupported_transfer_syntax"),
        (encoded(J2K, JPEG2000Lossless, rows=50), "dicom.inconsistent_pixels"),
        (encoded(J2K[:200], JPEG2000Lossless), "dicom.decode_failed"),
        (encoded(b"\xff\xd8\xff\xd9", JPEGBaseline8Bit), "dicom.decode_failed"),
        *[
            (encoded(frame[: round(len(frame) * share)], syntax), code)
            for share in (0.5, 0.99)
            for syntax, frame, code in [
                (JPEGLosslessSV1, LOSSLESS, "dicom.truncated"),
                (JPEGExtended12Bit, TWELVE, "dicom.truncated"),
                (JPEGLSLossless, JPEG_LS, "dicom.decode_failed"),
                (JPEG2000Lossless, J2K, "dicom.decode_failed"),
                (HTJ2KLossless, HTJ2K, "dicom.decode_failed"),
            ]
        ],
        (encoded(b"nonsense", HTJ2KLossless), "dicom.decode_failed"),
        (encoded(b"\1\0\0\0" + bytes(60), RLELossless), "dicom.inconsistent_pixels"),
        (encoded(b"\2\0\0\0" + bytes(60), RLELossless), "dicom.decode_failed"),
        (_bomb_j2k(), "dicom.inconsistent_pixels"),
        (_bomb_deflate(), "dicom.limit_exceeded"),
    ],
)
def test_every_refusal_has_its_code(data: bytes, code: str) -> None:
    limits = Limits(max_inflated_bytes=8 * 2**20)
    with pytest.raises(HilumError) as caught:
        dicom.decode(dicom.open_object(data, limits))
    assert caught.value.code == code, caught.value
    assert caught.value.body()["next_step"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_an_object_cut_anywhere_is_truncated_and_not_said_to_lack_pixels(syntax: str) -> None:
    whole = film(1) if syntax == ExplicitVRLittleEndian else encoded(J2K, syntax)
    found = {}
    for end in range(150, len(whole) - 8, 7):
        with pytest.raises(HilumError) as caught:
            dicom.decode(dicom.open_object(whole[:end], LIMITS))
        found[end] = caught.value.code
    pixels = whole.index(b"\xe0\x7f\x10\x00")
    assert {code for end, code in found.items() if end > pixels} == {"dicom.truncated"}
    # Right between two elements nothing shows that there was to be more.
    header = Counter(code for end, code in found.items() if end <= pixels)
    assert header.most_common(1)[0][0] == "dicom.truncated"
    assert set(header) <= {"dicom.truncated", "dicom.no_pixel_data", "dicom.invalid"}


def test_a_missing_uid_is_refused() -> None:
    whole = film(1)
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(whole))
    instance = str(ds.SOPInstanceUID).encode()
    at = whole.rindex(instance)
    broken = whole[:at] + b"x" * len(instance) + whole[at + len(instance) :]
    with pytest.raises(HilumError) as caught:
        dicom.open_object(broken, LIMITS)
    assert caught.value.code == "dicom.invalid"


def test_bombs_take_no_memory() -> None:
    limits = Limits(max_inflated_bytes=4 * 2**20)
    bombs = [_bomb_j2k(), _bomb_deflate(), _huge()]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(HilumError):
            dicom.decode(dicom.open_object(bomb, limits))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_no_depth_is_too_much_in_what_nobody_reads() -> None:
    assert np.array_equal(values(_nested(30_000)), PIXELS)


def _mutants(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 3, 12))):
            # Mostly within the header, where structure is.
            limit = min(len(mutant), 1200) if rng.random() < 0.8 else len(mutant)
            mutant[rng.randrange(limit)] = rng.randrange(256)
        if rng.random() < 0.3:
            del mutant[rng.randrange(len(mutant)) :]
        if rng.random() < 0.2:
            at = rng.randrange(len(mutant) + 1)
            mutant[at:at] = rng.randbytes(rng.randrange(1, 40))
        yield bytes(mutant)


def test_broken_files_end_as_films_or_as_errors_that_quote_nothing() -> None:
    rng = random.Random(20261124)
    marked = {"PatientName": MARKER, "PatientID": MARKER, "StudyDescription": MARKER}
    seeds = [
        film(1, **marked),
        rewritten(film(2, **marked), ImplicitVRLittleEndian),
        rewritten(film(3, **marked), DeflatedExplicitVRLittleEndian),
        encoded(J2K, JPEG2000Lossless, **marked),
        encoded(bytes(imagecodecs.jpegls_encode(PIXELS)), JPEGLSLossless, **marked),
        _file("MR_small_RLE.dcm"),
        _file("JPGExtended.dcm"),
    ]
    limits = Limits(max_inflated_bytes=4 * 2**20, max_pixels=4_000_000)
    films = errors = 0
    for data in seeds:
        for mutant in _mutants(data, rng, 120):
            try:
                found = dicom.decode(dicom.open_object(mutant, limits))
                assert np.isfinite(found.pixels).all()
                assert MARKER not in repr(found)
                films += 1
            except HilumError as error:
                text = f"{error} {error.body()} {error.__cause__}"
                assert "ZEBRA" not in text
                assert "1.2.826" not in text
                errors += 1
    assert films > 100
    assert errors > 100


def _file(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path)).read_bytes()
