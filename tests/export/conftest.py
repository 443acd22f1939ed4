"""A small checkpoint, made once."""

from __future__ import annotations

import pytest
from support import small_export
from support.small_export import Small


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Tells a bright square on the left (effusion) from one on the right (nodule)."""
    return small_export.make(tmp_path_factory.mktemp("small"))
