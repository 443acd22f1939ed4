"""The bodies of requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hilum.db.states import ItemStatus, JobStatus
from hilum.errors import ErrorBody
from hilum.queue import Queue

PRINTABLE: Final = r"^[^\x00-\x1f\x7f]+$"  # a text of PostgreSQL cannot contain NUL
Id = Annotated[str, Path(max_length=64, pattern=r"^[!-~]+$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Doubts = Annotated[
    list[str],
    Field(
        description="flags that forbid the use of the numbers; must be shown wherever a number is "
        "shown",
        examples=[["not_chest"]],
    ),
]


_MOST_FIELDS = 20


class StrictModel(BaseModel):
    """What a client sends: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_fields(cls, data: Any) -> Any:
        """Each unknown field is an error of its own: a million of them would take seconds."""
        if isinstance(data, dict) and len(data) > _MOST_FIELDS:
            raise ValueError(f"an object has more than {_MOST_FIELDS} fields")
        return data


class ImageReference(StrictModel):
    """An image to be scored."""

    uri: str = Field(
        min_length=1,
        max_length=2048,
        pattern=PRINTABLE,
        description="s3://bucket/key of one DICOM object",
        examples=["s3://pacs/2026/11/film-1.dcm"],
    )


class NewStudy(StrictModel):
    """A study to be scored."""

    priority: Queue = Field(default=Queue.ROUTINE, description="the queue in which the study waits")
    images: list[ImageReference] = Field(
        min_length=1, fail_fast=True, description="each image once, from any number of series"
    )
    object_wait_s: float | None = Field(
        default=None,
        ge=0,
        le=7 * 86_400,
        description=(
            "for so many seconds an object that does not exist yet may still arrive; by default as "
            "the workers are configured"
        ),
    )


class Accepted(BaseModel):
    """The study is registered and will be scored, even if broker or workers fail meanwhile."""

    id: str = Field(examples=["st_0199d0c1b7a47f6e8a0b3c5d7e9f1a2b"])
    status_url: str


class ErrorOut(BaseModel):
    """Why an image or a study has no result."""

    code: str = Field(examples=["policy.not_chest"])
    detail: str
    next_step: str
    transient: bool

    @classmethod
    def of(cls, body: ErrorBody | None) -> ErrorOut | None:
        """``None`` stays ``None``."""
        return None if body is None else cls(**body)


class FindingOut(BaseModel):
    """A label at or above its operating point."""

    label: str
    probability: Probability
    threshold: Probability


class ModelOut(BaseModel):
    """The model that made a result."""

    name: str
    version: str
    digest: str = Field(description="identity of the model package")
    demonstration_only: bool


class ResultOut(BaseModel):
    """What the model says about one image."""

    notice: str | None = Field(description="must be shown wherever a number is shown")
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    doubts: Doubts
    probabilities: dict[str, Probability] = Field(description="calibrated, by label")
    raw: dict[str, Probability] = Field(description="outputs of the graph, before calibration")
    findings: list[FindingOut]
    flags: list[str] = Field(
        description="what to know about the input", examples=[["view_unknown"]]
    )
    model: ModelOut
    engine: str
    engine_reason: str | None
    scored_at: datetime
    cam: dict[str, str] = Field(description="URL of each stored Grad-CAM map, by label")


class ImageOut(BaseModel):
    """One image of a study."""

    id: str
    position: int = Field(description="as in the request, from 0")
    status: ItemStatus
    url: str
    error: ErrorOut | None = None
    result: ResultOut | None = None


class ImagePage(BaseModel):
    """A page of images, in the order of the request."""

    images: list[ImageOut]
    next: str | None = Field(description="URL of the next page")


class StudyOut(BaseModel):
    """The state of a study."""

    id: str
    status: JobStatus = Field(
        description="`completed`: every image has ended, scored or with its error; "
        "`failed`: hilum gave the study up"
    )
    priority: Queue
    created_at: datetime
    finished_at: datetime | None
    attempts: int
    counts: dict[ItemStatus, int]
    error: ErrorOut | None = Field(description="the last error that delayed or ended the study")
    images: ImagePage = Field(description="the first page")


class RegisteredModelOut(ModelOut):
    """A model that has produced results here."""

    labels: list[str]
    operating_points: dict[str, Probability]
    intended_use: str
    registered_at: datetime


class CamOut(BaseModel):
    """A Grad-CAM map as numbers."""

    label: str
    probability: Probability
    grid: list[list[float]] = Field(description="h × w, rows from the top, >= 0")
    input_size: int = Field(description="side S of the square the grid covers, pixels")
    film_box: tuple[int, int, int, int] = Field(
        description="x0, y0, x1, y1: where the film lies in that square"
    )
    doubts: Doubts
    notice: str | None


class Health(BaseModel):
    """Whether the process can serve."""

    status: Literal["ok", "degraded"]
    checks: dict[str, str]
