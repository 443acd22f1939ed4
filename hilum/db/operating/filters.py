"""Which jobs an operator means, as conditions of SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, literal_column, or_, select

from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import items, jobs, models
from hilum.errors import JobCancelledError
from hilum.queue import Queue

_CANCELLED: Final = JobCancelledError.code
_LAST_MS: Final = 2**48 - 1


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """The jobs that meet every condition that is given; without any, all jobs."""

    ids: tuple[str, ...] | None = None
    tenant: str | None = None
    status: JobStatus | None = None
    code: str | None = None  # the error of the job, or of one of its images
    queue: Queue | None = None
    model: str | None = None  # the digest of the package that the job is bound to
    campaign_id: str | None = None
    since: datetime | None = None  # created then or later; with a time zone
    until: datetime | None = None  # created before; with a time zone
    # Failed, not cancelled, and with images that no later job has taken over.
    quarantined: bool = False

    @property
    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL over ``jobs``."""
        found = self.conditions_of_jobs
        if self.code is not None:
            own = and_(items.c.job_id == jobs.c.id, items.c.error_code == self.code)
            found.append(or_(jobs.c.error_code == self.code, exists().where(own)))
        if self.quarantined:
            found.append(has_retriable())
        return found

    @property
    def conditions_of_jobs(self) -> list[ColumnElement[bool]]:
        """Those that need the row of the job only, and not those of its images."""
        equal = {
            jobs.c.tenant: self.tenant,
            jobs.c.queue: self.queue,
            jobs.c.campaign_id: self.campaign_id,
        }
        found: list[ColumnElement[bool]] = [
            column == value for column, value in equal.items() if value is not None
        ]
        if self.ids is not None:
            found.append(jobs.c.id.in_(self.ids))
        if self.status is not None:
            found.append(has_status(self.status))
        if self.model is not None:
            bound = select(models.c.id).where(models.c.digest == self.model)
            found.append(jobs.c.model_id.in_(bound))
        # Ids sort by their time, and the primary key makes a range of them cheap.
        if self.since is not None:
            found.append(jobs.c.id >= _first_id(self.since))
        if self.until is not None:
            found.append(jobs.c.id < _first_id(self.until))
        if self.quarantined:
            found += [has_status(JobStatus.FAILED), ~IS_CANCELLED]
        return found


def has_status(*statuses: JobStatus) -> ColumnElement[bool]:
    """The job is in one of these states. As literals, so that partial indexes apply."""
    return jobs.c.status.in_([literal_column(f"'{status.value}'") for status in statuses])


IS_CANCELLED: Final[ColumnElement[bool]] = and_(
    jobs.c.error_code.is_not(None), jobs.c.error_code == _CANCELLED
)


def is_retriable(*, code: str | None = None, refused: bool = False) -> ColumnElement[bool]:
    """An image of a job may be tried again: it has no result, and no later live job of the study
    has taken it over. As SQL over ``items`` joined with ``jobs``.

    Without ``code`` and ``refused``, images that were refused for their content are left out: the
    same code would refuse them again. Images that the store did not give are tried again.

    Args:
        code: only images that ended with this code, or whose job did.
        refused: also images that were refused for their content.
    """
    later, of = items.alias("later"), jobs.alias("of_later")
    taken_over = (
        select(later.c.job_id)
        .join(of, of.c.id == later.c.job_id)
        .where(
            later.c.image_id == items.c.image_id,
            later.c.job_id > items.c.job_id,
            of.c.campaign_id.is_(None),
        )
        .correlate(items)
    )
    failed = items.c.status == ItemStatus.FAILED
    has_ended = items.c.status.in_((ItemStatus.FAILED, ItemStatus.REFUSED))
    if code is not None:
        which = and_(has_ended, or_(items.c.error_code == code, jobs.c.error_code == code))
        which = and_(which, or_(items.c.error_code == code, failed))
    elif refused:
        which = has_ended
    else:
        of_store = items.c.error_code.startswith("storage.", autoescape=True)
        which = or_(failed, and_(items.c.status == ItemStatus.REFUSED, of_store))
    return and_(which, ~taken_over.exists())


def has_retriable(*, code: str | None = None, refused: bool = False) -> ColumnElement[bool]:
    """The job has an image that :func:`is_retriable`."""
    image = select(items.c.image_id).where(
        items.c.job_id == jobs.c.id, is_retriable(code=code, refused=refused)
    )
    return image.correlate(jobs).exists()


def _first_id(moment: datetime) -> str:
    """The smallest id of a job that was created at ``moment`` (:func:`hilum.ids.new_id`)."""
    milliseconds = min(max(int(moment.timestamp() * 1000), 0), _LAST_MS)
    return f"jb_{milliseconds << 80:032x}"
