"""The tasks of decode processes. :class:`hilum.sandbox.Decoders` gets the name of this module."""

from __future__ import annotations

from typing import Final

import imagecodecs

from hilum.imaging import rendering
from hilum.pipeline import examine, head
from hilum.sandbox import Tasks

# imagecodecs loads each codec on first use; a confined process has no memory for that.
_CODECS: Final = ("jpeg2k_decode", "jpeg8_decode", "jpegls_decode", "dicomrle_decode")


def warm_up() -> None:
    """Load what a confined process could not load."""
    for name in _CODECS:
        getattr(imagecodecs, name)


TASKS: Final = Tasks(
    answers={"examine": examine.answer, "head": head.answer, "render": rendering.answer},
    warm_up=warm_up,
)
