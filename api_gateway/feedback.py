"""What readers say of the findings of an image."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from api_gateway import presenters
from api_gateway.auth import FeedbackGiver, Reader
from api_gateway.door import GuardedRoute
from api_gateway.errors import ImageNotScoredError, ImageUnknownError
from api_gateway.problems import documented
from api_gateway.schemas import PRINTABLE, Id, StrictModel
from api_gateway.services import ServicesDep
from api_gateway.studies import find
from hilum.db import feedback as store
from hilum.db import results, studies
from hilum.db.feedback import Feedback, Opinion, Verdict
from hilum.errors import ResultReplacedError
from hilum.packages.registered import manifest_of

router = APIRouter(prefix="/v1/studies/{study_id}", tags=["feedback"], route_class=GuardedRoute)


class OpinionIn(StrictModel):
    """What the reader says of one label."""

    label: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)
    verdict: Verdict = Field(
        description="`agree`: the model's finding, or its absence, is right; `disagree`: it is "
        "wrong; `correct`: `present` says what is right"
    )
    present: bool | None = Field(default=None, description="with `correct`, and only there")

    @model_validator(mode="after")
    def _check_present(self) -> Self:
        if (self.present is not None) != (self.verdict is Verdict.CORRECT):
            raise ValueError("`present` belongs to the verdict `correct`, and only there")
        return self


class NewFeedback(StrictModel):
    """A reader's opinions on one image."""

    opinions: list[OpinionIn] = Field(min_length=1, max_length=100, description="one a label")
    reader: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{0,40}[0-9][A-Za-z0-9_-]{0,20}$",
        description="opaque id of the reader, with a digit; never a name. Without it, the key "
        "stands for the reader",
        examples=["r-0017"],
    )
    model: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="digest of the model whose result the reader saw. If the image shows another "
        "model's by now, the answer is 409",
    )

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        counts = Counter(opinion.label for opinion in self.opinions)
        if max(counts.values()) > 1:
            raise ValueError("a label is named twice")
        return self


class FeedbackOut(BaseModel):
    """An opinion that is in force."""

    id: int
    image_id: str
    image_url: str
    label: str
    verdict: Verdict
    found: bool = Field(description="what the model said at its operating point")
    present: bool = Field(description="what the reader says")
    model: str = Field(description="digest of the model whose result the reader saw")
    reader: str | None
    key: str = Field(description="id of the API key")
    given_at: datetime

    @classmethod
    def of(cls, row: Feedback) -> FeedbackOut:
        """For this row."""
        same = ("id", "image_id", "label", "verdict", "found", "present", "model", "reader")
        return cls(
            **{name: getattr(row, name) for name in same},
            image_url=presenters.image_url(row.study_id, row.image_id),
            key=row.key_id,
            given_at=row.created_at,
        )


class FeedbackPage(BaseModel):
    """A page of opinions, the oldest first."""

    feedback: list[FeedbackOut]
    next: str | None = Field(description="URL of the next page")


class FeedbackGiven(BaseModel):
    """The rows that were added."""

    ids: list[int] = Field(description="in the order of the request")


@router.post(
    "/images/{image_id}/feedback",
    status_code=201,
    operation_id="giveFeedback",
    responses=documented(404, 408, 409, 413, 422),
    summary="A reader agrees, disagrees or corrects",
)
def give(
    study_id: Id, image_id: Id, new: NewFeedback, key: FeedbackGiver, services: ServicesDep
) -> FeedbackGiven:
    """Rows are only added. Of a reader, the newest on a film and label is in force."""
    study = find(services, key.tenant, study_id)
    with services.database.write() as connection:
        state = studies.get_image(connection, study=study, image_id=image_id)
        if state is None:
            raise ImageUnknownError("The study has no such image.")
        shown = None if state.result_id is None else results.get(connection, state.result_id)
        if shown is None:
            raise ImageNotScoredError(f"The image is {state.status.value}; it has no result.")
        if new.model not in (None, shown.model.digest):
            raise ResultReplacedError("The image shows the result of another model by now.")
        ids = store.give(
            connection,
            tenant=key.tenant,
            study_id=study_id,
            image_id=image_id,
            result=shown,
            labels=manifest_of(shown.model).label_set.findings,
            opinions=[Opinion(**opinion.model_dump()) for opinion in new.opinions],
            key_id=key.id,
            reader=new.reader,
        )
    return FeedbackGiven(ids=ids)


@router.get(
    "/feedback",
    operation_id="listFeedback",
    responses=documented(404, 422),
    summary="What readers say of a study",
)
def listing(
    study_id: Id,
    key: Reader,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="the last id seen")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> FeedbackPage:
    """The opinions in force; follow `next` until it is null."""
    find(services, key.tenant, study_id)
    with services.database.read() as connection:
        found = list(
            store.iterate(
                connection, tenant=key.tenant, study_id=study_id, after=after, limit=limit + 1
            )
        )
    page = found[:limit]
    following = None
    if len(found) > limit:
        url = presenters.study_url(study_id)
        following = f"{url}/feedback?after={page[-1].id}&limit={limit}"
    return FeedbackPage(feedback=[FeedbackOut.of(row) for row in page], next=following)
