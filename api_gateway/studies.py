"""Studies: register them, and read their state."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api_gateway import places, presenters
from api_gateway.auth import Reader, Writer, require
from api_gateway.door import GuardedRoute
from api_gateway.errors import StudyUnknownError
from api_gateway.problems import documented
from api_gateway.schemas import PRINTABLE, Accepted, ErrorOut, Id, ImagePage, NewStudy, StudyOut
from api_gateway.services import Services, ServicesDep
from hilum import logs, tracing
from hilum.db import results, studies
from hilum.db.keys import Scope
from hilum.db.studies import Idempotency, StudyState
from hilum.queue import Queue

router = APIRouter(prefix="/v1/studies", tags=["studies"], route_class=GuardedRoute)

PAGE = 100


@router.post(
    "",
    status_code=202,
    operation_id="createStudy",
    responses=documented(408, 413, 422),
    summary="Register a study to score",
)
def create(
    new: NewStudy,
    key: Writer,
    services: ServicesDep,
    response: Response,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, pattern=PRINTABLE)
    ] = None,
) -> Accepted:
    """Answers as soon as the study is in SQL. A repeated request with the same `Idempotency-Key`
    gets the same study."""
    if new.priority is Queue.STAT:
        require(key, Scope.STAT)
    uris = [image.uri for image in new.images]
    places.check(uris, key.tenant, services.settings.gateway)
    idempotency = None
    if idempotency_key is not None:
        canonical = json.dumps(
            new.model_dump(mode="json", exclude_none=True), sort_keys=True
        ).encode()
        digest = hashlib.sha256(canonical).digest()
        idempotency = Idempotency(key=idempotency_key, request_sha256=digest)
    made = studies.submit(
        services.database,
        tenant=key.tenant,
        queue=new.priority,
        uris=uris,
        idempotency=idempotency,
        object_wait_s=new.object_wait_s,
    )
    logs.add(study=made.study_id, job=made.job_id)
    tracing.add(study=made.study_id, job=made.job_id)
    if made.created:
        services.publisher.publish(made.job_id, made.route)
    else:
        response.headers["Idempotent-Replayed"] = "true"
    url = presenters.study_url(made.study_id)
    response.headers["Location"] = url
    return Accepted(id=made.study_id, status_url=url)


@router.get(
    "/{study_id}",
    operation_id="getStudy",
    responses=documented(404, 422),
    summary="The state of a study, with its first images",
)
def get(study_id: Id, key: Reader, services: ServicesDep) -> StudyOut:
    """Poll this until `status` is `completed` or `failed`."""
    study = find(services, key.tenant, study_id, count=True)
    return StudyOut(
        id=study.id,
        status=study.status,
        priority=study.queue,
        created_at=study.created_at,
        finished_at=study.finished_at,
        attempts=study.attempts,
        counts=study.counts,
        error=ErrorOut.of(study.error),
        images=_page(services, study, after=-1, limit=PAGE),
    )


@router.get(
    "/{study_id}/images",
    operation_id="listImages",
    responses=documented(404, 422),
    summary="A page of a study's images",
)
def images(
    study_id: Id,
    key: Reader,
    services: ServicesDep,
    after: Annotated[
        int, Query(ge=-1, le=2**31 - 1, description="position of the last image seen")
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
) -> ImagePage:
    """In the order of the request; follow `next` until it is null."""
    study = find(services, key.tenant, study_id)
    return _page(services, study, after=after, limit=limit)


def find(services: Services, tenant: str, study_id: str, *, count: bool = False) -> StudyState:
    """The tenant's study, with the counts of its images if ``count``.

    Raises:
        StudyUnknownError: the tenant has no such study. Another tenant may have it.
    """
    with services.database.read() as connection:
        study = studies.get(connection, tenant=tenant, study_id=study_id, count=count)
    if study is None:
        raise StudyUnknownError("The tenant has no such study.")
    logs.add(study=study.id, job=study.job_id)
    return study


def _page(services: Services, study: StudyState, *, after: int, limit: int) -> ImagePage:
    with services.database.read() as connection:
        found = studies.list_images(connection, study=study, after=after, limit=limit + 1)
        page = found[:limit]
        ids = {state.result_id for state in page if state.result_id is not None}
        stored = results.get_many(connection, ids, maps=False)
    shown = [
        presenters.image(
            state,
            None if state.result_id is None else stored[state.result_id],
            services.pseudonyms,
        )
        for state in page
    ]
    following = None
    if len(found) > limit:
        url = presenters.study_url(study.id)
        following = f"{url}/images?after={page[-1].position}&limit={limit}"
    return ImagePage(images=shown, next=following)
