"""Jobs: list them, and cancel, retry or requeue one or many."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field

from api_gateway import presenters
from api_gateway.auth import Admin, Writer
from api_gateway.door import GuardedRoute
from api_gateway.errors import InvalidRequestError
from api_gateway.problems import documented
from api_gateway.schemas import ErrorOut, Id, StrictModel
from api_gateway.services import ServicesDep
from hilum import logs
from hilum.db.operating import listing
from hilum.db.operating.filters import JobFilter
from hilum.db.operating.listing import JobState
from hilum.db.operating.run import STEP_SIZE, act, count_chosen, run
from hilum.db.operating.steps import Action, Order
from hilum.db.states import ItemStatus, JobStatus
from hilum.errors import JobUnknownError
from hilum.queue import Queue

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=GuardedRoute)

_STEPS: Final = 10  # transactions of one request for many jobs
Code = Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,64}$", description="of an error")]
Cursor = Annotated[str, Field(pattern=r"^(jb_[0-9a-f]{32})?$")]


class Jobs(StrictModel):
    """The jobs that meet every condition that is given."""

    status: JobStatus | None = None
    code: Code | None = Field(default=None, description="of the job or of one of its images")
    priority: Queue | None = None
    model: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="digest of the package that the job is bound to",
    )
    campaign: str | None = Field(default=None, pattern=r"^cp_[0-9a-f]{32}$")
    since: AwareDatetime | None = Field(default=None, description="created then or later")
    until: AwareDatetime | None = Field(default=None, description="created before")
    quarantined: bool = Field(
        default=False, description="failed, not cancelled, and not in a later job"
    )

    def as_filter(self, tenant: str) -> JobFilter:
        """The same for SQL, of this tenant."""
        return JobFilter(
            tenant=tenant,
            status=self.status,
            code=self.code,
            queue=self.priority,
            model=self.model,
            campaign_id=self.campaign,
            since=self.since,
            until=self.until,
            quarantined=self.quarantined,
        )


class JobsQuery(Jobs):
    """A page of these jobs."""

    after: Cursor = Field(default="", description="the last job seen")
    limit: int = Field(default=100, ge=1, le=1000)


class JobOut(BaseModel):
    """A job: the order to score the images of a study once."""

    id: str
    study_id: str
    study_url: str
    tenant: str
    priority: Queue
    status: JobStatus
    cancelled: bool
    model: str | None = Field(description="digest of the package that the job is bound to")
    campaign: str | None
    attempts: int = Field(description="how often a worker has claimed it")
    created_at: datetime
    due_at: datetime | None = Field(description="when a worker may claim it, if it is queued")
    lease_until: datetime | None = Field(description="of the worker that has claimed it")
    finished_at: datetime | None
    error: ErrorOut | None

    @classmethod
    def fields_of(cls, job: JobState) -> dict[str, Any]:
        """The fields for this job."""
        same = ("id", "study_id", "tenant", "status", "cancelled", "model", "attempts")
        times = ("created_at", "due_at", "lease_until", "finished_at")
        return {
            **{name: getattr(job, name) for name in (*same, *times)},
            "study_url": presenters.study_url(job.study_id),
            "priority": job.queue,
            "campaign": job.campaign_id,
            "error": ErrorOut.of(job.error),
        }


class JobDetailsOut(JobOut):
    """A job with its images, counted."""

    counts: dict[ItemStatus, int]
    codes: dict[str, int] = Field(description="images by the code of their error")


class JobPage(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobOut]
    next: str | None = Field(description="URL of the next page")


class Retry(StrictModel):
    """Which images of an ended job to try again; without a body, those that failed or that the
    store did not give."""

    code: Code | None = Field(default=None, description="only images that ended with this code")
    refused: bool = Field(
        default=False, description="also images that were refused for their content"
    )


class Acted(BaseModel):
    """What was done to a job."""

    id: str
    action: Action
    new_job: str | None = Field(description="of a retry: the job that scores the images again")


class ManyJobs(StrictModel):
    """An action on all jobs that a filter chooses."""

    action: Action
    filter: Jobs = Field(description="at least one condition")
    refused: bool = Field(
        default=False, description="a retry: also images that were refused for their content"
    )
    dry_run: bool = Field(default=True, description="only count the jobs that would change")
    after: Cursor = Field(default="", description="`next` of the answer before")


class ManyActed(BaseModel):
    """What was done to the jobs of one request."""

    action: Action
    dry_run: bool
    matched: int | None = Field(description="of a dry run: the jobs that would change")
    changed: int
    next: str | None = Field(description="send the request again with this `after`; null: done")


@router.get("", operation_id="listJobs", responses=documented(422), summary="A page of jobs")
def list_jobs(wanted: Annotated[JobsQuery, Query()], key: Writer, services: ServicesDep) -> JobPage:
    """The newest first; follow `next` until it is null. Only `hilum jobs` sees several tenants."""
    which = wanted.as_filter(key.tenant)
    with services.database.read() as connection:
        found = listing.list_jobs(connection, which, after=wanted.after, limit=wanted.limit + 1)
    page = found[: wanted.limit]
    following = None
    if len(found) > wanted.limit:
        query = wanted.model_dump(mode="json", exclude_defaults=True) | {"after": page[-1].id}
        following = f"{router.prefix}?{urlencode(query)}"
    return JobPage(jobs=[JobOut(**JobOut.fields_of(job)) for job in page], next=following)


@router.post(
    "/actions",
    operation_id="changeJobs",
    responses=documented(408, 413, 422),
    summary="Cancel, retry or requeue many jobs",
)
def change_many(order: ManyJobs, key: Admin, services: ServicesDep) -> ManyActed:
    """A request changes at most 1,000 jobs, in transactions of 100. Repeat it with `next` until
    that is null; it is safe to repeat at any time. The tasks of retried and requeued jobs are
    published by the workers' sweeper."""
    if not order.filter.model_dump(exclude_defaults=True):
        raise InvalidRequestError("The filter has no condition.")
    given = Order(
        action=order.action,
        which=order.filter.as_filter(key.tenant),
        actor=key.id,
        refused=order.refused,
    )
    if order.dry_run:
        matched = count_chosen(services.database, given)
        return ManyActed(action=order.action, dry_run=True, matched=matched, changed=0, next=None)
    steps = run(services.database, given, after=order.after, step_size=STEP_SIZE, patience_s=0)
    changed, following = 0, None
    for step in islice(steps, _STEPS):
        changed, following = changed + len(step.changed), step.last
    return ManyActed(
        action=order.action, dry_run=False, matched=None, changed=changed, next=following
    )


@router.get(
    "/{job_id}",
    operation_id="getJob",
    responses=documented(404, 422),
    summary="A job, with its images counted",
)
def get(job_id: Id, key: Writer, services: ServicesDep) -> JobDetailsOut:
    """The images themselves are those of the study."""
    with services.database.read() as connection:
        found = listing.get(connection, job_id, tenant=key.tenant)
    if found is None:
        raise JobUnknownError("The tenant has no such job.")
    logs.add(study=found.job.study_id, job=found.job.id)
    return JobDetailsOut(**JobOut.fields_of(found.job), counts=found.counts, codes=found.codes)


@router.post(
    "/{job_id}/{action}",
    operation_id="changeJob",
    responses=documented(404, 408, 409, 413, 422),
    summary="Cancel, retry or requeue a job",
)
def change(
    job_id: Id,
    action: Literal["cancel", "retry", "requeue"],
    key: Writer,
    services: ServicesDep,
    images: Retry | None = None,
) -> Acted:
    """`cancel` ends a queued or running job: its worker records nothing more, and what it has
    recorded stays. `retry` scores the images of an ended job that have no result again, in a new
    job. `requeue` makes a queued job due now. Only `retry` reads a body."""
    wanted = images or Retry()
    order = Order(
        action=Action(action),
        which=JobFilter(code=wanted.code),
        actor=key.id,
        refused=wanted.refused,
    )
    done = act(services.database, order, job_id, tenant=key.tenant)
    logs.add(job=done.id)
    if done.publish is not None:
        services.publisher.publish(done.publish, done.route)
    new = done.publish if order.action is Action.RETRY else None
    return Acted(id=done.id, action=order.action, new_job=new)
