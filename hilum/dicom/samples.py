"""How the decoded samples of a film stand for its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How the samples at hand stand for the pixels of a film.

    Sample ``k`` of ``means`` is the mean of pixels ``k·step`` to ``(k+1)·step − 1``; of a wavelet's
    low-pass it sits on pixel ``k·step``, and ``step`` is a power of two.
    """

    kind: Literal["means", "5/3", "9/7"]
    step: int
    rows: int  # of the film
    columns: int
