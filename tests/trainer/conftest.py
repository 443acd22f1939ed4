"""A tiny data set on disk: bright squares that mean something, with their boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import tiny_backbone
from support.squares import write_config, write_dataset

from hilum.settings import Settings


@pytest.fixture(scope="package", autouse=True)
def _tiny_backbone() -> Iterator[None]:
    """What a run does does not depend on the size of its model: most tests train this one."""
    with tiny_backbone.registered():
        yield


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A manifest of 60 films of 64×64: a square on the left is an effusion, right a nodule."""
    return write_dataset(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a cache of this test's own."""
    return Settings(cache_dir=tmp_path / "cache")


@pytest.fixture
def config_file(tmp_path: Path, dataset: Path) -> Callable[..., Path]:
    """Write a training configuration; keyword arguments replace parts of it."""
    return partial(write_config, tmp_path, dataset)
