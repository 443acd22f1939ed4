"""Whole files of every kind that is read, small enough to be broken by the thousand."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from support import colour_cases, decode_cases, sloppy
from support.encodings import described, encoded, native
from support.tiny_film import film

from benchmarks import films

_LARGEST = 300_000  # bytes
_SAMPLES = Path(__file__).parents[3] / "models" / "samples"


def seeds() -> list[bytes]:
    """All of them, always in the same order."""
    made = [film(1), film(2, PixelPaddingValue=0, WindowCenter=2000, WindowWidth=900)]
    made += [case.data for case in _cases()]
    made += [path.read_bytes() for path in sorted(_SAMPLES.glob("*.dcm"))]
    made += [data for _, data in sloppy.kinds()]
    made += _real_films()
    made += large()
    made += tables()
    made += transparencies()
    made += [data for data in _of_pydicom() if len(data) <= _LARGEST]
    return made


def _cases() -> Iterator[decode_cases.Case]:
    for kinds in (
        decode_cases.natives,
        decode_cases.run_lengths,
        decode_cases.lossless,
        decode_cases.lossy,
        colour_cases.captures,
        colour_cases.pictures,
    ):
        yield from kinds()


def _real_films() -> list[bytes]:
    """The real chest film and extremity, small, in each kind of compression."""
    found = []
    for name in ("RG1_UNCR.dcm", "RG3_UNCR.dcm"):
        grey = pydicom.dcmread(str(get_testdata_file(name, download=False))).pixel_array
        small = np.asarray(Image.fromarray(grey.astype(np.float32)).resize((160, 192)))
        bits = 12
        pixels = np.rint(small / max(1.0, small.max()) * (2**bits - 1)).astype(np.uint16)
        eight = (pixels >> 4).astype(np.uint8)
        wide, narrow = described(pixels, bits=bits), described(eight, bits=8)
        jpeg2000 = {"level": 0, "codecformat": "j2k", "bitspersample": bits}
        lossless = {"lossless": True, "bitspersample": bits}
        found += [
            encoded(bytes(imagecodecs.jpeg2k_encode(pixels, **jpeg2000)), JPEG2000Lossless, **wide),
            encoded(bytes(imagecodecs.htj2k_encode(pixels)), HTJ2KLossless, **wide),
            encoded(bytes(imagecodecs.jpegls_encode(pixels)), JPEGLSLossless, **wide),
            encoded(bytes(imagecodecs.jpeg8_encode(pixels, **lossless)), JPEGLosslessSV1, **wide),
            encoded(bytes(imagecodecs.jpeg8_encode(eight, level=90)), JPEGBaseline8Bit, **narrow),
        ]
        for kind in ("PNG", "JPEG"):
            out = BytesIO()
            Image.fromarray(eight).save(out, kind)
            found.append(out.getvalue())
    return found


def large() -> list[bytes]:
    """Films large enough to be decoded in part, or that look as if they could be: with a sign, of
    fewer bits than the codestream's, lossy beyond their range, another JPEG than they say."""
    y, x = np.mgrid[:320, :264]
    waves = np.sin(x / 17) * np.cos(y / 23) + 0.4 * np.sin((x + y) / 3)
    harsh = np.clip(waves * 2 + 0.5, 0, 1)  # much of it is black or white
    deep = np.rint(harsh * 4095).astype(np.uint16)
    eight, seven = (deep >> 4).astype(np.uint8), (deep >> 5).astype(np.uint8)
    signed = (deep.astype(int) - 2048).astype(np.int16)
    # Black and white are neighbours in the bits of signed values: a lossy codestream of harsh ones
    # has black for white, and is refused.
    signed_bits = np.rint(waves * 40 + 60).astype(np.uint8)
    wide, narrow = described(deep, bits=12), described(eight, bits=8)
    jpeg2000 = {"codecformat": "j2k", "reversible": True, "level": 0}
    lossy = {"codecformat": "j2k", "reversible": False, "level": 45}
    return [
        native(deep, ExplicitVRLittleEndian, **wide),
        *(
            encoded(bytes(frame), syntax, **header)
            for frame, syntax, header in (
                (imagecodecs.jpeg2k_encode(deep, bitspersample=12, **jpeg2000),
                 JPEG2000Lossless, wide),
                (imagecodecs.jpeg2k_encode(deep, **jpeg2000), JPEG2000Lossless, wide),
                (films.htj2k(deep, 12), HTJ2KLossless, wide),
                (imagecodecs.jpeg2k_encode(signed, **lossy),
                 JPEG2000, described(signed, bits=12, signed=True)),
                (imagecodecs.jpeg2k_encode(signed, bitspersample=12, **lossy),
                 JPEG2000, described(signed, bits=12, signed=True)),
                (imagecodecs.jpegls_encode(deep), JPEGLSLossless, wide),
                (imagecodecs.jpeg8_encode(eight, level=80), JPEGBaseline8Bit, narrow),
                (imagecodecs.jpeg8_encode(signed_bits, level=80),
                 JPEGBaseline8Bit, described(eight, bits=8, signed=True)),
                (imagecodecs.jpeg8_encode(seven, level=40),
                 JPEGBaseline8Bit, described(seven, bits=7)),
                (imagecodecs.jpeg8_encode(deep, level=80, bitspersample=12),
                 JPEGBaseline8Bit, wide),
                (imagecodecs.jpeg8_encode(deep, lossless=True, bitspersample=12),
                 JPEGBaseline8Bit, wide),
            )
        ),
    ]  # fmt: skip


def tables() -> list[bytes]:
    """Look-up tables that are short, packed, of another depth than declared, empty or signed, and
    windows of no width."""
    values = (np.add.outer(np.arange(80) * 29, np.arange(70) * 17) % 4096).astype(np.uint16)
    ramp = np.arange(4096)
    made = []
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        packed = (ramp >> 4).astype(np.uint8).tobytes()
        words = np.frombuffer(packed, "<u2").astype(order).tobytes()
        for descriptor, data in [
            ([4097, 0, 12], ramp.astype(order).tobytes()),
            ([4096, 0, 16], ramp[:4000].astype(order).tobytes()),
            ([4096, 0, 8], words),
            ([5096, 64536, 12], ramp.astype(order).tobytes()),
            ([0, 0, 40], b""),
        ]:
            item = pydicom.Dataset()
            item.add_new("LUTDescriptor", "US", descriptor)
            item.add_new("LUTData", "OW", data)
            for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
                module = {keyword: pydicom.Sequence([pydicom.Dataset(), item])}
                made.append(native(values, syntax, **described(values, bits=12), **module))
    for window in ({"WindowWidth": 0}, {"WindowWidth": [0, 4096], "WindowCenter": [1, 2048]}):
        attributes = {"WindowCenter": 2048, **window}
        made.append(
            native(values, ExplicitVRLittleEndian, **described(values, bits=12), **attributes)
        )
    return made


def transparencies() -> list[bytes]:
    """PNG files with an alpha of 8 and of 16 bits, and with a grey that means transparent."""
    grey = np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)
    files = [
        bytes(
            imagecodecs.png_encode(np.dstack([deep, np.full_like(deep, np.iinfo(deep.dtype).max)]))
        )
        for deep in (grey, grey.astype(np.uint16) * 257)
    ]
    out = BytesIO()
    Image.fromarray(grey).save(out, "PNG", transparency=200)
    return [*files, out.getvalue()]


def _of_pydicom() -> Iterator[bytes]:
    folder = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".dcm", ""}:
            yield path.read_bytes()
