"""The rows of campaigns: create, read, lock, and change their status, with the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Connection, Row, func, insert, or_, select, text, update

from hilum.db import audit
from hilum.db.campaigns import collecting, slices
from hilum.db.campaigns.selection import Mode, Selection, Target
from hilum.db.campaigns.states import ACTIVE, CampaignStatus
from hilum.db.tables import campaigns, instances, models
from hilum.errors import (
    CampaignExistsError,
    CampaignStateError,
    CampaignUnknownError,
    ErrorBody,
    HilumError,
)
from hilum.ids import new_id

# Planners look at one campaign at most this often, all of them together.
_PAUSE_BETWEEN_STEPS: Final = timedelta(seconds=1)
_FROM: Final[dict[CampaignStatus, tuple[CampaignStatus, ...]]] = {
    CampaignStatus.RUNNING: (CampaignStatus.CREATED, CampaignStatus.PAUSED),
    CampaignStatus.PAUSED: (CampaignStatus.CREATED, CampaignStatus.RUNNING),
    CampaignStatus.CANCELLED: ACTIVE,
}


@dataclass(frozen=True, kw_only=True)
class NewCampaign:
    """What a campaign is made of. ``window`` is as :mod:`hilum.campaigns.windows` writes it."""

    name: str
    selection: Selection
    modes: tuple[Mode, ...]
    window: dict[str, Any] | None = None
    images_per_s: float | None = None
    max_failure_rate: float | None = None
    max_in_flight: int = 2000
    repeat: dict[str, Any] | None = None  # see :func:`series`


@dataclass(frozen=True, kw_only=True)
class Campaign(NewCampaign):
    """A campaign as SQL has it. Its counters are those of its row; nothing is counted."""

    id: str
    tenant: str
    model_id: int
    digest: str  # of the package
    preprocess_digest: str
    pipeline: str
    status: CampaignStatus
    selected: int  # all images of the campaign
    queued: int
    scored: int
    refused: int
    failed: int
    error: ErrorBody | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    last_instance_id: int
    cursor: dict[str, Any] | None
    frozen_at: datetime | None
    next_position: int
    next_cut: int
    codes: dict[str, int]
    mark: dict[str, Any] | None
    spent_until: datetime | None
    stepped_at: datetime | None
    progress_at: datetime | None
    missed_windows: int
    missed_at: datetime | None

    @property
    def target(self) -> Target:
        """What the instances are scored with."""
        return Target(tenant=self.tenant, model_id=self.model_id, pipeline=self.pipeline)

    @property
    def ended(self) -> int:
        """Images that have ended."""
        return self.scored + self.refused + self.failed

    @property
    def waiting(self) -> int:
        """Images that are in no job yet."""
        return self.selected - self.queued - self.ended


_COLUMNS: Final = (*campaigns.c, models.c.digest)
_NAMES: Final = {each.name for each in fields(Campaign)}


def create(
    connection: Connection,
    new: NewCampaign,
    target: Target,
    *,
    preprocess_digest: str,
    actor: str,
    opened_at: datetime | None = None,
) -> str:
    """Create a campaign over the instances that exist now, and record it in the audit. The steps
    of its planner then freeze the selection (:func:`hilum.db.campaigns.slices.freeze_page`).

    Args:
        connection: a transaction for writing.
        new: what it is made of.
        target: what the instances are scored with.
        preprocess_digest: of the model.
        actor: see :func:`hilum.db.audit.append`.
        opened_at: for one night of a series, when its window opened.

    Raises:
        CampaignExistsError: an active campaign has the same selection, modes and model; or one of
            this name was created since ``opened_at``.
    """
    selection = new.selection.model_dump(mode="json")
    modes = sorted(set(new.modes))
    slices.take_turn(connection, target.tenant)
    if opened_at is not None:
        same = select(campaigns.c.id).where(
            campaigns.c.tenant == target.tenant,
            campaigns.c.name == new.name,
            campaigns.c.created_at >= opened_at,
        )
        if (found := connection.execute(same.limit(1)).scalar()) is not None:
            raise CampaignExistsError(f"{found} was created in this window.")
    else:
        _refuse_twin(connection, target, selection, modes)
    last = select(func.max(instances.c.id)).where(instances.c.tenant == target.tenant)
    now = datetime.now(UTC)
    campaign_id = new_id("cp")
    connection.execute(
        insert(campaigns).values(
            id=campaign_id,
            tenant=target.tenant,
            name=new.name,
            selection=selection,
            modes=modes,
            model_id=target.model_id,
            preprocess_digest=preprocess_digest,
            pipeline=target.pipeline,
            status=CampaignStatus.CREATED,
            window=new.window,
            repeat=new.repeat,
            images_per_s=new.images_per_s,
            max_failure_rate=new.max_failure_rate,
            max_in_flight=new.max_in_flight,
            created_by=actor,
            created_at=now,
            updated_at=now,
            last_instance_id=connection.execute(last).scalar() or 0,
        )
    )
    _note(connection, target.tenant, campaign_id, actor, "created", modes=modes)
    return campaign_id


def _refuse_twin(
    connection: Connection, target: Target, selection: dict[str, Any], modes: list[Mode]
) -> None:
    same = select(campaigns.c.id, campaigns.c.selection, campaigns.c.modes).where(
        campaigns.c.tenant == target.tenant,
        campaigns.c.model_id == target.model_id,
        campaigns.c.status.in_(ACTIVE),
    )
    for row in connection.execute(same):
        if (row.selection, row.modes) == (selection, modes):
            raise CampaignExistsError(f"{row.id} is active with this selection and model.")


def get(connection: Connection, campaign_id: str, *, tenant: str | None = None) -> Campaign:
    """The campaign.

    Args:
        connection: a transaction.
        campaign_id: the campaign.
        tenant: of whom it must be; ``None``: of anybody.

    Raises:
        CampaignUnknownError: there is none, or it belongs to another tenant.
    """
    row = connection.execute(_query().where(campaigns.c.id == campaign_id)).one_or_none()
    if row is None or tenant not in (None, row.tenant):
        raise CampaignUnknownError("The tenant has no such campaign.")
    return _campaign(row)


def listing(
    connection: Connection, *, tenant: str | None = None, limit: int = 100
) -> list[Campaign]:
    """The newest campaigns, of one tenant or of all."""
    query = _query().order_by(campaigns.c.id.desc()).limit(limit)
    if tenant is not None:
        query = query.where(campaigns.c.tenant == tenant)
    return [_campaign(row) for row in connection.execute(query)]


def series(connection: Connection) -> list[Campaign]:
    """The newest campaign of each nightly series, by tenant and name. A series whose newest
    campaign was cancelled has ended."""
    newest = select(func.max(campaigns.c.id)).group_by(campaigns.c.tenant, campaigns.c.name)
    query = _query().where(
        campaigns.c.id.in_(newest),
        campaigns.c.repeat.is_not(None),
        campaigns.c.status != CampaignStatus.CANCELLED,
    )
    return [_campaign(row) for row in connection.execute(query.order_by(campaigns.c.id))]


def active(connection: Connection) -> list[str]:
    """The ids of campaigns whose planner has something to do, oldest first."""
    freezing = campaigns.c.frozen_at.is_(None)
    due = or_(
        campaigns.c.status == CampaignStatus.RUNNING,
        (campaigns.c.status == CampaignStatus.CREATED) & freezing,
        # Jobs may end after a pause or a cancellation.
        (campaigns.c.status.in_((CampaignStatus.PAUSED, CampaignStatus.CANCELLED)))
        & (campaigns.c.queued > 0),
    )
    query = select(campaigns.c.id).where(campaigns.c.status != CampaignStatus.COMPLETED, due)
    return [*connection.execute(query.order_by(campaigns.c.id)).scalars()]


def lock(connection: Connection, campaign_id: str, *, at_once: bool) -> Campaign | None:
    """The campaign, locked until the transaction ends; ``None`` if another planner has it, or has
    looked at it within the last second.

    Args:
        connection: a transaction for writing.
        campaign_id: the campaign.
        at_once: wait for others, however recently they looked.
    """
    if connection.dialect.name == "postgresql":
        # All statements of a planner find few rows by an index. PostgreSQL would read a table that
        # was empty at its last ANALYZE from end to end, once for each row.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL jit = off"))
    own = select(campaigns.c.id).where(campaigns.c.id == campaign_id)
    if not at_once:
        before = datetime.now(UTC) - _PAUSE_BETWEEN_STEPS
        own = own.where(or_(campaigns.c.stepped_at.is_(None), campaigns.c.stepped_at <= before))
    if connection.execute(own.with_for_update(skip_locked=not at_once)).first() is None:
        return None
    return get(connection, campaign_id)


def change(connection: Connection, campaign_id: str, **values: Any) -> None:
    """Set columns of a locked campaign."""
    own = update(campaigns).where(campaigns.c.id == campaign_id)
    connection.execute(own.values(updated_at=datetime.now(UTC), **values))


def set_status(
    connection: Connection,
    campaign_id: str,
    status: CampaignStatus,
    *,
    actor: str,
    tenant: str | None = None,
    error: HilumError | None = None,
) -> Campaign:
    """Run, pause or cancel a campaign, and record it in the audit. Jobs that no worker has claimed
    are withdrawn unless the campaign runs. Repeating a change has no effect.

    Raises:
        CampaignUnknownError: see :func:`get`.
        CampaignStateError: the campaign has ended.
    """
    get(connection, campaign_id, tenant=tenant)
    found = lock(connection, campaign_id, at_once=True)
    assert found is not None
    if found.status is status:
        return found
    if found.status not in _FROM[status]:
        raise CampaignStateError(f"The campaign is {found.status}; it cannot become {status}.")
    now = datetime.now(UTC)
    body = error.body() if error else None
    values: dict[str, Any] = {"status": status, "error": body, "mark": None}
    values["error_code"] = body["code"] if body else None
    if status is CampaignStatus.RUNNING:
        values |= {"started_at": found.started_at or now, "spent_until": None}
    else:
        values |= collecting.withdraw(connection, found)
    if status is CampaignStatus.CANCELLED:
        values["finished_at"] = now
    change(connection, campaign_id, **values)
    detail = {"code": body["code"]} if body else {}
    _note(connection, found.tenant, campaign_id, actor, status.value, **detail)
    return get(connection, campaign_id)


def note(
    connection: Connection, campaign: Campaign, actor: str, what: str, **detail: object
) -> None:
    """Record in the audit what happened to the campaign."""
    _note(connection, campaign.tenant, campaign.id, actor, what, **detail)


def _note(
    connection: Connection, tenant: str, campaign_id: str, actor: str, what: str, **detail: object
) -> None:
    audit.append(
        connection,
        tenant=tenant,
        actor=actor,
        action=f"campaign.{what}",
        object=campaign_id,
        detail=detail,
    )


def _query() -> Any:
    return select(*_COLUMNS).join(models, models.c.id == campaigns.c.model_id)


def _campaign(row: Row[Any]) -> Campaign:
    values = {name: value for name, value in row._mapping.items() if name in _NAMES}
    modes: Sequence[str] = values["modes"]
    return Campaign(
        **values
        | {
            "selection": Selection.model_validate(values["selection"]),
            "modes": tuple(Mode(mode) for mode in modes),
            "status": CampaignStatus(values["status"]),
            "codes": values["codes"] or {},
            "error": cast(ErrorBody | None, values["error"]),
        }
    )
