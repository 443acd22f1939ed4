"""The model in force for a tenant: whose results its studies show.

The one row of a tenant names the model in force and may name a canary, which a share of the
studies shows instead. Which studies these are follows from their ids alone, so that a study
shows the same model on every request, and a larger share keeps the studies of a smaller one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ScalarSelect, case, delete, select
from sqlalchemy.engine import Connection

from hilum.db.connection import upsert
from hilum.db.tables import serving


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A model that a share of the studies shows."""

    model_id: int
    share: float  # of the studies, from 0 to 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError("a share is between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a tenant's studies show."""

    model_id: int
    canary: Canary | None
    changed_at: datetime


def set_serving(
    connection: Connection, *, tenant: str, model_id: int | None, canary: Canary | None = None
) -> None:
    """Put a model in force for the tenant, with a canary or none.

    ``None`` withdraws the model in force and its canary: each study then shows the results of its
    own job. Takes effect with the next request, for studies of any age.
    """
    if model_id is None:
        connection.execute(delete(serving).where(serving.c.tenant == tenant))
        return
    row = {
        "tenant": tenant,
        "model_id": model_id,
        "canary_model_id": canary.model_id if canary else None,
        "canary_share": canary.share if canary else 0.0,
        "changed_at": datetime.now(UTC),
    }
    connection.execute(upsert(connection, serving, row, key=("tenant",)))


def get(connection: Connection, tenant: str) -> Serving | None:
    """What the tenant's studies show; ``None``: each shows the results of its own job."""
    row = connection.execute(select(serving).where(serving.c.tenant == tenant)).one_or_none()
    if row is None:
        return None
    canary = None
    if row.canary_model_id is not None:
        canary = Canary(model_id=row.canary_model_id, share=row.canary_share)
    return Serving(model_id=row.model_id, canary=canary, changed_at=row.changed_at)


def model_of(tenant: str, study_id: str) -> ScalarSelect[int]:
    """The id of the model in force for this study, or null, within another query."""
    shown = case(
        (serving.c.canary_share > position_of(study_id), serving.c.canary_model_id),
        else_=serving.c.model_id,
    )
    return select(shown).where(serving.c.tenant == tenant).scalar_subquery()


def position_of(study_id: str) -> float:
    """Where the study stands among all, from 0 up to but not including 1.

    The first 32 bits of the sha256 of its id. A canary's share holds the studies below it.
    """
    return int.from_bytes(hashlib.sha256(study_id.encode()).digest()[:4], "big") / 2**32
