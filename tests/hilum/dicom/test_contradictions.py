"""One element of the header is changed: the film is read as before, or refused. Never otherwise."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
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
from support.encodings import described, encoded, native, rewritten
from support.tiny_film import film

from benchmarks import films
from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.errors import HilumError
from hilum.settings import Limits

LIMITS = Limits()
ROWS, COLUMNS = 96, 140
CODES = {
    "dicom.inconsistent_pixels",
    "dicom.unsupported_pixels",
    "dicom.truncated",
    "dicom.decode_failed",
    "dicom.coloured_pixels",
    "dicom.unsupported_transfer_syntax",
}


def picture(bits: int, *, signed: bool = False) -> np.ndarray[Any, np.dtype[Any]]:
    """A smooth film ``[96, 140]`` with some noise over most of the range of ``bits``."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    waves = 0.5 + 0.45 * np.sin(x / 19 + 1) * np.cos(y / 23)
    noise = np.random.default_rng(bits).normal(0, 0.002, waves.shape)
    values = np.rint(np.clip(waves + noise, 0.01, 1) * (2**bits - 1)).astype(np.int64)
    if signed:
        return (values - 2 ** (bits - 1)).astype(np.int8 if bits <= 8 else np.int16)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def run_lengths(values: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    return RLELosslessEncoder.encode(
        values.tobytes(), rows=values.shape[0], columns=values.shape[1], number_of_frames=1,
        samples_per_pixel=1, bits_allocated=8 * values.itemsize, bits_stored=8 * values.itemsize,
        pixel_representation=0, photometric_interpretation="MONOCHROME2",
        encoding_plugin="pydicom",
    )  # fmt: skip


def wavelet(values: np.ndarray[Any, np.dtype[Any]], bits: int, **how: Any) -> bytes:
    options = {"level": 0, "codecformat": "j2k", "bitspersample": bits, "reversible": True}
    return bytes(imagecodecs.jpeg2k_encode(values, **{**options, **how}))


def _window(bits: int, *, signed: bool = False) -> dict[str, Any]:
    return {"WindowCenter": 0 if signed else 2 ** (bits - 1), "WindowWidth": 2**bits}


def _natives() -> dict[str, bytes]:
    found = {}
    for name, syntax in (("implicit", ImplicitVRLittleEndian), ("explicit", ExplicitVRLittleEndian),
                         ("big", ExplicitVRBigEndian)):  # fmt: skip
        for bits, signed in ((8, False), (12, False), (12, True), (16, False), (16, True)):
            if name != "explicit" and bits != (12 if name == "implicit" else 8):
                continue
            values = picture(bits, signed=signed)
            said = {**described(values, bits=bits, signed=signed), **_window(bits, signed=signed)}
            found[f"{name} {'i' if signed else 'u'}{bits}"] = native(values, syntax, **said)
    return found


def _encoded() -> dict[str, bytes]:
    u8, u12, u16, i12 = picture(8), picture(12), picture(16), picture(12, signed=True)
    bare = (i12.astype(np.int64) & 0xFFF).astype(np.uint16)
    lossless = {"lossless": True, "bitspersample": 12}
    frames = [
        ("RLE u12", RLELossless, run_lengths(u12), u12, 12),
        ("RLE u8", RLELossless, run_lengths(u8), u8, 8),
        ("RLE i12", RLELossless, run_lengths(i12), i12, 12),
        ("JPEG u8", JPEGBaseline8Bit, imagecodecs.jpeg8_encode(u8, level=95), u8, 8),
        ("JPEG u12", JPEGExtended12Bit,
         imagecodecs.jpeg8_encode(u12, level=95, bitspersample=12), u12, 12),
        ("JPEG lossless u12", JPEGLosslessSV1, imagecodecs.jpeg8_encode(u12, **lossless), u12, 12),
        ("JPEG lossless i12", JPEGLosslessSV1, imagecodecs.jpeg8_encode(bare, **lossless), i12, 12),
        ("JPEG-LS u12", JPEGLSLossless, imagecodecs.jpegls_encode(u12), u12, 12),
        ("JPEG-LS u16", JPEGLSLossless, imagecodecs.jpegls_encode(u16), u16, 16),
        ("JPEG 2000 u12", JPEG2000Lossless, wavelet(u12, 12), u12, 12),
        ("JPEG 2000 i12", JPEG2000Lossless, wavelet(i12, 12), i12, 12),
        ("JPEG 2000 u16", JPEG2000Lossless, wavelet(u16, 16), u16, 16),
        ("JPEG 2000 lossy u12", JPEG2000, wavelet(u12, 12, reversible=False, level=60), u12, 12),
        ("HTJ2K u12", HTJ2KLossless, films.htj2k(u12, 12), u12, 12),
    ]  # fmt: skip
    made = {}
    for name, syntax, frame, values, bits in frames:
        signed = values.dtype.kind == "i"
        said = {**described(values, bits=bits, signed=signed), **_window(bits, signed=signed)}
        made[name] = encoded(bytes(frame), syntax, **said)
    return made


FILMS = {**_natives(), **_encoded()}

CHANGES: list[dict[str, Any]] = [
    *({"Rows": n} for n in (1, ROWS // 2, ROWS - 1, ROWS + 1, ROWS * 2, COLUMNS)),
    *({"Columns": n} for n in (1, COLUMNS // 2, COLUMNS - 1, COLUMNS + 1, COLUMNS * 2, ROWS)),
    {"SamplesPerPixel": 3},
    {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    {"PhotometricInterpretation": "RGB"},
    {"PlanarConfiguration": 1},
    *({"NumberOfFrames": n} for n in (0, 1, 2, 3)),
    *({"BitsAllocated": n} for n in (8, 16, 32)),
    *({"BitsStored": n, **more}
      for n in (4, 7, 8, 10, 11, 12, 13, 16)
      for more in ({}, {"HighBit": None}, {"HighBit": n - 1})),
    *({"HighBit": n} for n in (6, 7, 8, 10, 11, 12, 13, 15)),
    *({"PixelRepresentation": n} for n in (0, 1)),
    {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
    {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
]  # fmt: skip

# What nothing shows: a sign that a codestream knows nothing of looks like any other bit.
UNSEEN = [("JPEG lossless i12", {"PixelRepresentation": 0})]


SIDES = (None, 64)


def changes(data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The film with each of :data:`CHANGES`."""
    ds = pydicom.dcmread(BytesIO(data))
    original = {keyword: ds.get(keyword) for change in CHANGES for keyword in change}
    for change in CHANGES:
        for keyword, value in change.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        out = BytesIO()
        ds.save_as(out)
        yield change, out.getvalue()
        for keyword in change:
            if original[keyword] is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, original[keyword])


def outcomes(data: bytes) -> list[np.ndarray[Any, np.dtype[Any]] | str]:
    """Of each of :data:`SIDES`, the pixels, or the code of the refusal."""
    try:
        opened = dicom.open_film(data, LIMITS)
    except HilumError as error:
        return [error.code for _ in SIDES]
    found: list[np.ndarray[Any, np.dtype[Any]] | str] = []
    for side in SIDES:
        try:
            found.append(dicom.decode(opened, side=side).pixels)
        except HilumError as error:
            found.append(error.code)
    return found


@pytest.mark.parametrize("name", FILMS)
def test_one_declaration_is_wrong(name: str) -> None:
    right = outcomes(FILMS[name])
    refused = 0
    for change, data in changes(FILMS[name]):
        if (name, change) in UNSEEN:
            continue
        for side, expected, found in zip(SIDES, right, outcomes(data), strict=True):
            assert not isinstance(expected, str)
            if isinstance(found, str):
                assert found in CODES, change
                refused += 1
            else:
                assert found.shape == expected.shape, (change, side)
                assert np.abs(found - expected).max() < 0.02, (change, side)
    assert refused > len(CHANGES)


@pytest.mark.parametrize("noise", [0, 40])
@pytest.mark.parametrize("letters", ["plain", "smooth", "frame"])
def test_white_on_black_is_no_sign(letters: str, noise: int) -> None:
    """Sixteen bits, a dark film, its whole range in what was burnt into it."""
    generator = np.random.default_rng(5)
    values = 3000 + 2500 * np.sin(np.arange(400) / 30) * np.ones((300, 1))
    values += generator.normal(0, noise, values.shape)
    drawn = np.zeros(values.shape)
    if letters == "frame":
        drawn[:40] = drawn[:, -50:] = 1
        values[40:60] = 0
    else:
        drawn[20:280, ::4] = drawn[20:280, 1::4] = 1
    if letters == "smooth":
        drawn = (drawn + np.roll(drawn, 1, 1) + np.roll(drawn, 1, 0)) / 3
        drawn *= generator.uniform(0.7, 1, drawn.shape)
    film = np.clip(values * (1 - drawn) + 65535 * drawn, 0, 65535).astype(np.uint16)
    assert code(native(film, ExplicitVRLittleEndian, **described(film, bits=16))) is None


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_several_times_the_declared_pixels(extra: int) -> None:
    values = picture(12)
    many = np.concatenate([values] * (1 + extra))
    said = {**described(values, bits=12), **_window(12)}
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        assert code(native(many, syntax, **said)) == "dicom.inconsistent_pixels"


def test_packed_samples() -> None:
    """Twelve bits in one and a half bytes each, under a header of eight."""
    values = picture(12).reshape(-1, 2)
    low, high = values[:, 0], values[:, 1]
    packed = np.stack([low & 255, (low >> 8) | ((high & 15) << 4), high >> 4], 1).astype(np.uint8)
    said = described(picture(8), bits=8)
    data = rewritten(film(1, **said), ExplicitVRLittleEndian, PixelData=packed.tobytes())
    assert code(data) == "dicom.inconsistent_pixels"


@pytest.mark.parametrize("surplus", [b"\0", b"\7", bytes(5000), b"\7" * (2 * COLUMNS - 2)])
def test_padding_of_native_pixels(surplus: bytes) -> None:
    values = picture(12)
    raw = values.tobytes() + surplus
    said = described(values, bits=12)
    data = rewritten(film(1, **said), ExplicitVRLittleEndian, PixelData=raw)
    assert np.array_equal(stored_values(dicom.open_object(data, LIMITS)), values)


@pytest.mark.parametrize("surplus", [b"\7" * 2 * COLUMNS, bytes(999) + b"\7", b"\7" * 2 * ROWS])
def test_more_than_padding(surplus: bytes) -> None:
    """A row, or as many samples as one more column has."""
    values = picture(12)
    data = rewritten(film(1, **described(values, bits=12)), ExplicitVRLittleEndian,
                     PixelData=values.tobytes() + surplus)  # fmt: skip
    assert code(data) == "dicom.inconsistent_pixels"


@pytest.mark.parametrize("name", [name for name in FILMS if name.startswith(("RLE", "JPEG"))])
@pytest.mark.parametrize("length", ["undefined", "defined"])
def test_items_under_a_native_transfer_syntax(name: str, length: str) -> None:
    data = FILMS[name]
    at = data.index(b"\xe0\x7f\x10\0OB") + 8
    if length == "defined":
        data = data[:at] + struct.pack("<I", len(data) - at - 4) + data[at + 4 :]
    start = data.index(b"\x02\0\x10\0UI") + 8
    (size,) = struct.unpack_from("<H", data, start - 2)
    uid = ExplicitVRLittleEndian.encode().ljust(20, b"\0")
    labelled = data[: start - 2] + struct.pack("<H", 20) + uid + data[start + size :]
    assert code(labelled) == "dicom.inconsistent_pixels"


@pytest.mark.parametrize("name", ["JPEG u8", "JPEG lossless u12", "JPEG-LS u12", "JPEG 2000 u12"])
@pytest.mark.parametrize(
    "syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless]
)
def test_another_codestream_than_the_transfer_syntax_says(name: str, syntax: str) -> None:
    ds = pydicom.dcmread(BytesIO(FILMS[name]))
    kinds = {JPEGBaseline8Bit: "JPEG", JPEGLSLossless: "JPEG-LS"}
    ds.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    ds.save_as(out)
    same = name.rsplit(" ", 1)[0].removesuffix(" lossless") == kinds.get(syntax, "JPEG 2000")
    expected = [None] * 2 if same else ["dicom.inconsistent_pixels"] * 2
    found = outcomes(out.getvalue())
    assert [one if isinstance(one, str) else None for one in found] == expected


@pytest.mark.parametrize("said", [0, 1])
def test_samples_that_lie_plane_by_plane_or_not(said: int) -> None:
    """Neighbours of a smooth film are alike, as the samples of a grey pixel are."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    grey = np.rint(128 + 100 * np.sin(x / 40) * np.cos(y / 50)).astype(np.uint8)
    pixels = np.stack([grey] * 3, axis=-1)
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    colour = {**described(grey, bits=8), "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB",
              "PlanarConfiguration": said}  # fmt: skip
    right, wrong = (planes, pixels) if said else (pixels, planes)
    found = outcomes(native(right, ExplicitVRLittleEndian, **colour))
    assert not isinstance(found[0], str)
    assert np.abs(found[0] - grey / 255).max() < 1e-6
    for outcome in outcomes(native(wrong, ExplicitVRLittleEndian, **colour)):
        assert outcome == "dicom.inconsistent_pixels"


def test_frames_that_nobody_declared() -> None:
    frame = bytes(imagecodecs.jpegls_encode(picture(12)))
    ds = pydicom.dcmread(BytesIO(encoded(frame, JPEGLSLossless, **described(picture(12), bits=12))))
    ds.PixelData = encapsulate([frame, frame])
    out = BytesIO()
    ds.save_as(out)
    assert code(out.getvalue()) == "dicom.inconsistent_pixels"


def test_a_tile_that_is_not_there() -> None:
    out = BytesIO()
    Image.fromarray(picture(12)).save(out, "JPEG2000", tile_size=(64, 64), no_jp2=True)
    frame = out.getvalue()
    said = described(picture(12), bits=16)
    assert code(encoded(frame, JPEG2000Lossless, **said)) is None
    cut = frame[: frame.rindex(b"\xff\x90\0\x0a")] + b"\xff\xd9"
    for side in (None, 64):
        with pytest.raises(HilumError, match=r"declares 6 tiles.*\(SOT, FF90\) of 5"):
            dicom.decode(dicom.open_film(encoded(cut, JPEG2000Lossless, **said), LIMITS), side=side)


def code(data: bytes) -> str | None:
    found = outcomes(data)[0]
    return found if isinstance(found, str) else None
