"""The register of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support import tiny_package

from hilum.db import models
from hilum.db.connection import Database
from hilum.packages.load import Package
from hilum.packages.registered import manifest_of


def _register(database: Database, package: Package) -> int:
    with database.write() as connection:
        return models.register(connection, **package.manifest.registration())


def test_a_model_is_registered_once(
    database: Database, tiny: Package, race: Callable[..., list[object]]
) -> None:
    ids = set(race(lambda _: _register(database, tiny)))
    (model_id,) = ids
    assert isinstance(model_id, int)
    with database.read() as connection:
        (listed,) = models.listing(connection)
        assert models.get(connection, model_id) == listed
        assert models.get(connection, model_id + 1) is None
    assert (listed.id, listed.digest, manifest_of(listed)) == (model_id, tiny.digest, tiny.manifest)


def test_another_version_is_another_model(
    database: Database, tiny: Package, tmp_path: Path
) -> None:
    manifest = tiny_package.build(tmp_path / "other", version="1.0.1")
    old = _register(database, tiny)
    with database.write() as connection:
        new = models.register(connection, **manifest.registration())
        assert [model.id for model in models.listing(connection)] == [new, old]
