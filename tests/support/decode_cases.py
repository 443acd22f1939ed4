"""Every kind of input that is read, made by other software than the reader where there is any.

Each case is a file, what its pixels are, how far decoding may be off, and other decoders that
must agree. The table in ``docs/understand/decoders.csv`` has a row for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import get_encoder, pixel_array
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from support.encodings import described, encoded, native

from hilum import dicom
from hilum.dicom import picture
from hilum.dicom.decode import decode_stored
from hilum.settings import Limits

Decoder = Callable[[bytes], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file and what is in it."""

    syntax: str  # or file format, for people
    kind: str  # photometric interpretation, bits, sign
    decoder: str  # what hilum decodes it with
    data: bytes = field(repr=False)
    expected: np.ndarray = field(repr=False)  # [H, W], stored values; of colour the grey
    bound: int = 0  # how far one value may be off
    others: Mapping[str, Decoder] = field(default_factory=dict)  # they give what hilum gives
    others_bound: int = 0
    shown: int = 0  # bits: ``expected`` is the grey film in these, not the stored values


def plugin(name: str, *, raw: bool = True) -> Decoder:
    """pydicom's plugin of that name; ``raw``: colour as it is stored, otherwise RGB."""

    def decode(data: bytes) -> np.ndarray:
        return pixel_array(pydicom.dcmread(BytesIO(data)), decoding_plugin=name, raw=raw)

    return decode


def plain(data: bytes) -> np.ndarray:
    """pydicom, no plugin."""
    return pydicom.dcmread(BytesIO(data)).pixel_array


def openjph(data: bytes) -> np.ndarray:
    """OpenJPH, which shares no code with OpenJPEG."""
    frame = get_frame(pydicom.dcmread(BytesIO(data)).PixelData, 0, number_of_frames=1)
    return imagecodecs.htj2k_decode(frame)


def libpng(data: bytes) -> np.ndarray:
    """A PNG file, through imagecodecs."""
    return imagecodecs.png_decode(data)


def pillow(data: bytes) -> np.ndarray:
    """A JPEG file."""
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


GDCM = {"GDCM": plugin("gdcm")}
CHARLS = {**GDCM, "pyjpegls": plugin("pyjpegls")}
OPENJPEG = {**GDCM, "pylibjpeg-openjpeg": plugin("pylibjpeg")}
PYDICOM = {"pydicom": plain}


def pixels(bits: int, *, signed: bool = False, smooth: bool = False) -> np.ndarray:
    """``[62, 46]`` from the smallest to the largest value that ``bits`` bits hold."""
    rows, columns = 62, 46
    top = (1 << bits) - 1
    ramp = np.add.outer(np.arange(rows), np.arange(columns)) / (rows + columns - 2)
    if not smooth:
        noise = np.random.default_rng(bits).random((rows, columns))
        ramp = np.where(noise < 0.3, noise / 0.3, ramp)
        ramp[0, 0], ramp[-1, -1] = 0, 1
    values = np.rint(ramp * top).astype(np.int64) - ((top + 1) // 2 if signed else 0)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}"
    return values.astype(kind)


def unsigned(values: np.ndarray, bits: int) -> np.ndarray:
    """The bits of ``values``, as codecs without a sign take them."""
    kind = f"u{values.dtype.itemsize}"
    return values.view(kind) & np.array((1 << bits) - 1, dtype=kind)


def _name(syntax: str) -> str:
    return pydicom.uid.UID(syntax).name.partition(" (Process")[0]


def _grey(bits: int, signed: bool) -> str:
    return f"MONOCHROME2, {bits} bits{', signed' if signed else ''}"


DEPTHS = [(8, False), (8, True), (10, False), (12, False), (12, True), (15, False),
          (16, False), (16, True)]  # fmt: skip
DEEP = [(20, False), (32, False), (32, True)]


def natives() -> Iterator[Case]:
    for syntax in (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ):
        for bits, signed in DEPTHS + DEEP:
            values = pixels(bits, signed=signed)
            yield Case(
                syntax=_name(syntax),
                kind=_grey(bits, signed),
                decoder="hilum",
                data=native(values, syntax, **described(values, bits=bits, signed=signed)),
                expected=values,
                others=PYDICOM,
            )


def run_lengths() -> Iterator[Case]:
    for bits, signed in DEPTHS + DEEP:
        values = pixels(bits, signed=signed)
        frame = RLELosslessEncoder.encode(
            values.astype(values.dtype.newbyteorder("<")).tobytes(),
            rows=values.shape[0],
            columns=values.shape[1],
            number_of_frames=1,
            samples_per_pixel=1,
            bits_allocated=8 * values.dtype.itemsize,
            bits_stored=8 * values.dtype.itemsize,  # of no matter to the encoder
            pixel_representation=int(signed),
            photometric_interpretation="MONOCHROME2",
            encoding_plugin="pydicom",
            validate=False,  # 32 bits are not in the standard, but in the field
        )
        yield Case(
            syntax=_name(RLELossless),
            kind=_grey(bits, signed),
            decoder="imagecodecs",
            data=encoded(frame, RLELossless, **described(values, bits=bits, signed=signed)),
            expected=values,
            others=PYDICOM,
        )


def _jpeg_ls(syntax: str, error: int) -> Callable[[np.ndarray, int], bytes]:
    def encode(values: np.ndarray, bits: int) -> bytes:
        return get_encoder(syntax).encode(
            values,
            rows=values.shape[0],
            columns=values.shape[1],
            number_of_frames=1,
            samples_per_pixel=1,
            bits_allocated=8 * values.dtype.itemsize,
            bits_stored=bits,
            pixel_representation=int(values.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2",
            encoding_plugin="pyjpegls",
            jls_error=error,
        )

    return encode


def lossless() -> Iterator[Case]:
    def jpeg(predictor: int) -> Callable[[np.ndarray, int], bytes]:
        def encode(values: np.ndarray, bits: int) -> bytes:
            return imagecodecs.jpeg8_encode(
                unsigned(values, bits), lossless=True, predictor=predictor, bitspersample=bits
            )

        return encode

    def jpeg2000(values: np.ndarray, bits: int) -> bytes:
        return imagecodecs.jpeg2k_encode(
            values, level=0, codecformat="j2k", bitspersample=bits, reversible=True
        )

    def htj2k(values: np.ndarray, bits: int) -> bytes:
        return imagecodecs.htj2k_encode(values, reversible=True)

    kinds: list[tuple[str, str, Callable[[np.ndarray, int], bytes], Mapping[str, Decoder]]] = [
        (JPEGLossless, "libjpeg-turbo", jpeg(6), GDCM),
        (JPEGLosslessSV1, "libjpeg-turbo", jpeg(1), GDCM),
        (JPEGLSLossless, "CharLS", _jpeg_ls(JPEGLSLossless, 0), CHARLS),
        (JPEG2000Lossless, "OpenJPEG", jpeg2000, OPENJPEG),
        (HTJ2KLossless, "OpenJPEG", htj2k, {"OpenJPH": openjph}),
        (HTJ2KLosslessRPCL, "OpenJPEG", htj2k, {"OpenJPH": openjph}),
    ]
    for syntax, decoder, encode, others in kinds:
        deep = [(20, False), (24, True)] if syntax == JPEG2000Lossless else []
        for bits, signed in DEPTHS + deep:
            values = pixels(bits, signed=signed)
            yield Case(
                syntax=_name(syntax),
                kind=_grey(bits, signed),
                decoder=decoder,
                data=encoded(
                    encode(values, bits), syntax, **described(values, bits=bits, signed=signed)
                ),
                expected=values,
                others=others,
            )


def lossy() -> Iterator[Case]:
    for syntax, bits, signed, decoder, bound, encode, others, others_bound in [
        (JPEGBaseline8Bit, 8, False, "libjpeg-turbo", 3,
         lambda v, b: imagecodecs.jpeg8_encode(v, level=98), {**GDCM}, 1),
        (JPEGExtended12Bit, 8, False, "libjpeg-turbo", 3,
         lambda v, b: imagecodecs.jpeg8_encode(v, level=98), {**GDCM}, 1),
        (JPEGExtended12Bit, 12, False, "libjpeg-turbo", 6,
         lambda v, b: imagecodecs.jpeg8_encode(v, level=98, bitspersample=12), {}, 0),
        (JPEGLSNearLossless, 8, False, "CharLS", 2,
         _jpeg_ls(JPEGLSNearLossless, 2), CHARLS, 0),
        (JPEGLSNearLossless, 12, False, "CharLS", 3,
         _jpeg_ls(JPEGLSNearLossless, 3), CHARLS, 0),
        (JPEGLSNearLossless, 16, False, "CharLS", 5,
         _jpeg_ls(JPEGLSNearLossless, 5), CHARLS, 0),
        *[
            (JPEG2000, bits, signed, "OpenJPEG", max(2, (1 << bits) // 200),
             lambda v, b: imagecodecs.jpeg2k_encode(
                 v, level=60, codecformat="j2k", bitspersample=b, reversible=False),
             OPENJPEG, 1)
            for bits, signed in [(8, False), (12, False), (12, True), (16, False)]
        ],
        *[
            (HTJ2K, bits, False, "OpenJPEG", max(2, (1 << bits) // 200),
             lambda v, b: imagecodecs.htj2k_encode(v, level=1 / 512, reversible=False),
             {"OpenJPH": openjph}, max(1, (1 << bits) // 2048))
            for bits in (8, 16)
        ],
    ]:  # fmt: skip
        values = pixels(bits, signed=signed, smooth=True)
        yield Case(
            syntax=_name(syntax),
            kind=_grey(bits, signed),
            decoder=decoder,
            data=encoded(
                encode(values, bits), syntax, **described(values, bits=bits, signed=signed)
            ),
            expected=values,
            bound=bound,
            others=others,
            others_bound=others_bound,
        )


def check(case: Case) -> None:
    """Decode ``case`` here and elsewhere.

    Raises:
        AssertionError: a value is further off than the case allows.
    """
    opened = dicom.open_film(case.data, Limits())
    stored = (picture.decode if opened.header.picture else decode_stored)(opened).stored
    if case.shown:
        found = dicom.decode(opened).pixels * ((1 << case.shown) - 1)
    else:
        found = stored
        assert found.dtype.kind == case.expected.dtype.kind
    # Float32 carries grey to a hundredth of a level.
    assert found.shape == case.expected.shape
    assert _furthest(found, case.expected) <= case.bound + (0.01 if case.shown else 0)
    for name, decode in case.others.items():
        other = decode(case.data)
        if opened.header.picture and other.shape[2:] == (4,):
            other = other[..., :3]
        assert other.shape == stored.shape, name
        assert _furthest(other, stored) <= case.others_bound, name


def _furthest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
