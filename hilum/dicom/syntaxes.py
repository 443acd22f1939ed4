"""Transfer syntaxes by how their pixel data is encoded (PS3.5 annex A)."""

from __future__ import annotations

from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    ExplicitVRBigEndian,
    JPEG2000MCLossless,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    UncompressedTransferSyntaxes,
)

NATIVE: Final[frozenset[str]] = frozenset(UncompressedTransferSyntaxes)
_JPEG_2000: Final = {*JPEG2000TransferSyntaxes} - {JPEG2000MC, JPEG2000MCLossless}
# The kind of codestream of each compressed transfer syntax that is decoded.
KINDS: Final[dict[str, str]] = {
    **dict.fromkeys(JPEGTransferSyntaxes, "JPEG"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "JPEG-LS"),
    **dict.fromkeys(_JPEG_2000, "JPEG 2000"),
}
LOSSY: Final[frozenset[str]] = frozenset(
    {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
)


def little_endian(syntax: str) -> bool:
    """Whether words of the data set and of native pixels are little endian."""
    return syntax != ExplicitVRBigEndian
