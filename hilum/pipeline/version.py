"""The version of the pipeline from the bytes of a film to the model's input."""

from __future__ import annotations

from functools import cache
from typing import Final

from hilum.filmcheck import network
from hilum.pipeline.stages import Examination

# Increase it whenever decoding or the greyscale pipeline gives other pixels than before, or refuses
# films that it scored. Then also say in ``reads_the_same`` which films are not affected.
PIPELINE: Final = 3


@cache
def pipeline_version() -> str:
    """The version that is stored with results, such as ``0002-ada4d86b8a98039b``.

    It consists of four digits of :data:`PIPELINE`, so that newer versions sort after older ones,
    and the first 16 hexadecimal digits of the sha256 of the film check's weights. A film that was
    scored under another version is scored again when it is submitted again.
    """
    return f"{PIPELINE:04d}-{network.digest()[:16]}"


def reads_the_same(kept: Examination) -> bool:
    """Whether a cache entry of the version before equals what this version computes.

    Version 3 reads look-up tables differently, and refuses DICOM objects whose pixels contradict
    their header, for example by surplus frames or bytes. A header does not show whether its object
    is one of these. PNG and JPEG files have neither, but a colour PNG may refer to entries that its
    palette lacks, which is refused now. An object that was refused by its header has no pixels.
    """
    picture, colour = kept.header.picture, kept.header.samples == 3
    return picture == "jpeg" or (picture == "png" and not colour) or kept.stage is None
