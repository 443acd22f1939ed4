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

from sqlalchemy import ColumnElement, ScalarSelect, Subquery, and_, case, func, select

from hilum.db import serving
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import images, items, jobs, results


def shown_first() -> tuple[ColumnElement[Any], ...]:
    """The order of a study's live jobs: what the study says of itself is what the first one says.

    The newest completed job comes first, then the others, the newest first. A study that was
    completed once therefore stays completed, with its results, while a later job does its work;
    one that was given up is queued again with its next job.
    """
    return (case((jobs.c.status == JobStatus.COMPLETED, 0), else_=1), jobs.c.id.desc())


def shown_images(tenant: str, study_id: str) -> Subquery:
    """One row an image of the study: ``image_id``, ``position``, ``uri``, ``status``,
    ``result_id``, ``error``, ``finished_at``."""
    in_force = _in_force(serving.model_of(tenant, study_id))
    chosen = (
        select(
            images.c.id.label("image_id"),
            images.c.position,
            images.c.uri,
            items.c.status,
            items.c.result_id,
            items.c.error,
            items.c.finished_at,
            in_force.label("in_force"),
        )
        .select_from(images)
        .join(items, and_(items.c.image_id == images.c.id, items.c.job_id == _own_job()))
        .where(images.c.study_id == study_id)
        .subquery("chosen")
    )
    scored = chosen.c.in_force.is_not(None)
    return select(
        chosen.c.image_id,
        chosen.c.position,
        chosen.c.uri,
        case((scored, ItemStatus.SCORED.value), else_=chosen.c.status).label("status"),
        func.coalesce(chosen.c.in_force, chosen.c.result_id).label("result_id"),
        case((~scored, chosen.c.error)).label("error"),
        chosen.c.finished_at,
    ).subquery("shown")


def _own_job() -> ScalarSelect[str]:
    """The live job whose state of the image counts."""
    first, newest = shown_first()
    item = items.alias("own")
    is_told = item.c.status.in_((ItemStatus.SCORED, ItemStatus.REFUSED))
    return (
        select(item.c.job_id)
        .join(jobs, jobs.c.id == item.c.job_id)
        .where(item.c.image_id == images.c.id, jobs.c.campaign_id.is_(None))
        .order_by(case((is_told, 0), else_=1), case((is_told, 0), else_=first), newest)
        .limit(1)
        .correlate(images)
        .scalar_subquery()
    )


def _in_force(model_id: ScalarSelect[int]) -> ColumnElement[int | None]:
    """The result of this model for the object that the image was found to be, by the newest live
    job or else by a campaign's."""
    item, found, result = items.alias("any_item"), results.alias("found"), results.alias("forced")
    seen = (
        select(item.c.result_id)
        .join(jobs, jobs.c.id == item.c.job_id)
        .where(item.c.image_id == images.c.id, item.c.result_id.is_not(None))
        .order_by(case((jobs.c.campaign_id.is_(None), 0), else_=1), jobs.c.id.desc())
        .limit(1)
        .correlate(images)
        .scalar_subquery()
    )
    same = and_(
        result.c.tenant == found.c.tenant,
        result.c.sop_instance_uid == found.c.sop_instance_uid,
        result.c.content_sha256 == found.c.content_sha256,
        result.c.model_id == model_id,
    )
    newest = (
        select(result.c.id)
        .select_from(found)
        .join(result, same)
        .where(found.c.id == seen)
        # The version's digits: the digest after them has no order.
        .order_by(func.substr(result.c.pipeline, 1, 4).desc(), result.c.id.desc())
        .limit(1)
        .correlate(images)
        .scalar_subquery()
    )
    # Most tenants have no model in force, and need no look for each image.
    return case((model_id.is_not(None), newest))
