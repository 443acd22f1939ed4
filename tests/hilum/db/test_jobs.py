"""A job's life: leases, fences, counters, and exactly one end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from hilum.db import jobs, studies
from hilum.db.claims import Claim, NotScored, Scored
from hilum.db.connection import Database
from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.studies import ImageState, StudyState, Submission
from hilum.db.tables import items, outbox, results
from hilum.db.tables import jobs as jobs_table
from hilum.errors import (
    CredentialsRejectedError,
    LeaseLostError,
    OutOfMemoryError,
    StorageUnavailableError,
)

Submit = Callable[..., Submission]
StateOf = Callable[[Submission], StudyState]
LEASE_S = 60.0


def _claim(database: Database, job_id: str, *, max_unreported: int = 8) -> Claim | None:
    with database.write() as connection:
        return jobs.claim(connection, job_id, lease_s=LEASE_S, max_unreported=max_unreported)


def _taken(database: Database, job_id: str) -> Claim:
    claim = _claim(database, job_id)
    assert claim is not None
    return claim


def _begin(database: Database, claim: Claim) -> None:
    with database.write() as connection:
        jobs.begin(connection, claim, [claim.pending[0].image_id], lease_s=LEASE_S)


def _set(database: Database, job_id: str, **values: object) -> None:
    with database.write() as connection:
        connection.execute(update(jobs_table).where(jobs_table.c.id == job_id).values(**values))


def _expire(database: Database, job_id: str) -> None:
    """As if the worker had died a while ago."""
    _set(database, job_id, lease_until=datetime.now(UTC) - timedelta(seconds=1))


def _images(database: Database, state: StudyState) -> list[ImageState]:
    with database.read() as connection:
        return studies.list_images(connection, study=state)


def _owed(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(outbox.c.kind).order_by(outbox.c.id)).scalars())


def _count_results(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(results)).scalar_one()


# --- claiming -------------------------------------------------------------------------------


def test_a_claim_hands_out_what_is_pending(database: Database, submit: Submit) -> None:
    claim = _taken(database, submit(images=3).job_id)
    assert (claim.tenant, claim.attempt, claim.deferrals) == ("north", 1, 0)
    assert [image.position for image in claim.pending] == [0, 1, 2]
    assert not any(image.unreported or image.deferred for image in claim.pending)
    assert "s3://" not in repr(claim)


def test_a_held_job_is_not_claimed_again(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    _taken(database, job_id)
    assert _claim(database, job_id) is None


def test_an_unknown_job(database: Database) -> None:
    assert _claim(database, "jb_none") is None


def test_claimers_at_the_same_time(
    database: Database, submit: Submit, race: Callable[..., list[object]]
) -> None:
    job_id = submit().job_id
    found = race(lambda _: _claim(database, job_id))
    assert sorted(type(one).__name__ for one in found) == ["Claim", *["NoneType"] * 5]


def test_claimers_of_a_dead_workers_job_at_the_same_time(
    database: Database, submit: Submit, race: Callable[..., list[object]]
) -> None:
    job_id = submit().job_id
    _taken(database, job_id)
    _expire(database, job_id)
    found = race(lambda _: _claim(database, job_id))
    claims = [one for one in found if isinstance(one, Claim)]
    assert [claim.attempt for claim in claims] == [2]


def test_a_deferred_job_is_not_claimed_before_it_is_due(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    claim = _taken(database, job_id)
    error = StorageUnavailableError("The store did not answer.")
    with database.write() as connection:
        jobs.defer(connection, claim, error, delay_s=3600, images={})
    assert _claim(database, job_id) is None
    _set(database, job_id, available_at=datetime.now(UTC))
    assert _taken(database, job_id).attempt == 2


# --- the fence ------------------------------------------------------------------------------


def test_who_lost_the_lease_writes_nothing(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit(images=2)
    old = _taken(database, submitted.job_id)
    _expire(database, submitted.job_id)
    new = _taken(database, submitted.job_id)
    image_id = old.pending[0].image_id
    error = StorageUnavailableError("The store did not answer.")
    steps: list[Callable[..., object]] = [
        lambda c: jobs.renew(c, old, lease_s=LEASE_S),
        lambda c: jobs.begin(c, old, [image_id], lease_s=LEASE_S),
        lambda c: jobs.record(c, old, [scored(image_id)], lease_s=LEASE_S),
        lambda c: jobs.defer(c, old, error, delay_s=1, images={image_id: error}),
        lambda c: jobs.release(c, old),
        lambda c: jobs.quarantine(c, old, error),
    ]
    for step in steps:
        with pytest.raises(LeaseLostError), database.write() as connection:
            step(connection)
    state = state_of(submitted)
    assert (state.status, state.attempts, state.error) == (JobStatus.RUNNING, 2, None)
    assert state.counts[ItemStatus.PENDING] == 2
    assert _count_results(database) == 0
    assert _owed(database) == []
    with database.write() as connection:
        jobs.record(connection, new, [scored(image_id)], lease_s=LEASE_S)
    assert _count_results(database) == 1


def test_a_job_that_has_ended_takes_no_more(
    database: Database, submit: Submit, scored: Callable[..., Scored]
) -> None:
    submitted = submit()
    claim = _taken(database, submitted.job_id)
    outcome = scored(claim.pending[0].image_id)
    with database.write() as connection:
        assert jobs.record(connection, claim, [outcome], lease_s=LEASE_S)
    with pytest.raises(LeaseLostError), database.write() as connection:
        jobs.record(connection, claim, [outcome], lease_s=LEASE_S)
    assert _claim(database, submitted.job_id) is None
    assert _owed(database) == [Event.JOB_COMPLETED]


# --- outcomes -------------------------------------------------------------------------------


def test_the_last_outcome_ends_the_job(
    database: Database,
    submit: Submit,
    state_of: StateOf,
    scored: Callable[..., Scored],
    refused: Callable[[str], NotScored],
) -> None:
    submitted = submit(images=2)
    claim = _taken(database, submitted.job_id)
    one, two = (image.image_id for image in claim.pending)
    with database.write() as connection:
        assert not jobs.record(connection, claim, [scored(one)], lease_s=LEASE_S)
    assert _owed(database) == []
    with database.write() as connection:
        assert jobs.record(connection, claim, [refused(two)], lease_s=LEASE_S)
    state = state_of(submitted)
    assert (state.status, state.error) == (JobStatus.COMPLETED, None)
    assert state.finished_at is not None
    assert _owed(database) == [Event.JOB_COMPLETED]


def test_an_end_is_kept(
    database: Database,
    submit: Submit,
    state_of: StateOf,
    scored: Callable[..., Scored],
    refused: Callable[[str], NotScored],
) -> None:
    """What is written about an image that has ended already changes nothing."""
    submitted = submit(images=2)
    claim = _taken(database, submitted.job_id)
    one = claim.pending[0].image_id
    with database.write() as connection:
        jobs.record(connection, claim, [refused(one)], lease_s=LEASE_S)
        jobs.record(connection, claim, [scored(one)], lease_s=LEASE_S)
    first, _ = _images(database, state_of(submitted))
    assert (first.status, first.result_id) == (ItemStatus.REFUSED, None)


def test_jobs_over_the_same_images_at_the_same_time(
    database: Database,
    submit: Submit,
    state_of: StateOf,
    scored: Callable[..., Scored],
    race: Callable[..., list[object]],
) -> None:
    """Each job brings the same results, in another order; nobody deadlocks, none is doubled."""
    submissions = [submit(images=8) for _ in range(6)]
    claims = [_taken(database, submitted.job_id) for submitted in submissions]

    def record(n: int) -> bool:
        claim = claims[n]
        outcomes = [scored(image.image_id, image.position) for image in claim.pending]
        order = outcomes[n:] + outcomes[:n]
        with database.write() as connection:
            return jobs.record(connection, claim, order, lease_s=LEASE_S)

    assert race(record) == [True] * 6
    assert _count_results(database) == 8
    shown = [
        tuple(image.result_id for image in _images(database, state_of(submitted)))
        for submitted in submissions
    ]
    assert len(set(shown)) == 1
    assert None not in shown[0]


# --- giving back ----------------------------------------------------------------------------


def test_defer_shows_the_error_and_counts(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit(images=3)
    claim = _taken(database, submitted.job_id)
    ids = [image.image_id for image in claim.pending]
    error = CredentialsRejectedError("The store does not accept the credentials.")
    memory = OutOfMemoryError("There was not enough memory for this image.")
    with database.write() as connection:
        jobs.begin(connection, claim, ids[:2], lease_s=LEASE_S)
        jobs.defer(connection, claim, error, delay_s=-1, images={ids[0]: error, ids[1]: memory})
    state = state_of(submitted)
    assert state.status is JobStatus.QUEUED
    assert state.error == error.body()
    shown = _images(database, state)
    assert [image.error and image.error["code"] for image in shown] == [
        "storage.credentials_rejected",
        "internal.out_of_memory",
        None,
    ]
    again = _taken(database, submitted.job_id)
    assert again.deferrals == 1
    assert again.failing_since is not None
    assert [image.deferred for image in again.pending] == [True, True, False]
    assert [image.unreported for image in again.pending] == [0, 0, 0]
    # The trouble is over: nothing is left of it.
    with database.write() as connection:
        jobs.record(connection, again, [scored(ids[0])], lease_s=LEASE_S)
        jobs.release(connection, again)
    after = _taken(database, submitted.job_id)
    assert (after.deferrals, after.failing_since) == (0, None)
    assert _images(database, state)[0].error is None


def test_trouble_is_dated_from_its_first_error(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    error = StorageUnavailableError("The store did not answer.")
    dates = []
    for _ in range(3):
        claim = _taken(database, job_id)
        dates.append(claim.failing_since)
        with database.write() as connection:
            jobs.defer(connection, claim, error, delay_s=-1, images={})
    assert dates[0] is None
    assert dates[1] == dates[2]


def test_release_is_no_failure(database: Database, submit: Submit, state_of: StateOf) -> None:
    submitted = submit()
    claim = _taken(database, submitted.job_id)
    with database.write() as connection:
        jobs.release(connection, claim)
    state = state_of(submitted)
    assert (state.status, state.error) == (JobStatus.QUEUED, None)
    assert _taken(database, submitted.job_id).deferrals == 0


# --- the end of patience --------------------------------------------------------------------


def test_quarantine_keeps_what_was_scored(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit(images=3)
    claim = _taken(database, submitted.job_id)
    ids = [image.image_id for image in claim.pending]
    memory = OutOfMemoryError("There was not enough memory for this image.")
    error = StorageUnavailableError("The store did not answer.")
    with database.write() as connection:
        jobs.record(connection, claim, [scored(ids[0])], lease_s=LEASE_S)
        jobs.defer(connection, claim, memory, delay_s=-1, images={ids[1]: memory})
    with database.write() as connection:
        last = jobs.claim(connection, submitted.job_id, lease_s=LEASE_S, max_unreported=8)
        assert last is not None
        jobs.quarantine(connection, last, error)
    state = state_of(submitted)
    assert (state.status, state.error) == (JobStatus.FAILED, error.body())
    shown = _images(database, state)
    assert [image.status for image in shown] == ["scored", "failed", "failed"]
    assert [image.error and image.error["code"] for image in shown] == [
        None,
        "internal.out_of_memory",
        "storage.unavailable",
    ]
    assert _owed(database) == [Event.JOB_FAILED]
    assert _claim(database, submitted.job_id) is None


def test_a_job_that_kills_its_workers_is_quarantined(
    database: Database, submit: Submit, state_of: StateOf
) -> None:
    submitted = submit()
    for _ in range(3):
        claim = _claim(database, submitted.job_id, max_unreported=3)
        assert claim is not None
        _begin(database, claim)
        _expire(database, submitted.job_id)
    assert _claim(database, submitted.job_id, max_unreported=3) is None
    state = state_of(submitted)
    assert state.status is JobStatus.FAILED
    assert state.error is not None
    assert state.error["code"] == "job.attempts_exhausted"
    assert _owed(database) == [Event.JOB_FAILED]


def test_being_alive_is_not_reporting_back(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    for _ in range(3):
        claim = _claim(database, job_id, max_unreported=3)
        assert claim is not None
        _begin(database, claim)
        with database.write() as connection:
            jobs.renew(connection, claim, lease_s=LEASE_S)
        _expire(database, job_id)
    assert _claim(database, job_id, max_unreported=3) is None


def test_a_death_before_the_first_image_is_not_the_jobs(database: Database, submit: Submit) -> None:
    """A worker has several jobs in hand, and dies over one of them."""
    job_id = submit().job_id
    for _ in range(5):
        assert _claim(database, job_id, max_unreported=3) is not None
        _expire(database, job_id)


def test_an_orderly_end_is_refunded(database: Database, submit: Submit) -> None:
    job_id = submit(images=2).job_id
    for _ in range(5):
        claim = _claim(database, job_id, max_unreported=3)
        assert claim is not None
        assert [image.unreported for image in claim.pending] == [0, 0]
        _begin(database, claim)
        with database.write() as connection:
            jobs.release(connection, claim, refunded=[claim.pending[0].image_id])


def test_progress_clears_the_jobs_counter(
    database: Database, submit: Submit, scored: Callable[..., Scored]
) -> None:
    job_id = submit(images=9).job_id
    for n in range(6):
        claim = _claim(database, job_id, max_unreported=2)
        assert claim is not None, n
        with database.write() as connection:
            jobs.record(connection, claim, [scored(claim.pending[0].image_id, n)], lease_s=LEASE_S)
        _expire(database, job_id)


def test_who_was_on_the_table_is_remembered(database: Database, submit: Submit) -> None:
    """A death marks the images begun; another image's trouble later does not clear them."""
    job_id = submit(images=3).job_id
    claim = _taken(database, job_id)
    ids = [image.image_id for image in claim.pending]
    with database.write() as connection:
        jobs.begin(connection, claim, ids[:2], lease_s=LEASE_S)
    _expire(database, job_id)
    claim = _taken(database, job_id)
    assert [image.unreported for image in claim.pending] == [1, 1, 0]
    error = StorageUnavailableError("The store did not answer.")
    with database.write() as connection:
        jobs.begin(connection, claim, ids[2:], lease_s=LEASE_S)
        jobs.defer(connection, claim, error, delay_s=-1, images={ids[2]: error})
    claim = _taken(database, job_id)
    assert [image.unreported for image in claim.pending] == [1, 1, 0]


def test_lease_and_counters_stand_in_one_row(database: Database, submit: Submit) -> None:
    """``begin`` renews the lease too, so that a slow batch is not taken away at its start."""
    job_id = submit().job_id
    claim = _taken(database, job_id)
    _set(database, job_id, lease_until=datetime.now(UTC) + timedelta(seconds=1))
    with database.write() as connection:
        jobs.begin(connection, claim, [claim.pending[0].image_id], lease_s=LEASE_S)
    with database.read() as connection:
        both = select(jobs_table.c.lease_until, items.c.unreported).join_from(
            jobs_table, items, items.c.job_id == jobs_table.c.id
        )
        row = connection.execute(both).one()
    assert row.lease_until > datetime.now(UTC) + timedelta(seconds=LEASE_S / 2)
    assert row.unreported == 1


# --- publishing -----------------------------------------------------------------------------


def test_mark_published_is_too_late_for_a_claimed_job(database: Database, submit: Submit) -> None:
    """Else a job that was deferred in the meantime would look published, and wait."""
    early, late = submit().job_id, submit().job_id
    claim = _taken(database, late)
    with database.write() as connection:
        jobs.release(connection, claim)
        jobs.mark_published(connection, early)
        jobs.mark_published(connection, late)
    with database.read() as connection:
        query = select(jobs_table.c.id).where(jobs_table.c.published_at.is_not(None))
        assert connection.execute(query).scalars().all() == [early]
