"""Colour captures of grey films, and picture files: what :mod:`support.decode_cases` has not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)
from support.decode_cases import GDCM, OPENJPEG, PYDICOM, Case, libpng, pillow, pixels, plugin
from support.encodings import described, encoded, native

GREY = pixels(8, smooth=True)
DEEP = pixels(16, smooth=True)


def colour(**changes: Any) -> dict[str, Any]:
    """The image pixel module of an 8-bit RGB image of the size of ``GREY``."""
    return {
        **described(GREY, bits=8),
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        **changes,
    }


def rgb(grey: np.ndarray) -> np.ndarray:
    """``[H, W, 3]`` with three equal samples."""
    return np.repeat(grey[..., None], 3, axis=-1)


def ybr(grey: np.ndarray) -> np.ndarray:
    """``[H, W, 3]``: Y, and no colour."""
    return np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=-1)


def halved(grey: np.ndarray) -> np.ndarray:
    """YBR_FULL_422 as it is stored: Y, Y, CB, CR."""
    full = np.full((grey.shape[0], grey.shape[1] // 2, 4), 128, np.uint8)
    full[..., 0], full[..., 1] = grey[:, 0::2], grey[:, 1::2]
    return full


def palette(bits: int, *, first: int = 0, segmented: bool = False) -> dict[str, Any]:
    """Tables that turn 8-bit indices round: 255 is black, 0 white."""
    top = (1 << bits) - 1
    entries = np.rint(np.linspace(top, 0, 256)).astype("<u2" if bits == 16 else "<u1")
    made: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        made[f"{name}PaletteColorLookupTableDescriptor"] = [256, first, bits]
        keyword = f"{name}PaletteColorLookupTableData"
        data = entries.tobytes()
        if segmented:  # one discrete entry, then a line of 255 down to black
            keyword = f"Segmented{keyword}"
            data = struct.pack("<HHH", 0, 1, top) + struct.pack("<HHH", 1, 255, 0)
        made[keyword] = data
    return made


def captures() -> Iterator[Case]:
    """DICOM in colour."""
    explicit, big = "Explicit VR Little Endian", "Explicit VR Big Endian"
    planar = np.moveaxis(rgb(GREY), -1, 0)
    stored = {"pydicom": plugin("")}
    for syntax, kind, decoder, data, bound, others in [
        (explicit, "RGB, 8 bits, interleaved", "hilum",
         native(rgb(GREY), ExplicitVRLittleEndian, **colour()), 0, PYDICOM),
        (explicit, "RGB, 8 bits, planar", "hilum",
         native(planar, ExplicitVRLittleEndian, **colour(PlanarConfiguration=1)), 0, PYDICOM),
        (big, "RGB, 8 bits, interleaved", "hilum",
         native(rgb(GREY), ExplicitVRBigEndian, **colour()), 0, PYDICOM),
        (explicit, "YBR_FULL, 8 bits", "hilum",
         native(ybr(GREY), ExplicitVRLittleEndian,
                **colour(PhotometricInterpretation="YBR_FULL")), 0, stored),
        (explicit, "YBR_FULL_422, 8 bits", "hilum",
         native(halved(GREY), ExplicitVRLittleEndian,
                **colour(PhotometricInterpretation="YBR_FULL_422")), 0, stored),
        ("RLE Lossless", "RGB, 8 bits", "imagecodecs", _run_length(), 0, PYDICOM),
        ("JPEG Baseline", "YBR_FULL_422, 8 bits", "libjpeg-turbo",
         encoded(imagecodecs.jpeg8_encode(rgb(GREY), level=98, subsampling="422"),
                 JPEGBaseline8Bit, **colour(PhotometricInterpretation="YBR_FULL_422")),
         3, {"GDCM": plugin("gdcm", raw=False)}),
        ("JPEG Baseline", "RGB, 8 bits, not transformed", "libjpeg-turbo",
         encoded(imagecodecs.jpeg8_encode(
                     rgb(GREY), level=98, colorspace="RGB", outcolorspace="RGB"),
                 JPEGBaseline8Bit, **colour()),
         3, {"GDCM": plugin("gdcm", raw=False)}),
        ("JPEG Lossless SV1", "RGB, 8 bits", "libjpeg-turbo",
         encoded(imagecodecs.jpeg8_encode(rgb(GREY), lossless=True, predictor=1),
                 JPEGLosslessSV1, **colour()), 0, GDCM),
        ("JPEG 2000 Lossless", "YBR_RCT, 8 bits", "OpenJPEG",
         encoded(imagecodecs.jpeg2k_encode(
                     rgb(GREY), level=0, codecformat="j2k", reversible=True, mct=True),
                 JPEG2000Lossless, **colour(PhotometricInterpretation="YBR_RCT")),
         0, OPENJPEG),
        ("JPEG 2000", "YBR_ICT, 8 bits", "OpenJPEG",
         encoded(imagecodecs.jpeg2k_encode(
                     rgb(GREY), level=60, codecformat="j2k", reversible=False, mct=True),
                 JPEG2000, **colour(PhotometricInterpretation="YBR_ICT")),
         2, OPENJPEG),
        ("JPEG 2000 Lossless", "RGB, 8 bits, not transformed", "OpenJPEG",
         encoded(imagecodecs.jpeg2k_encode(
                     rgb(GREY), level=0, codecformat="j2k", reversible=True, mct=False),
                 JPEG2000Lossless, **colour()), 0, OPENJPEG),
        ("JPEG 2000 Lossless", "YBR_FULL, 8 bits", "OpenJPEG",
         encoded(imagecodecs.jpeg2k_encode(
                     ybr(GREY), level=0, codecformat="j2k", reversible=True, mct=False),
                 JPEG2000Lossless, **colour(PhotometricInterpretation="YBR_FULL")),
         0, {"pylibjpeg-openjpeg": plugin("pylibjpeg")}),
    ]:  # fmt: skip
        yield Case(syntax=syntax, kind=kind, decoder=decoder, data=data, expected=GREY,
                   bound=bound, others=others, others_bound=1 if bound else 0, shown=8)  # fmt: skip
    for kind, syntax, tables in [
        ("8-bit table", ExplicitVRLittleEndian, palette(8)),
        ("16-bit table", ImplicitVRLittleEndian, palette(16)),
        ("16-bit segmented table", ExplicitVRLittleEndian, palette(16, segmented=True)),
    ]:
        yield Case(
            syntax=("Im" if syntax == ImplicitVRLittleEndian else "Ex") + "plicit VR Little Endian",
            kind=f"PALETTE COLOR, {kind}",
            decoder="hilum",
            data=native(GREY, syntax, **described(GREY, bits=8), **tables),
            expected=255 - GREY,
            others=PYDICOM,
            shown=8,
        )


def pictures() -> Iterator[Case]:
    """PNG and JPEG files."""
    opaque = np.concatenate([rgb(GREY), np.full((*GREY.shape, 1), 255, np.uint8)], axis=-1)
    for syntax, kind, data, expected, bound in [
        ("PNG", "grey, 8 bits", _png(Image.fromarray(GREY)), GREY, 0),
        ("PNG", "grey, 16 bits", _png(Image.fromarray(DEEP)), DEEP, 0),
        ("PNG", "RGB, 8 bits", _png(Image.fromarray(rgb(GREY))), GREY, 0),
        ("PNG", "RGB and full opacity, 8 bits", _png(Image.fromarray(opaque)), GREY, 0),
        ("PNG", "palette", _png(Image.fromarray(GREY).convert("P")), GREY, 0),
        ("JPEG", "grey, 8 bits", _jpeg(Image.fromarray(GREY)), GREY, 3),
        ("JPEG", "RGB, 8 bits", _jpeg(Image.fromarray(rgb(GREY))), GREY, 3),
        ("JPEG", "grey, 12 bits",
         imagecodecs.jpeg8_encode(DEEP >> 4, level=98, bitspersample=12), DEEP >> 4, 6),
        ("JPEG lossless", "grey, 16 bits",
         imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=16), DEEP, 0),
    ]:  # fmt: skip
        bits = 12 if "12" in kind else 8 * expected.dtype.itemsize
        others = {"libpng": libpng} if syntax == "PNG" else {"Pillow": pillow}
        known = syntax != "JPEG lossless" and bits != 12 and kind != "palette"
        yield Case(
            syntax=f"{syntax} file",
            kind=kind,
            decoder="Pillow" if syntax == "PNG" else "libjpeg-turbo",
            data=bytes(data),
            expected=expected,
            bound=bound,
            others=others if known else {},
            shown=bits,
        )


def _run_length() -> bytes:
    frame = RLELosslessEncoder.encode(
        rgb(GREY), rows=GREY.shape[0], columns=GREY.shape[1], number_of_frames=1,
        samples_per_pixel=3, bits_allocated=8, bits_stored=8, pixel_representation=0,
        planar_configuration=0, photometric_interpretation="RGB", encoding_plugin="pydicom",
    )  # fmt: skip
    return encoded(frame, RLELossless, **colour(PlanarConfiguration=1))


def _png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _jpeg(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "JPEG", quality=98)
    return out.getvalue()
