"""The models that have produced results here, with their manifests.

The gateway knows a model only through this table; it never opens a package.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, select

from hilum.db.connection import insert_or_ignore
from hilum.db.tables import models
from hilum.packages.manifest import Manifest

# What identifies a model, and is small enough to be read with every row that names one.
IDENTITY: Final = (models.c.id, models.c.digest, models.c.preprocess_digest, models.c.registered_at)

# Each manifest is validated once in a process: it never changes under its digests, and validating
# it takes longer than everything else about showing a result.
_manifests: dict[tuple[str, str], Manifest] = {}


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model package as the database knows it."""

    id: int
    digest: str
    manifest: Manifest
    registered_at: datetime


def register(connection: Connection, manifest: Manifest) -> int:
    """The id of this model with its preprocessing. A row is added the first time only."""
    row = {
        "digest": manifest.digest,
        "preprocess_digest": manifest.preprocess.digest,
        "manifest": manifest.model_dump(mode="json"),
        "registered_at": datetime.now(UTC),
    }
    connection.execute(insert_or_ignore(connection, models).values(**row))
    found = find(connection, manifest)
    assert found is not None
    return found


def find(connection: Connection, manifest: Manifest) -> int | None:
    """The id of this model with its preprocessing, if it is registered."""
    query = select(models.c.id).where(
        models.c.digest == manifest.digest,
        models.c.preprocess_digest == manifest.preprocess.digest,
    )
    found: int | None = connection.execute(query).scalar()
    return found


def get(connection: Connection, model_id: int) -> RegisteredModel | None:
    """The model with this id."""
    rows = connection.execute(select(*IDENTITY).where(models.c.id == model_id)).mappings().all()
    return registered(connection, rows).get(model_id)


def listing(connection: Connection) -> list[RegisteredModel]:
    """All models, newest first."""
    query = select(*IDENTITY).order_by(models.c.id.desc())
    rows = connection.execute(query).mappings().all()
    found = registered(connection, rows)
    return [found[row[models.c.id]] for row in rows]


def registered(connection: Connection, rows: Iterable[RowMapping]) -> dict[int, RegisteredModel]:
    """The models that ``rows`` name, by their id.

    One statement reads the manifests that this process has not read before, if there are any.

    Args:
        rows: each with the columns :data:`IDENTITY`, among others.
    """
    named = {row[models.c.id]: row for row in rows}
    keys = {
        model_id: (row[models.c.digest], row[models.c.preprocess_digest])
        for model_id, row in named.items()
    }
    unread = [model_id for model_id, key in keys.items() if key not in _manifests]
    if unread:
        query = select(models.c.id, models.c.manifest).where(models.c.id.in_(unread))
        for model_id, manifest in connection.execute(query):
            _manifests[keys[model_id]] = Manifest.model_validate(manifest)
    return {
        model_id: RegisteredModel(
            id=model_id,
            digest=row[models.c.digest],
            manifest=_manifests[keys[model_id]],
            registered_at=row[models.c.registered_at],
        )
        for model_id, row in named.items()
    }
