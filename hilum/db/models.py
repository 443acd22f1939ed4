"""The models that have produced results here, with their manifests.

The gateway knows a model only through this table; it never opens a package.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Row, select

from hilum.db.connection import insert_or_ignore
from hilum.db.tables import models
from hilum.packages.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model package as the database knows it."""

    id: int
    digest: str
    manifest: Manifest
    registered_at: datetime


def register(connection: Connection, manifest: Manifest) -> int:
    """The id of this model with its preprocessing; a new row only the first time."""
    row = {
        "digest": manifest.digest,
        "preprocess_digest": manifest.preprocess.digest,
        "manifest": manifest.model_dump(mode="json"),
        "registered_at": datetime.now(UTC),
    }
    connection.execute(insert_or_ignore(connection, models).values(**row))
    found = select(models.c.id).where(
        models.c.digest == manifest.digest,
        models.c.preprocess_digest == manifest.preprocess.digest,
    )
    return int(connection.execute(found).scalar_one())


def get(connection: Connection, model_id: int) -> RegisteredModel | None:
    """The model with this id."""
    row = connection.execute(select(models).where(models.c.id == model_id)).one_or_none()
    return None if row is None else _model(row)


def listing(connection: Connection) -> list[RegisteredModel]:
    """All models, newest first."""
    query = select(models).order_by(models.c.id.desc())
    return [_model(row) for row in connection.execute(query)]


def _model(row: Row[tuple[object, ...]]) -> RegisteredModel:
    values = row._mapping
    return RegisteredModel(
        id=values["id"],
        digest=values["digest"],
        manifest=Manifest.model_validate(values["manifest"]),
        registered_at=values["registered_at"],
    )
