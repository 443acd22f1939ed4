"""What a study shows of each of its images. This query is the only place that decides it.

For each image, the first of these that exists:

1. the result of the model in force for the study (:mod:`hilum.db.serving`) for the image's object,
   of the newest pipeline;
2. the image's newest end in a live job as scored or refused;
3. its state in the live job that :func:`shown_first` puts first.

A job is live if no campaign asked for it. What a campaign's job makes is shown only by 1., once its
model is in force. Scored images stay shown while a later job of the study is queued or runs, and
go over to the new results one by one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Subquery, and_, case, func, select

from hilum.db import serving
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import items, jobs, results


def shown_first() -> tuple[ColumnElement[Any], ...]:
    """The order of a study's live jobs: what the study says of itself is what the first one says.

    The newest completed job comes first, then the others, the newest first. A study that was
    completed once therefore stays completed, with its results, while a later job does its work;
    one that was given up is queued again with its next job.
    """
    return (case((jobs.c.status == JobStatus.COMPLETED, 0), else_=1), jobs.c.id.desc())


def shown_items(tenant: str, study_id: str) -> Subquery:
    """One row an image of the study: ``image_id``, ``status``, ``result_id``, ``error``,
    ``finished_at``."""
    own, seen = _own(study_id), _seen(study_id)
    in_force = (
        select(results.c.id)
        .where(
            results.c.tenant == tenant,
            results.c.sop_instance_uid == seen.c.sop_instance_uid,
            results.c.content_sha256 == seen.c.content_sha256,
            results.c.model_id == serving.model_of(tenant, study_id),
        )
        # The version's digits: the digest after them has no order.
        .order_by(func.substr(results.c.pipeline, 1, 4).desc(), results.c.id.desc())
        .limit(1)
        .correlate(seen)
        .scalar_subquery()
    )
    chosen = (
        select(own, in_force.label("in_force"))
        .select_from(
            own.outerjoin(seen, and_(seen.c.image_id == own.c.image_id, seen.c.place == 1))
        )
        .where(own.c.place == 1)
        .subquery("chosen")
    )
    scored = chosen.c.in_force.is_not(None)
    return select(
        chosen.c.image_id,
        case((scored, ItemStatus.SCORED.value), else_=chosen.c.status).label("status"),
        func.coalesce(chosen.c.in_force, chosen.c.result_id).label("result_id"),
        case((~scored, chosen.c.error)).label("error"),
        chosen.c.finished_at,
    ).subquery("shown")


def _own(study_id: str) -> Subquery:
    """The images' states in live jobs; the one that counts has ``place`` 1."""
    is_told = items.c.status.in_((ItemStatus.SCORED, ItemStatus.REFUSED))
    first, newest = shown_first()
    order = (case((is_told, 0), else_=1), case((is_told, 0), else_=first), newest)
    place = func.row_number().over(partition_by=items.c.image_id, order_by=order)
    return (
        select(
            items.c.image_id,
            items.c.status,
            items.c.result_id,
            items.c.error,
            items.c.finished_at,
            place.label("place"),
        )
        .join(jobs, jobs.c.id == items.c.job_id)
        .where(jobs.c.study_id == study_id, jobs.c.campaign_id.is_(None))
        .subquery("own")
    )


def _seen(study_id: str) -> Subquery:
    """The objects that the images were found to be, by live jobs or else by campaigns; the newest
    has ``place`` 1."""
    order = (case((jobs.c.campaign_id.is_(None), 0), else_=1), jobs.c.id.desc())
    place = func.row_number().over(partition_by=items.c.image_id, order_by=order)
    return (
        select(
            items.c.image_id,
            results.c.sop_instance_uid,
            results.c.content_sha256,
            place.label("place"),
        )
        .join(jobs, jobs.c.id == items.c.job_id)
        .join(results, results.c.id == items.c.result_id)
        .where(jobs.c.study_id == study_id)
        .subquery("seen")
    )
