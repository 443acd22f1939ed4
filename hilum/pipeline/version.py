"""The version of everything between a film's bytes and the model's input."""

from __future__ import annotations

from functools import cache
from typing import Final

from hilum.filmcheck import network

# Raised whenever decoding or the greyscale pipeline gives other pixels than before.
PIPELINE: Final = 2


@cache
def pipeline_version() -> str:
    """The version that results are kept under, such as ``0002-ada4d86b8a98039b``.

    Four digits of :data:`PIPELINE`, so that a newer version sorts after an older one, then the
    first 16 hexadecimal digits of the sha256 of the film check's weights. A film that was scored
    under another version is scored anew when it comes again.
    """
    return f"{PIPELINE:04d}-{network.digest()[:16]}"
