"""Take the outcomes of a campaign's jobs into its items and counters, and remove the jobs.

As in :mod:`hilum.db.campaigns.slices`, every function runs in a transaction that holds the row of
the campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from hilum.db.campaigns.states import ItemState
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import (
    campaign_items,
    deliveries,
    images,
    instances,
    items,
    jobs,
    outbox,
    studies,
)

if TYPE_CHECKING:
    from hilum.db.campaigns.rows import Campaign

_ITEM: Final = campaign_items.c


def collect(connection: Connection, campaign: Campaign) -> dict[str, Any]:
    """Take the outcomes of jobs that have ended into the campaign, and remove these jobs.

    Returns:
        The values of the campaign's row that have changed; empty: no job has ended.
    """
    ended = _jobs(campaign.id, jobs.c.status.not_in((JobStatus.QUEUED, JobStatus.RUNNING)))
    return _fold(connection, campaign, [*connection.execute(ended).scalars()])


def withdraw(connection: Connection, campaign: Campaign) -> dict[str, Any]:
    """Take back the jobs that no worker has claimed; their images wait again. What of them has
    ended stays so.

    Returns:
        The values of the campaign's row that have changed.
    """
    free = _jobs(campaign.id, jobs.c.status == JobStatus.QUEUED)
    locked = select(jobs.c.id).where(jobs.c.id.in_(free)).with_for_update(skip_locked=True)
    return _fold(connection, campaign, [*connection.execute(locked).scalars()])


def _jobs(campaign_id: str, which: ColumnElement[bool]) -> Any:
    """Ids of the campaign's jobs, found by its queued items: as many as are in flight."""
    own = (_ITEM.campaign_id == campaign_id, _ITEM.state == ItemState.QUEUED)
    mine = select(_ITEM.job_id).where(*own).distinct()
    return select(jobs.c.id).where(jobs.c.id.in_(mine), which)


def _fold(connection: Connection, campaign: Campaign, job_ids: Sequence[str]) -> dict[str, Any]:
    if not job_ids:
        return {}
    of_jobs = items.c.job_id.in_(job_ids)
    tally = (
        select(items.c.status, items.c.error_code, func.count().label("images"))
        .where(of_jobs)
        .group_by(items.c.status, items.c.error_code)
    )
    counts, codes = dict.fromkeys(ItemStatus, 0), dict(campaign.codes)
    for row in connection.execute(tally):
        status = ItemStatus(row.status)
        counts[status] += row.images
        if status in (ItemStatus.REFUSED, ItemStatus.FAILED):
            codes[row.error_code] = codes.get(row.error_code, 0) + row.images
    again: dict[str, Any] = {}
    if counts[ItemStatus.PENDING]:
        first = select(func.min(_ITEM.position)).where(_ITEM.job_id.in_(job_ids))
        again["next_cut"] = min(campaign.next_cut, connection.execute(first).scalar_one())
    _adopt(connection, job_ids)
    waits = items.c.status == ItemStatus.PENDING
    connection.execute(
        update(campaign_items)
        .where(
            _ITEM.job_id == items.c.job_id,
            images.c.id == items.c.image_id,
            images.c.position == _ITEM.position,
            of_jobs,
        )
        .values(
            state=case((waits, ItemState.SELECTED.value), else_=items.c.status),
            error_code=case((~waits, items.c.error_code)),
            result_id=items.c.result_id,
            job_id=None,
        )
    )
    _remove(connection, job_ids)
    ended = sum(counts.values()) - counts[ItemStatus.PENDING]
    if ended:
        again["progress_at"] = datetime.now(UTC)
    return again | {
        "queued": campaign.queued - sum(counts.values()),
        "scored": campaign.scored + counts[ItemStatus.SCORED],
        "refused": campaign.refused + counts[ItemStatus.REFUSED],
        "failed": campaign.failed + counts[ItemStatus.FAILED],
        "codes": codes,
    }


def _adopt(connection: Connection, job_ids: Sequence[str]) -> None:
    """An instance of which only the header was known becomes the one whose object was read: the
    worker's row gives its digest to the row that the campaign names."""
    p, read = instances.alias("header"), instances.alias("read")
    other = campaign_items.alias("other")
    pairs = (
        select(p.c.id, read.c.id.label("read_id"), read.c.content_sha256)
        .select_from(campaign_items)
        .join(p, and_(p.c.id == _ITEM.instance_id, p.c.header_only.is_(True)))
        .join(
            read,
            and_(
                read.c.tenant == p.c.tenant,
                read.c.sop_instance_uid == p.c.sop_instance_uid,
                read.c.uri == p.c.uri,
                read.c.header_only.is_(None),
            ),
        )
        .where(
            _ITEM.job_id.in_(job_ids),
            ~exists(select(literal(1)).where(other.c.instance_id == read.c.id)),
        )
        .order_by(read.c.last_seen_at)
    )
    # The object that was there last, if it was replaced under its address.
    newest = {row.id: row for row in connection.execute(pairs)}
    for row in newest.values():
        connection.execute(delete(instances).where(instances.c.id == row.read_id))
        connection.execute(
            update(instances)
            .where(instances.c.id == row.id)
            .values(content_sha256=row.content_sha256, header_only=None)
        )


def _remove(connection: Connection, job_ids: Sequence[str]) -> None:
    """Remove jobs whose outcomes the campaign has: at 10^8 images they would double the tables."""
    own = select(jobs.c.study_id).where(jobs.c.id.in_(job_ids))
    # A campaign's study has one job; a study of somebody else that got one keeps all else.
    shared = select(jobs.c.study_id).where(jobs.c.study_id.in_(own), jobs.c.id.not_in(job_ids))
    gone = select(studies.c.id).where(studies.c.id.in_(own), studies.c.id.not_in(shared))
    study_ids = [*connection.execute(gone).scalars()]
    for table in (deliveries, outbox, items):
        connection.execute(delete(table).where(table.c.job_id.in_(job_ids)))
    connection.execute(delete(jobs).where(jobs.c.id.in_(job_ids)))
    connection.execute(delete(images).where(images.c.study_id.in_(study_ids)))
    connection.execute(delete(studies).where(studies.c.id.in_(study_ids)))
