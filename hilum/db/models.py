"""The models that have produced results here, with their manifests.

The gateway knows a model only through this table; it never opens a package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select

from hilum.db.connection import insert_or_ignore
from hilum.db.tables import models


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model package as the database knows it."""

    id: int
    digest: str
    preprocess_digest: str
    manifest: Mapping[str, Any]  # JSON; hilum.packages.registered validates it
    registered_at: datetime

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of every vector of the model."""
        return tuple(self.manifest["label_set"]["labels"])


# Each model is read once in a process: its row never changes, and is never removed.
_known: WeakKeyDictionary[Engine, dict[int, RegisteredModel]] = WeakKeyDictionary()


def register(
    connection: Connection, *, digest: str, preprocess_digest: str, manifest: Mapping[str, Any]
) -> int:
    """The id of this model with its preprocessing. A row is added the first time only.

    :meth:`hilum.packages.manifest.Manifest.registration` has the arguments.
    """
    identity = {"digest": digest, "preprocess_digest": preprocess_digest}
    row = {**identity, "manifest": manifest, "registered_at": datetime.now(UTC)}
    connection.execute(insert_or_ignore(connection, models).values(**row))
    found = find(connection, **identity)
    assert found is not None
    return found


def find(connection: Connection, *, digest: str, preprocess_digest: str) -> int | None:
    """The id of this model with its preprocessing, if it is registered."""
    query = select(models.c.id).filter_by(digest=digest, preprocess_digest=preprocess_digest)
    found: int | None = connection.execute(query).scalar()
    return found


def get(connection: Connection, model_id: int) -> RegisteredModel | None:
    """The model with this id."""
    return get_many(connection, [model_id]).get(model_id)


def get_many(connection: Connection, model_ids: Collection[int]) -> dict[int, RegisteredModel]:
    """The models with these ids, by id; ids that do not exist are left out.

    One statement reads those that this process has not read before, if there are any.
    """
    known = _known.setdefault(connection.engine, {})
    if unread := set(model_ids) - known.keys():
        query = select(models).where(models.c.id.in_(unread))
        known |= {row.id: RegisteredModel(**row._mapping) for row in connection.execute(query)}
    return {model_id: known[model_id] for model_id in model_ids if model_id in known}


def listing(connection: Connection) -> list[RegisteredModel]:
    """All models, newest first."""
    rows = connection.execute(select(models).order_by(models.c.id.desc()))
    return [RegisteredModel(**row._mapping) for row in rows]
