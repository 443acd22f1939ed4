"""What a model reports about a film, from the engine to SQL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A label at or above its operating point."""

    label: str
    probability: float  # calibrated
    threshold: float
