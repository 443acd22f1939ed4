"""Studies: registering them and seeing how they stand."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api_gateway import presenters
from api_gateway.auth import Reader, Writer
from api_gateway.errors import InvalidRequestError, StudyUnknownError
from api_gateway.problems import documented
from api_gateway.schemas import Accepted, ErrorOut, ImagePage, NewStudy, StudyOut
from api_gateway.services import Services, ServicesDep
from hilum import logs
from hilum.db import results, studies
from hilum.db.studies import Idempotency, StudyState
from hilum.errors import InvalidURIError

router = APIRouter(prefix="/v1/studies", tags=["studies"])

PAGE = 100


@router.post(
    "",
    status_code=202,
    operation_id="createStudy",
    responses=documented(413, 422),
    summary="Register a study to be scored",
)
def create(
    new: NewStudy,
    key: Writer,
    services: ServicesDep,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Accepted:
    """Answers as soon as the study is in SQL. With an `Idempotency-Key`, sending the same request
    again gives the same study."""
    uris = [image.uri for image in new.images]
    _check(uris, services)
    idempotency = None
    if idempotency_key is not None:
        canonical = json.dumps(new.model_dump(mode="json"), sort_keys=True).encode()
        digest = hashlib.sha256(canonical).digest()
        idempotency = Idempotency(key=idempotency_key, request_sha256=digest)
    made = studies.submit(
        services.database,
        tenant=key.tenant,
        queue=new.priority,
        uris=uris,
        idempotency=idempotency,
    )
    logs.add(study=made.study_id, job=made.job_id)
    if made.created:
        services.publisher.publish(made.job_id, new.priority)
    else:
        response.headers["Idempotent-Replayed"] = "true"
    url = presenters.study_url(made.study_id)
    response.headers["Location"] = url
    return Accepted(id=made.study_id, status_url=url)


@router.get(
    "/{study_id}",
    operation_id="getStudy",
    responses=documented(404),
    summary="How a study stands, with its first images",
)
def get(study_id: str, key: Reader, services: ServicesDep) -> StudyOut:
    """Poll this until `status` is `completed` or `failed`."""
    study = find(services, key.tenant, study_id)
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
    study_id: str,
    key: Reader,
    services: ServicesDep,
    after: Annotated[int, Query(ge=-1, description="position of the last image seen")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
) -> ImagePage:
    """In the order of the request; follow `next` until it is null."""
    study = find(services, key.tenant, study_id)
    return _page(services, study, after=after, limit=limit)


def find(services: Services, tenant: str, study_id: str) -> StudyState:
    """The tenant's study.

    Raises:
        StudyUnknownError: it has none of this id; whether somebody else has is not told.
    """
    with services.database.read() as connection:
        study = studies.get(connection, tenant=tenant, study_id=study_id)
    if study is None:
        raise StudyUnknownError("There is no such study.")
    logs.add(study=study.id, job=study.job_id)
    return study


def _page(services: Services, study: StudyState, *, after: int, limit: int) -> ImagePage:
    with services.database.read() as connection:
        found = studies.list_images(connection, study=study, after=after, limit=limit + 1)
        page = found[:limit]
        shown = [
            presenters.image(
                state,
                None if state.result_id is None else results.get(connection, state.result_id),
                services.pseudonyms,
            )
            for state in page
        ]
    following = None
    if len(found) > limit:
        url = presenters.study_url(study.id)
        following = f"{url}/images?after={page[-1].position}&limit={limit}"
    return ImagePage(images=shown, next=following)


def _check(uris: list[str], services: Services) -> None:
    limit = services.settings.gateway.max_images_per_study
    if len(uris) > limit:
        raise InvalidRequestError(f"The study has {len(uris)} images; at most {limit} are taken.")
    if len(set(uris)) != len(uris):
        raise InvalidRequestError(f"{len(uris) - len(set(uris))} images are listed twice.")
    allowed = services.settings.gateway.allowed_uri_prefixes
    for position, uri in enumerate(uris):
        _bucket, slash, object_key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not (_bucket and slash and object_key):
            raise InvalidURIError(
                f"images[{position}].uri is not s3://bucket/key.", next_step="Use s3://bucket/key."
            )
        if not uri.startswith(allowed):
            raise InvalidURIError(
                f"images[{position}].uri is outside the places this gateway may read.",
                next_step="Ask the operator: HILUM_GATEWAY__ALLOWED_URI_PREFIXES lists them.",
            )
