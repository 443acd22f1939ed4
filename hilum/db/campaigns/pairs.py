"""Pairs of results for a report: what a campaign said of an instance, and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, and_, case, func, or_, select

from hilum.db import feedback
from hilum.db.campaigns.rows import Campaign
from hilum.db.campaigns.states import ItemState
from hilum.db.tables import campaign_items, campaigns, instances, promotions, results, serving

_PAGE: Final = 2000
_ITEM: Final = campaign_items.c


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two results. Its maps are read when they are needed."""

    result_id: int
    model_id: int
    pipeline: str
    probability: npt.NDArray[np.float32] = field(repr=False)  # [K] of its own model


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An instance with both results."""

    position: int
    instance_id: int
    uri: str | None = field(repr=False)
    content_sha256: bytes
    site: str | None = field(repr=False)
    device: str | None = field(repr=False)
    view: str | None
    age_years: float | None = field(repr=False)
    sex: str | None
    acquired: date | None = field(repr=False)
    before: Side | None  # None: nothing was shown, so there is nothing to compare
    after: Side
    # Readers' feedback by label: true if they see the finding. Empty: there is none.
    readings: dict[str, bool] = field(default_factory=dict)


def iterate(connection: Connection, campaign: Campaign, *, at_most: int) -> Iterator[Pair]:
    """The scored items of the campaign with what is shown of them now, in pages.

    "Shown" is the result of the model in force, and otherwise the newest result of a model that is
    not that of a campaign without a promotion.

    Args:
        connection: a transaction.
        campaign: the campaign.
        at_most: about so many pairs; of more, every n-th position is taken.
    """
    stride = max(1, -(-campaign.scored // at_most))
    in_force = select(serving.c.model_id).where(serving.c.tenant == campaign.tenant)
    model_id = connection.execute(in_force).scalar()
    shadows = _shadow_models(connection, campaign)
    after, old = results.alias("after"), results.alias("old")
    before = (
        select(old.c.id)
        .where(
            old.c.tenant == after.c.tenant,
            old.c.sop_instance_uid == after.c.sop_instance_uid,
            old.c.content_sha256 == after.c.content_sha256,
            or_(old.c.model_id != after.c.model_id, old.c.pipeline != after.c.pipeline),
        )
        .order_by(
            case((old.c.model_id == (-1 if model_id is None else model_id), 0), else_=1),
            case((old.c.model_id.in_(shadows), 1), else_=0),
            func.substr(old.c.pipeline, 1, 4).desc(),
            old.c.id.desc(),
        )
        .limit(1)
        .correlate(after)
        .scalar_subquery()
    )
    shown = results.alias("shown")
    columns = [
        _ITEM.position,
        *(
            instances.c[name]
            for name in (
                "id",
                "uri",
                "content_sha256",
                "institution",
                "manufacturer_model",
                "view",
                "age_years",
                "sex",
                "acquisition_date",
            )
        ),
        *_columns(after, "after"),
        *_columns(shown, "shown"),
    ]
    query = (
        select(*columns)
        .select_from(campaign_items)
        .join(instances, instances.c.id == _ITEM.instance_id)
        .join(after, after.c.id == _ITEM.result_id)
        .outerjoin(shown, shown.c.id == before)
        .where(_ITEM.campaign_id == campaign.id, _ITEM.state == ItemState.SCORED)
        .order_by(_ITEM.position)
        .limit(_PAGE)
    )
    if stride > 1:
        query = query.where(_ITEM.position % stride == 0)
    last = 0
    while rows := connection.execute(query.where(_ITEM.position > last)).all():
        said = feedback.readings(
            connection, tenant=campaign.tenant, instance_ids=[row.id for row in rows]
        )
        yield from (_pair(row, said.get(row.id, {})) for row in rows)
        last = rows[-1].position


def _shadow_models(connection: Connection, campaign: Campaign) -> list[int]:
    """Models of the tenant's campaigns none of which was promoted."""
    promoted = select(campaigns.c.model_id).join(
        promotions,
        and_(promotions.c.campaign_id == campaigns.c.id, promotions.c.rolled_back_at.is_(None)),
    )
    query = select(campaigns.c.model_id).where(
        campaigns.c.tenant == campaign.tenant,
        campaigns.c.model_id != campaign.model_id,
        campaigns.c.model_id.not_in(promoted),
    )
    return [*connection.execute(query.distinct()).scalars()]


def _columns(table: Any, side: str) -> list[Any]:
    names = ("id", "model_id", "pipeline", "probability")
    return [table.c[name].label(f"{side}_{name}") for name in names]


def _side(row: Row[Any], side: str) -> Side | None:
    values = row._mapping
    if values[f"{side}_id"] is None:
        return None
    return Side(
        result_id=values[f"{side}_id"],
        model_id=values[f"{side}_model_id"],
        pipeline=values[f"{side}_pipeline"],
        probability=np.frombuffer(values[f"{side}_probability"], dtype="<f4"),
    )


def _pair(row: Row[Any], readings: dict[str, bool]) -> Pair:
    after = _side(row, "after")
    assert after is not None  # joined by its id
    return Pair(
        position=row.position,
        instance_id=row.id,
        uri=row.uri,
        content_sha256=bytes(row.content_sha256),
        site=row.institution,
        device=row.manufacturer_model,
        view=row.view,
        age_years=row.age_years,
        sex=row.sex,
        acquired=row.acquisition_date,
        before=_side(row, "shown"),
        after=after,
        readings=readings,
    )
