"""Registering studies: all of it or nothing, and once for each idempotency key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from hilum.db import jobs, studies
from hilum.db.claims import NotScored, Scored
from hilum.db.connection import Database
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.studies import Idempotency, StudyState, Submission
from hilum.db.tables import images
from hilum.db.tables import studies as studies_table
from hilum.errors import IdempotencyKeyReusedError
from hilum.queue import Queue


def test_a_new_study(database: Database, submit: Callable[..., Submission]) -> None:
    submitted = submit(images=3, queue=Queue.STAT)
    assert submitted.created
    with database.read() as connection:
        state = studies.get(connection, tenant="north", study_id=submitted.study_id)
        assert state is not None
        listed = studies.list_images(connection, study=state)
    assert (state.status, state.queue, state.attempts) == (JobStatus.QUEUED, Queue.STAT, 0)
    assert state.counts == {**dict.fromkeys(ItemStatus, 0), ItemStatus.PENDING: 3}
    assert state.created_at.utcoffset() is not None
    assert [image.position for image in listed] == [0, 1, 2]
    assert [image.uri for image in listed] == [f"s3://bucket/{n}.dcm" for n in range(3)]


def test_other_tenants_see_nothing(database: Database, submit: Callable[..., Submission]) -> None:
    submitted = submit()
    with database.read() as connection:
        assert studies.get(connection, tenant="south", study_id=submitted.study_id) is None


def test_images_of_other_studies_are_not_found(
    database: Database,
    submit: Callable[..., Submission],
    state_of: Callable[[Submission], StudyState],
) -> None:
    one, other = state_of(submit()), state_of(submit())
    with database.read() as connection:
        (image,) = studies.list_images(connection, study=other)
        assert studies.get_image(connection, study=one, image_id=image.id) is None
        assert studies.get_image(connection, study=other, image_id=image.id) == image


def test_pages(
    database: Database,
    submit: Callable[..., Submission],
    state_of: Callable[[Submission], StudyState],
) -> None:
    state = state_of(submit(images=5))
    seen, after = [], -1
    with database.read() as connection:
        while page := studies.list_images(connection, study=state, after=after, limit=2):
            assert len(page) <= 2
            seen += [image.position for image in page]
            after = page[-1].position
    assert seen == [0, 1, 2, 3, 4]


def test_states_of_images(
    database: Database,
    submit: Callable[..., Submission],
    state_of: Callable[[Submission], StudyState],
    scored: Callable[..., Scored],
    refused: Callable[[str], NotScored],
) -> None:
    submitted = submit(images=3)
    with database.write() as connection:
        claim = jobs.claim(connection, submitted.job_id, lease_s=60, max_unreported=8)
        assert claim is not None
        first, second, _ = (image.image_id for image in claim.pending)
        jobs.record(connection, claim, [scored(first), refused(second)], lease_s=60)
    state = state_of(submitted)
    assert state.status is JobStatus.RUNNING
    assert state.counts == {
        ItemStatus.PENDING: 1,
        ItemStatus.SCORED: 1,
        ItemStatus.REFUSED: 1,
        ItemStatus.FAILED: 0,
    }
    with database.read() as connection:
        one, two, three = studies.list_images(connection, study=state)
    assert one.result_id is not None
    assert one.error is None
    assert two.error is not None
    assert (two.result_id, two.error["code"]) == (None, "dicom.not_dicom")
    assert (three.status, three.result_id, three.error) == (ItemStatus.PENDING, None, None)


def _count(database: Database) -> tuple[int, int]:
    with database.read() as connection:
        return (
            connection.execute(select(func.count()).select_from(studies_table)).scalar_one(),
            connection.execute(select(func.count()).select_from(images)).scalar_one(),
        )


def test_the_same_key_gives_the_same_study(database: Database) -> None:
    key = Idempotency(key="k", request_sha256=b"1" * 32)

    def submit(idempotency: Idempotency, tenant: str = "north") -> Submission:
        return studies.submit(
            database,
            tenant=tenant,
            queue=Queue.ROUTINE,
            uris=["s3://b/1"],
            idempotency=idempotency,
        )

    first, second = submit(key), submit(key)
    assert (first.created, second.created) == (True, False)
    assert (first.study_id, first.job_id) == (second.study_id, second.job_id)
    with pytest.raises(IdempotencyKeyReusedError):
        submit(Idempotency(key="k", request_sha256=b"2" * 32))
    assert submit(key, tenant="south").created  # keys are a tenant's own
    assert _count(database) == (2, 2)


def test_the_same_key_at_the_same_time(
    database: Database, race: Callable[..., list[object]]
) -> None:
    key = Idempotency(key="k", request_sha256=b"1" * 32)
    results = race(
        lambda _: studies.submit(
            database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"], idempotency=key
        )
    )
    submissions = [result for result in results if isinstance(result, Submission)]
    assert len(submissions) == 6, results
    assert len({submission.study_id for submission in submissions}) == 1
    assert sum(submission.created for submission in submissions) == 1
    assert _count(database) == (1, 1)
