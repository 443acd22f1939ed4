"""What a study shows of each of its images. Only this query decides it.

For each image, the first of these that exists:

1. the result of the study's canary, if the study is in the canary's share, and otherwise of the
   model in force (:mod:`hilum.db.serving`), for the image's object and of the newest pipeline that
   was promoted or that a live job of the image used; unless a live job has refused the image
   since, and rule 2 would show that;
2. the newest outcome "scored" or "refused" of the image in a live job;
3. the state of the image in the live job that :data:`FIRST_JOB` puts first.

A job is live if it belongs to no campaign. The results of a campaign's job are shown only by rule
1, once its model is in force. Scored images stay shown while a later job of the study is queued or
runs; they change over to the new results one by one.

The statements are built once in a process: building one takes longer than running it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Float,
    ScalarSelect,
    String,
    Subquery,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
)

from hilum.db.serving import position_of
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import images, items, jobs, results, serving

# The parameters of every statement that reads :data:`SHOWN`.
TENANT: Final = bindparam("tenant", type_=String)
STUDY: Final = bindparam("study_id", type_=String)
_POSITION: Final = bindparam("study_position", type_=Float)

# The order of a study's live jobs; the state of the first job is the state of the study. The newest
# completed job comes first, then the others, newest first. A study that was completed once stays
# completed while a later job runs; a study whose job was quarantined is queued with its next job.
FIRST_JOB: Final = (case((jobs.c.status == JobStatus.COMPLETED, 0), else_=1), jobs.c.id.desc())


def parameters(tenant: str, study_id: str) -> dict[str, Any]:
    """The values of the parameters for one study."""
    return {"tenant": tenant, "study_id": study_id, "study_position": position_of(study_id)}


def _choose_job() -> ScalarSelect[str]:
    """The live job whose state of the image counts by rules 2 and 3."""
    first, newest = FIRST_JOB
    item = items.alias("own")
    has_outcome = item.c.status.in_((ItemStatus.SCORED, ItemStatus.REFUSED))
    return (
        select(item.c.job_id)
        .join(jobs, jobs.c.id == item.c.job_id)
        .where(item.c.image_id == images.c.id, jobs.c.campaign_id.is_(None))
        .order_by(case((has_outcome, 0), else_=1), case((has_outcome, 0), else_=first), newest)
        .limit(1)
        .correlate(images)
        .scalar_subquery()
    )


def _choose_result() -> ColumnElement[int | None]:
    """The result by rule 1. The image's object is what its newest live job found there, or else a
    campaign's."""
    row = select(serving.c.model_id).where(serving.c.tenant == TENANT)
    model = row.scalar_subquery()
    canary = (
        row.with_only_columns(serving.c.canary_model_id)
        .where(serving.c.canary_share > _POSITION)
        .scalar_subquery()
    )
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
    same_object = and_(
        result.c.tenant == found.c.tenant,
        result.c.sop_instance_uid == found.c.sop_instance_uid,
        result.c.content_sha256 == found.c.content_sha256,
    )
    live = (
        select(item.c.result_id)
        .join(jobs, jobs.c.id == item.c.job_id)
        .where(
            item.c.image_id == images.c.id,
            item.c.result_id == result.c.id,
            jobs.c.campaign_id.is_(None),
        )
        .correlate(images, result)
    )

    def is_shown(which: ColumnElement[bool], limit: ScalarSelect[str]) -> ColumnElement[bool]:
        # A campaign may score with a newer pipeline for the model that is in force already.
        newest = or_(limit.is_(None), _order_of(result.c.pipeline) <= _order_of(limit))
        return and_(which, or_(newest, exists(live)))

    limit = row.with_only_columns(serving.c.pipeline).scalar_subquery()
    canary_limit = row.with_only_columns(serving.c.canary_pipeline).scalar_subquery()
    by_canary = is_shown(result.c.model_id == canary, canary_limit)
    first = (
        select(result.c.id)
        .select_from(found)
        .join(result, same_object)
        .where(
            found.c.id == seen,
            result.c.model_id.in_((canary, model)),
            or_(by_canary, is_shown(result.c.model_id == model, limit)),
        )
        .order_by(
            case((result.c.model_id == canary, 0), else_=1),
            _order_of(result.c.pipeline).desc(),
            result.c.id.desc(),
        )
        .limit(1)
        .correlate(images)
        .scalar_subquery()
    )
    # Most tenants have no model in force and need no look-up for each image.
    return case((model.is_not(None), first))


def _order_of(pipeline: ColumnElement[str]) -> ColumnElement[str]:
    """The digits of the version; the digest after them has no order."""
    return func.substr(pipeline, 1, 4)


def _build() -> Subquery:
    chosen = (
        select(
            images.c.id.label("image_id"),
            images.c.position,
            images.c.uri,
            items.c.status,
            items.c.result_id,
            items.c.error,
            items.c.finished_at,
            _choose_result().label("in_force"),
        )
        .select_from(images)
        .join(items, and_(items.c.image_id == images.c.id, items.c.job_id == _choose_job()))
        .where(images.c.study_id == STUDY)
        .subquery("chosen")
    )
    in_force = results.alias("in_force")
    # A film that a corrected decoder or policy refuses must not keep its numbers.
    refused = and_(
        chosen.c.status == ItemStatus.REFUSED, chosen.c.finished_at > in_force.c.created_at
    )
    scored = and_(chosen.c.in_force.is_not(None), ~refused)
    shown = select(
        chosen.c.image_id,
        chosen.c.position,
        chosen.c.uri,
        case((scored, ItemStatus.SCORED.value), else_=chosen.c.status).label("status"),
        case((scored, chosen.c.in_force), else_=chosen.c.result_id).label("result_id"),
        case((~scored, chosen.c.error)).label("error"),
    ).select_from(chosen.outerjoin(in_force, in_force.c.id == chosen.c.in_force))
    return shown.subquery("shown")


# One row an image of the study: `image_id`, `position`, `uri`, `status`, `result_id`, `error`.
SHOWN: Final = _build()
