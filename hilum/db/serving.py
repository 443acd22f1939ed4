"""The model in force for a tenant: its results are what the tenant's studies show.

A tenant has at most one row. It names the model in force, and a canary if there is one: a model
whose results a share of the studies shows first. The ids of the studies alone decide which studies
these are, so that a study shows the same model at every request, and a larger share contains the
studies of a smaller one. :mod:`hilum.db.display` reads the row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from hilum.db import workers
from hilum.db.connection import insert_into
from hilum.db.tables import serving


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A model that a share of the studies shows."""

    model_id: int
    share: float  # of the studies, from 0 to 1
    pipeline: str | None = None  # the newest one that is shown; None: any

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError("The share of a canary must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a tenant's studies show."""

    model_id: int
    canary: Canary | None
    changed_at: datetime
    # The newest pipeline that is shown, unless a live job of the image used a newer one; None: any.
    pipeline: str | None = None

    def shown(self, study_id: str) -> int:
        """The model that this study shows first."""
        if self.canary is not None and position_of(study_id) < self.canary.share:
            return self.canary.model_id
        return self.model_id

    def document(self) -> dict[str, Any]:
        """As JSON, for :func:`of_document`."""
        canary = self.canary
        return {
            "model_id": self.model_id,
            "pipeline": self.pipeline,
            "canary_model_id": canary.model_id if canary else None,
            "canary_share": canary.share if canary else 0.0,
            "canary_pipeline": canary.pipeline if canary else None,
            "changed_at": self.changed_at.isoformat(),
        }


def of_document(document: dict[str, Any]) -> Serving:
    """What :meth:`Serving.document` described."""
    changed_at = datetime.fromisoformat(document["changed_at"])
    return _serving({**document, "changed_at": changed_at})


def choose(connection: Connection, tenant: str, study_id: str) -> int | None:
    """The model that a new study is bound to: the one that it will show, with the preprocessing
    that live workers have; ``None``: no model is in force, and any worker may score the study."""
    found = get(connection, tenant)
    return None if found is None else workers.equivalent(connection, found.shown(study_id))


def set_serving(
    connection: Connection,
    *,
    tenant: str,
    model_id: int | None,
    canary: Canary | None = None,
    pipeline: str | None = None,
) -> None:
    """Put a model in force for the tenant, with or without a canary.

    ``None`` withdraws the model in force and its canary: each study then shows the results of its
    own jobs. The change takes effect with the next request, for studies of any age.
    """
    if model_id is None:
        connection.execute(delete(serving).where(serving.c.tenant == tenant))
        return
    row = {
        "tenant": tenant,
        "model_id": model_id,
        "canary_model_id": canary.model_id if canary else None,
        "canary_share": canary.share if canary else 0.0,
        "pipeline": pipeline,
        "canary_pipeline": canary.pipeline if canary else None,
        "changed_at": datetime.now(UTC),
    }
    new = insert_into(connection, serving).values(**row)
    connection.execute(new.on_conflict_do_update(index_elements=["tenant"], set_=row))


def get(connection: Connection, tenant: str) -> Serving | None:
    """What the tenant's studies show; ``None``: each shows the results of its own jobs."""
    row = connection.execute(select(serving).where(serving.c.tenant == tenant)).one_or_none()
    if row is None:
        return None
    return _serving(dict(row._mapping))


def _serving(row: dict[str, Any]) -> Serving:
    canary = None
    if row["canary_model_id"] is not None:
        canary = Canary(
            model_id=row["canary_model_id"],
            share=row["canary_share"],
            pipeline=row["canary_pipeline"],
        )
    return Serving(
        model_id=row["model_id"],
        canary=canary,
        changed_at=row["changed_at"],
        pipeline=row["pipeline"],
    )


def position_of(study_id: str) -> float:
    """The position of the study among all studies, from 0 up to but not including 1.

    It is the first 32 bits of the sha256 of the id. The share of a canary contains the studies
    whose position is below it.
    """
    return int.from_bytes(hashlib.sha256(study_id.encode()).digest()[:4], "big") / 2**32
