"""Which instances a campaign scores: filters, modes, and how an instance stands to a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
)

from hilum.db import models
from hilum.db.campaigns.states import ACTIVE, ItemState
from hilum.db.tables import (
    campaign_items,
    campaigns,
    findings,
    images,
    instances,
    items,
    jobs,
    results,
)
from hilum.errors import SelectionUnknownError

# A text of PostgreSQL cannot contain NUL.
Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Texts = Annotated[tuple[Text, ...], Field(max_length=100)]


class Mode(StrEnum):
    """Which of the instances are scored."""

    MISSING = "missing"  # this model has never said anything of them
    FAILED = "failed"  # the store, the engine or hilum failed
    REFUSED = "refused"  # they were refused, by any code or by those given
    STALE = "stale"  # an older pixel pipeline or film check scored them
    ALL = "all"


class Standing(StrEnum):
    """How an instance stands to a model and a pipeline."""

    DONE = "done"
    MISSING = "missing"
    FAILED = "failed"
    REFUSED = "refused"
    STALE = "stale"
    UNDERWAY = "underway"  # another active campaign will score it with this model
    SUPERSEDED = "superseded"  # only its header was read, and the whole object is known since


class Selection(BaseModel):
    """Filters on instances; each is exact, and an empty one lets everything pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: date | None = None  # acquisition date, inclusive
    until: date | None = None  # inclusive
    sites: Texts = ()  # institutions
    views: Texts = ()
    devices: Texts = ()  # manufacturers' model names
    labels: Texts = ()  # a stored result has one of these findings
    codes: Texts = ()  # of mode `refused`: only these; empty: any
    oldest_first: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Selection:
        if self.since and self.until and self.since > self.until:
            raise ValueError("the selection ends before it begins")
        return self


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the instances are to be scored with."""

    tenant: str
    model_id: int  # -1: a model that is not registered yet
    pipeline: str


@dataclass(frozen=True, kw_only=True)
class Count:
    """Instances of one standing."""

    standing: Standing
    code: str | None  # of refused and failed ones
    instances: int
    without_address: int


_SAMPLE_WINDOW: Final = 10_000  # ids that are looked at for each film of a sample
_VALUES: Final = {
    "sites": instances.c.institution,
    "views": instances.c.view,
    "devices": instances.c.manufacturer_model,
}


def check(connection: Connection, tenant: str, selection: Selection) -> None:
    """Refuse a filter by something that does not exist.

    Raises:
        SelectionUnknownError: no instance has this site, view or device, or no model this label.
    """
    for name, column in _VALUES.items():
        for value in getattr(selection, name):
            found = select(instances.c.id).where(instances.c.tenant == tenant, column == value)
            if connection.execute(found.limit(1)).first() is None:
                raise SelectionUnknownError(
                    f'No instance of the tenant has the {name.removesuffix("s")} "{value}".'
                )
    known = {label for each in models.listing(connection) for label in each.labels}
    if unknown := sorted(set(selection.labels) - known):
        raise SelectionUnknownError(f'No registered model has the label "{unknown[0]}".')


def matches(selection: Selection) -> ColumnElement[bool]:
    """The condition on a row of ``instances`` that the filters make."""
    conditions: list[ColumnElement[bool]] = [literal(True)]
    if selection.since is not None:
        conditions.append(instances.c.acquisition_date >= selection.since)
    if selection.until is not None:
        conditions.append(instances.c.acquisition_date <= selection.until)
    for name, column in _VALUES.items():
        if values := getattr(selection, name):
            conditions.append(column.in_(values))
    if selection.labels:
        found = (
            select(literal(1))
            .select_from(results.join(findings, findings.c.result_id == results.c.id))
            .where(_same_object(), findings.c.label.in_(selection.labels))
            .correlate(instances)
        )
        conditions.append(exists(found))
    return and_(*conditions)


def wanted(modes: tuple[Mode, ...], selection: Selection, target: Target) -> ColumnElement[bool]:
    """The condition on a row of ``instances`` that the modes make."""
    standing = standing_of(target)
    open_ = standing.not_in((Standing.UNDERWAY, Standing.SUPERSEDED))
    if Mode.ALL in modes:
        return open_
    names = [mode.value for mode in modes]
    if Mode.REFUSED in modes and selection.codes:
        names.remove(Mode.REFUSED)
        by_code = [f"{ItemState.REFUSED}:{code}" for code in selection.codes]
        refused = and_(standing == Standing.REFUSED, outcome_of(target).in_(by_code))
        return or_(standing.in_(names), refused)
    return standing.in_(names)


def count(connection: Connection, selection: Selection, target: Target) -> list[Count]:
    """How the selected instances stand to the target, in one statement."""
    columns = {*Selection.model_fields} - {"labels", "codes", "oldest_first"}
    filtered = any(getattr(selection, name) for name in columns)
    # Without a filter that an index serves, the table is read in its own order, not in that of an
    # index of the tenant.
    tenant = instances.c.tenant if filtered else instances.c.tenant + literal("")
    verdict = _verdict_of(target).label("verdict")
    query = (
        select(
            verdict,
            func.count().label("instances"),
            func.sum(case((instances.c.uri.is_(None), 1), else_=0)).label("without_address"),
        )
        .where(tenant == target.tenant, matches(selection))
        .group_by(verdict)
    )
    found = []
    for row in connection.execute(query):
        standing, _, code = row.verdict.partition(":")
        found.append(
            Count(
                standing=Standing(standing),
                code=code or None,
                instances=row.instances,
                without_address=int(row.without_address),
            )
        )
    return found


def sample(
    connection: Connection,
    selection: Selection,
    modes: tuple[Mode, ...],
    target: Target,
    *,
    limit: int,
) -> list[dict[str, Any]]:
    """Some of the instances that a campaign would score, spread over all their ids. Not every one
    of few is found among many others."""
    bounds = select(func.min(instances.c.id), func.max(instances.c.id))
    low, high = connection.execute(bounds.where(instances.c.tenant == target.tenant)).one()
    if low is None:
        return []
    found: dict[int, dict[str, Any]] = {}
    # An expression, because an index of the tenant would have all of its instances sorted.
    tenant = instances.c.tenant + literal("") == target.tenant
    chosen = and_(tenant, matches(selection), wanted(modes, selection, target))
    columns = ("id", "uri", "acquisition_date", "view", "institution", "manufacturer_model")
    query = select(*(instances.c[name] for name in columns)).where(chosen)
    for n in range(limit):
        start = low + (high - low + 1) * n // limit
        row = connection.execute(
            query.where(
                instances.c.id >= start,
                instances.c.id < start + _SAMPLE_WINDOW,
                instances.c.id.not_in(found),
            )
            .order_by(instances.c.id)
            .limit(1)
        ).one_or_none()
        if row is not None:
            found[row.id] = dict(row._mapping)
    return [*found.values()]


def standing_of(target: Target) -> ColumnElement[str]:
    """The :class:`Standing` of a row of ``instances``, as SQL."""
    return _standing(target, Standing.REFUSED.value, Standing.FAILED.value)


def _verdict_of(target: Target) -> ColumnElement[str]:
    """As :func:`standing_of`, with the code behind ``refused:`` and ``failed:``."""
    outcome = outcome_of(target)
    return _standing(target, outcome, outcome)


def _standing(target: Target, refused: Any, failed: Any) -> ColumnElement[str]:
    read, other = instances.alias("read"), campaign_items.alias("other")
    superseded = and_(
        instances.c.header_only.is_(True),
        exists(
            select(literal(1)).where(
                read.c.tenant == instances.c.tenant,
                read.c.sop_instance_uid == instances.c.sop_instance_uid,
                read.c.etag == instances.c.etag,
                read.c.uri == instances.c.uri,
                read.c.header_only.is_(None),
            )
        ),
    )
    underway = exists(
        select(literal(1))
        .select_from(other.join(campaigns, campaigns.c.id == other.c.campaign_id))
        .where(
            other.c.instance_id == instances.c.id,
            other.c.state.in_((ItemState.SELECTED, ItemState.QUEUED)),
            campaigns.c.status.in_(ACTIVE),
            campaigns.c.model_id == target.model_id,
        )
    )
    # By its first letters, so that it is looked up once.
    ended = case(
        {"refused": refused, "failed:": failed},
        value=func.substr(outcome_of(target), 1, 7),
        else_=case((_stale_result(target), Standing.STALE.value), else_=Standing.MISSING.value),
    )
    return case(
        (superseded, Standing.SUPERSEDED.value),
        (underway, Standing.UNDERWAY.value),
        (result_of(target).is_not(None), Standing.DONE.value),
        else_=ended,
    )


def result_of(target: Target) -> ColumnElement[int | None]:
    """The id of the result that a row of ``instances`` has of the target, as SQL."""
    return (
        select(results.c.id)
        .where(
            _same_object(),
            results.c.model_id == target.model_id,
            results.c.pipeline == target.pipeline,
        )
        .limit(1)
        .correlate(instances)
        .scalar_subquery()
    )


def outcome_of(target: Target) -> ColumnElement[str | None]:
    """How a row of ``instances`` ended last, such as ``refused:policy.not_chest``: in a campaign
    with this model, else in a live job. As SQL."""
    item = campaign_items.alias("earlier")
    ended = (ItemState.REFUSED, ItemState.FAILED)
    by_campaign = (
        select(item.c.state + ":" + func.coalesce(item.c.error_code, ""))
        .select_from(item.join(campaigns, campaigns.c.id == item.c.campaign_id))
        .where(
            item.c.instance_id == instances.c.id,
            item.c.state.in_(ended),
            campaigns.c.model_id == target.model_id,
        )
        .order_by(item.c.campaign_id.desc())
        .limit(1)
        .correlate(instances)
        .scalar_subquery()
    )
    live = (
        select(items.c.status + ":" + func.coalesce(items.c.error_code, ""))
        .select_from(
            images.join(items, items.c.image_id == images.c.id).join(
                jobs, jobs.c.id == items.c.job_id
            )
        )
        .where(
            images.c.uri == instances.c.uri,
            jobs.c.tenant == instances.c.tenant,
            jobs.c.campaign_id.is_(None),
            items.c.finished_at.is_not(None),
        )
        .order_by(items.c.finished_at.desc())
        .limit(1)
        .correlate(instances)
        .scalar_subquery()
    )
    return func.coalesce(by_campaign, live)


def _stale_result(target: Target) -> ColumnElement[bool]:
    return exists(
        select(literal(1))
        .where(
            _same_object(),
            results.c.model_id == target.model_id,
            results.c.pipeline != target.pipeline,
        )
        .correlate(instances)
    )


def _same_object() -> ColumnElement[bool]:
    return and_(
        results.c.tenant == instances.c.tenant,
        results.c.sop_instance_uid == instances.c.sop_instance_uid,
        results.c.content_sha256 == instances.c.content_sha256,
    )
