"""Transfer syntaxes by how their pixel data is laid out (PS3.5 annex A)."""

from __future__ import annotations

from typing import Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

NATIVE: Final[frozenset[str]] = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
)


def little_endian(syntax: str) -> bool:
    """Whether words of the data set and of native pixels are little endian."""
    return syntax != ExplicitVRBigEndian
