"""Put a model in force for a tenant, and take that back.

A promotion changes the tenant's row of ``serving``, whatever the number of results, and keeps the
row that it replaces. It is recorded in the audit in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from hilum.db import audit, serving, workers
from hilum.db.campaigns import rows, slices
from hilum.db.campaigns.rows import Campaign
from hilum.db.campaigns.states import CampaignStatus, ItemState
from hilum.db.serving import Canary, Serving
from hilum.db.tables import campaign_items, promotions, results
from hilum.errors import (
    CampaignError,
    CampaignStateError,
    NothingToRollBackError,
)

_PAGE: Final = 500  # studies that one call of `notify_some` looks at


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Whom to tell of the studies whose results a promotion changes, and how fast."""

    destinations: tuple[str, ...]
    per_minute: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What a change put in force."""

    tenant: str
    number: int
    before: Serving | None
    after: Serving | None


def promote(
    connection: Connection,
    campaign_id: str,
    *,
    actor: str,
    tenant: str | None = None,
    share: float | None = None,
    base_model_id: int | None = None,
    notify: Notify | None = None,
    unfinished: bool = False,
) -> Promotion:
    """Put the campaign's model in force for its tenant.

    Args:
        connection: a transaction for writing.
        campaign_id: the campaign.
        actor: see :func:`hilum.db.audit.append`.
        tenant: of whom the campaign must be; ``None``: of anybody.
        share: of the studies that show the model first, as a canary; ``None``: all of them.
        base_model_id: for a first canary, the model that all other studies show. Not needed if a
            model is in force, or if one other model is served.
        notify: create a delivery for each study whose results change; ``None``: none.
        unfinished: also if the campaign has not been completed.

    Raises:
        CampaignUnknownError: there is no such campaign.
        CampaignStateError: it has not been completed.
        ModelUnservedError: no live worker serves the model, or the base of the canary.
        CampaignError: the share is not above 0 and at most 1, or the canary has no base.
    """
    campaign = rows.get(connection, campaign_id, tenant=tenant)
    if share is not None and not 0 < share <= 1:
        raise CampaignError("The share of a canary must be above 0 and at most 1.")
    if campaign.status is not CampaignStatus.COMPLETED and not unfinished:
        raise CampaignStateError(
            f"The campaign is {campaign.status}; only a completed one is promoted.",
            next_step="Wait for its end, or promote what there is with --unfinished.",
        )
    slices.take_turn(connection, campaign.tenant)
    before = serving.get(connection, campaign.tenant)
    workers.require(connection, campaign.model_id)
    model, pipeline, canary = campaign.model_id, _newest_pipeline(connection, campaign), None
    if share is not None and share < 1:
        canary = Canary(model_id=model, share=share, pipeline=pipeline)
        if before is not None:
            model, base_pipeline = before.model_id, before.pipeline
        else:
            model = _base(connection, campaign.model_id, base_model_id)
            base_pipeline = None
        pipeline = base_pipeline or ""
    serving.set_serving(
        connection,
        tenant=campaign.tenant,
        model_id=model,
        canary=canary,
        pipeline=pipeline or None,
    )
    number = _keep(
        connection, campaign.tenant, before, actor=actor, campaign_id=campaign_id, notify=notify
    )
    return _noted(
        connection,
        campaign.tenant,
        number,
        before,
        actor=actor,
        action="model.promoted",
        object=campaign_id,
    )


def roll_back(connection: Connection, tenant: str, *, actor: str) -> Promotion:
    """Restore what was in force before the last promotion that has not been rolled back.

    Raises:
        NothingToRollBackError: there is none.
        ModelUnservedError: no live worker serves the model that was in force, so that new studies
            would wait for ever.
    """
    slices.take_turn(connection, tenant)
    p = promotions.c
    last = connection.execute(
        select(p.number, p.before, p.campaign_id)
        .where(p.tenant == tenant, p.rolled_back_at.is_(None))
        .order_by(p.number.desc())
        .limit(1)
    ).one_or_none()
    if last is None:
        raise NothingToRollBackError("The tenant has no promotion to roll back.")
    restored = None if last.before is None else serving.of_document(last.before)
    if restored is not None:
        workers.require(connection, workers.equivalent(connection, restored.model_id))
    before = serving.get(connection, tenant)
    serving.set_serving(
        connection,
        tenant=tenant,
        model_id=restored.model_id if restored else None,
        canary=restored.canary if restored else None,
        pipeline=restored.pipeline if restored else None,
    )
    now = datetime.now(UTC)
    own = update(promotions).where(p.tenant == tenant, p.number == last.number)
    # A rolled back promotion tells nobody any more.
    connection.execute(
        own.values(rolled_back_at=now, notified_at=func.coalesce(p.notified_at, now))
    )
    return _noted(
        connection,
        tenant,
        last.number,
        before,
        actor=actor,
        action="model.rolled_back",
        object=last.campaign_id or f"promotion {last.number}",
    )


def _newest_pipeline(connection: Connection, campaign: Campaign) -> str:
    """The pipeline of the campaign's results, of which the last may come from a newer version of
    hilum than the campaign was created by."""
    item = campaign_items.c
    last = (
        select(results.c.pipeline)
        .join(campaign_items, item.result_id == results.c.id)
        .where(item.campaign_id == campaign.id, item.state == ItemState.SCORED)
        .order_by(item.position.desc())
        .limit(1)
    )
    return max(campaign.pipeline, connection.execute(last).scalar() or "")


def _base(connection: Connection, canary: int, chosen: int | None) -> int:
    """The model that studies outside of a first canary show."""
    if chosen is not None:
        workers.require(connection, chosen)
        return chosen
    others = [one.model_id for one in workers.live(connection) if one.model_id != canary]
    if len(others) != 1:
        raise CampaignError(
            "No model is in force for the tenant, so the canary needs a base: the model that all "
            "other studies show.",
            next_step="Name its digest with --base, and keep a worker of it running.",
        )
    workers.require(connection, others[0])
    return others[0]


def _keep(
    connection: Connection,
    tenant: str,
    before: Serving | None,
    *,
    actor: str,
    campaign_id: str,
    notify: Notify | None,
) -> int:
    last = select(func.max(promotions.c.number)).where(promotions.c.tenant == tenant)
    number = (connection.execute(last).scalar() or 0) + 1
    now = datetime.now(UTC)
    wish = None
    if notify is not None:
        wish = {"destinations": [*notify.destinations], "per_minute": notify.per_minute}
    connection.execute(
        insert(promotions).values(
            tenant=tenant,
            number=number,
            campaign_id=campaign_id,
            before=None if before is None else before.document(),
            actor=actor,
            at=now,
            notify=wish,
            notified_at=now if wish is None else None,
        )
    )
    return number


def _noted(
    connection: Connection,
    tenant: str,
    number: int,
    before: Serving | None,
    *,
    actor: str,
    action: str,
    object: str,
) -> Promotion:
    after = serving.get(connection, tenant)
    detail = {
        "number": number,
        "before": None if before is None else before.document(),
        "after": None if after is None else after.document(),
    }
    audit.append(
        connection,
        tenant=tenant,
        actor=actor,
        action=action,
        object=object,
        detail=detail,
    )
    return Promotion(tenant=tenant, number=number, before=before, after=after)
