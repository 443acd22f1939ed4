"""The version of everything between a film's bytes and the model's input."""

from __future__ import annotations

from functools import cache
from typing import Final

from hilum.filmcheck import network
from hilum.pipeline.stages import Examination

# Raised whenever decoding or the greyscale pipeline gives other pixels than before, or refuses what
# it scored. Whoever raises it says in ``reads_the_same`` which films are not affected.
PIPELINE: Final = 3


@cache
def pipeline_version() -> str:
    """The version that results are kept under, such as ``0002-ada4d86b8a98039b``.

    Four digits of :data:`PIPELINE`, so that a newer version sorts after an older one, then the
    first 16 hexadecimal digits of the sha256 of the film check's weights. A film that was scored
    under another version is scored anew when it comes again.
    """
    return f"{PIPELINE:04d}-{network.digest()[:16]}"


def reads_the_same(kept: Examination) -> bool:
    """Whether what the version before kept of a film is what this version would make of it.

    Version 3 reads look-up tables anew, and refuses DICOM objects whose pixels contradict their
    header, surplus frames and bytes among them. A header does not show whether its object is one
    of these. PNG and JPEG files have neither, but a PNG in colour may name entries that its palette
    lacks, which is refused now. What was refused by its header has no pixels.
    """
    picture, colour = kept.header.picture, kept.header.samples == 3
    return picture == "jpeg" or (picture == "png" and not colour) or kept.stage is None
