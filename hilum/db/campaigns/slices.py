"""Slices of a campaign: its selection is frozen page by page, cut into jobs, and collected.

Every function runs in a transaction that holds the row of the campaign, so that any number of
planners may call them: each sees what the one before has committed, and a planner that dies leaves
nothing half done. No function reads more than one page, slice or set of jobs in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    exists,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)

from hilum.db import studies
from hilum.db.campaigns.selection import Mode, matches, result_of, wanted
from hilum.db.campaigns.states import ItemState
from hilum.db.connection import is_one_of
from hilum.db.tables import (
    campaign_items,
    images,
    instances,
)
from hilum.db.tables import studies as studies_table
from hilum.errors import AddressUnknownError
from hilum.ids import new_id
from hilum.queue import Queue

if TYPE_CHECKING:
    from hilum.db.campaigns.rows import Campaign

PAGE: Final = 5_000  # instances that one step looks at
JOB_SIZE: Final = 64  # images of one job
_LOCK: Final = 0x63616D70  # any constant; ASCII "camp"
_ITEM: Final = campaign_items.c
_BY_ID: Final = "below"  # the cursor's key: an id


def take_turn(connection: Connection, tenant: str) -> None:
    """Wait until no other transaction creates a campaign or changes the model in force."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer only
        key = {"key": _LOCK, "tenant": tenant}
        connection.execute(text("SELECT pg_advisory_xact_lock(:key, hashtext(:tenant))"), key)


def freeze_page(connection: Connection, campaign: Campaign, *, page: int = PAGE) -> dict[str, Any]:
    """Write the next page of the selection to ``campaign_items``.

    The first pass goes by acquisition date. The second goes by id and takes what the first could
    not see: instances without a date, and those whose date was learnt meanwhile.

    Returns:
        The values of the campaign's row that have changed.
    """
    cursor = campaign.cursor or {}
    if _BY_ID in cursor:
        return _freeze_by_id(connection, campaign, int(cursor[_BY_ID]), page)
    c = instances.c
    after = cursor.get("after")
    down = not campaign.selection.oldest_first
    order = (c.acquisition_date.desc(), c.id.desc()) if down else (c.acquisition_date, c.id)
    place = tuple_(c.acquisition_date, c.id)
    within = [c.tenant == campaign.tenant, c.id <= campaign.last_instance_id]
    within.append(c.acquisition_date.is_not(None))
    if campaign.selection.since:
        within.append(c.acquisition_date >= campaign.selection.since)
    if campaign.selection.until:
        within.append(c.acquisition_date <= campaign.selection.until)
    if after is not None:
        at = (date.fromisoformat(after[0]), int(after[1]))
        within += _beyond(place, at, down=down, or_at=False)
    last = connection.execute(
        select(c.acquisition_date, c.id).where(*within).order_by(*order).offset(page - 1).limit(1)
    ).one_or_none()
    if last is not None:
        end = (last.acquisition_date, last.id)
        within += _beyond(place, end, down=not down, or_at=True)
        following: dict[str, Any] = {"after": [last.acquisition_date.isoformat(), last.id]}
    else:
        following = {_BY_ID: campaign.last_instance_id + 1}
    return _insert(connection, campaign, within, order) | {"cursor": following}


def _freeze_by_id(
    connection: Connection, campaign: Campaign, below: int, page: int
) -> dict[str, Any]:
    c = instances.c
    # A window of ids, not of rows: it is bounded also where almost none are left.
    start = max(below - page, 0)
    known = exists(
        select(literal(1)).where(_ITEM.campaign_id == campaign.id, _ITEM.instance_id == c.id)
    )
    within = [c.tenant == campaign.tenant, c.id < below, c.id >= start, ~known]
    changed = _insert(connection, campaign, within, (c.id.desc(),))
    if start > 0:
        return changed | {"cursor": {_BY_ID: start}}
    return changed | {"cursor": None, "frozen_at": datetime.now(UTC)}


def _beyond(
    place: Any, end: tuple[date, int], *, down: bool, or_at: bool
) -> list[ColumnElement[bool]]:
    """Rows behind ``end`` in descending (``down``) or ascending order. The first condition, on the
    date alone, is what an index of PostgreSQL can use."""
    day = instances.c.acquisition_date
    bound = tuple_(literal(end[0], day.type), literal(end[1]))
    if down:
        return [day <= end[0], place <= bound if or_at else place < bound]
    return [day >= end[0], place >= bound if or_at else place > bound]


def _insert(
    connection: Connection,
    campaign: Campaign,
    within: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
) -> dict[str, Any]:
    """Add the instances within these bounds that the campaign wants."""
    position = func.row_number().over(order_by=order) + (campaign.next_position - 1)
    known = exists(
        select(literal(1)).where(
            _ITEM.campaign_id == campaign.id, _ITEM.instance_id == instances.c.id
        )
    )
    # The window of the page first: the conditions that cost look-ups see no more than one page.
    chosen = select(
        literal(campaign.id), position, instances.c.id, literal(ItemState.SELECTED.value)
    ).where(
        *within,
        matches(campaign.selection),
        wanted(campaign.modes, campaign.selection, campaign.target),
        ~known,
    )
    names = ["campaign_id", "position", "instance_id", "state"]
    new = insert(campaign_items).from_select(names, chosen)
    added = connection.execute(new.execution_options(preserve_rowcount=True)).rowcount
    return {
        "selected": campaign.selected + added,
        "next_position": campaign.next_position + added,
    }


def cut(connection: Connection, campaign: Campaign, limit: int) -> dict[str, Any]:
    """Take the next ``limit`` waiting images into jobs. An image that has its result already, or
    no address, ends at once.

    Returns:
        The values of the campaign's row that have changed.
    """
    done = result_of(campaign.target).label("done")
    query = (
        select(_ITEM.position, instances.c.uri, done)
        .join(instances, instances.c.id == _ITEM.instance_id)
        .where(
            _ITEM.campaign_id == campaign.id,
            _ITEM.state == ItemState.SELECTED,
            _ITEM.position >= campaign.next_cut,
        )
        .order_by(_ITEM.position)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    skips = Mode.ALL not in campaign.modes
    known = [row for row in rows if row.done is not None and skips]
    lost = [row for row in rows if row.uri is None and row not in known]
    fresh = [row for row in rows if row not in known and row.uri is not None]
    own = update(campaign_items).where(_ITEM.campaign_id == campaign.id)
    for row in known:
        at = own.where(_ITEM.position == row.position)
        connection.execute(at.values(state=ItemState.SCORED, result_id=row.done))
    codes = dict(campaign.codes)
    if lost:
        code = AddressUnknownError.code
        at = own.where(is_one_of(connection, _ITEM.position, [row.position for row in lost]))
        connection.execute(at.values(state=ItemState.FAILED, error_code=code))
        codes[code] = codes.get(code, 0) + len(lost)
    for start in range(0, len(fresh), JOB_SIZE):
        some = fresh[start : start + JOB_SIZE]
        job_id = _add_job(connection, campaign, [(row.position, row.uri) for row in some])
        at = own.where(is_one_of(connection, _ITEM.position, [row.position for row in some]))
        connection.execute(at.values(state=ItemState.QUEUED, job_id=job_id))
    return {
        "queued": campaign.queued + len(fresh),
        "scored": campaign.scored + len(known),
        "failed": campaign.failed + len(lost),
        "codes": codes,
        "next_cut": rows[-1].position + 1 if rows else campaign.next_cut,
    }


def _add_job(connection: Connection, campaign: Campaign, films: Sequence[tuple[int, str]]) -> str:
    """A job over these films (position within the campaign, address). It has a study of its own,
    which shows nothing, because it has no live job."""
    study_id = new_id("st")
    now = datetime.now(UTC)
    connection.execute(
        insert(studies_table).values(id=study_id, tenant=campaign.tenant, created_at=now)
    )
    rows = [
        {"id": new_id("im"), "study_id": study_id, "position": position, "uri": uri}
        for position, uri in films
    ]
    connection.execute(insert(images), rows)
    return studies.add_job(
        connection,
        tenant=campaign.tenant,
        study_id=study_id,
        image_ids=[str(row["id"]) for row in rows],
        queue=Queue.BULK,
        model_id=campaign.model_id,
        campaign_id=campaign.id,
    )
