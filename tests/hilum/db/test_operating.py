"""Operators cancel, retry and requeue jobs, one or very many, beside running workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, insert, select, update

from hilum.commands.jobs import jobs as command
from hilum.db import audit, jobs, models, studies, sweeper
from hilum.db.claims import Claim, NotScored, Scored
from hilum.db.connection import Database
from hilum.db.operating import steps as steps_module
from hilum.db.operating.filters import JobFilter
from hilum.db.operating.listing import JobState, get, list_jobs
from hilum.db.operating.run import act, count_chosen, run
from hilum.db.operating.steps import Action, Changed, Order
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.studies import StudyState, Submission
from hilum.db.tables import audit as audit_table
from hilum.db.tables import campaigns, items, outbox
from hilum.db.tables import jobs as table
from hilum.errors import (
    HilumError,
    JobStateError,
    JobUnknownError,
    LeaseLostError,
    NotDicomError,
    NothingToRetryError,
    ObjectMissingError,
    StorageUnavailableError,
    UnexpectedError,
)
from hilum.queue import Queue

Submit = Callable[..., Submission]
StateOf = Callable[[Submission], StudyState]


def _order(action: str, *, refused: bool = False, **which: Any) -> Order:
    return Order(action=Action(action), which=JobFilter(**which), actor="cli:test", refused=refused)


def _act(database: Database, action: str, job_id: str, **more: Any) -> Changed:
    tenant = more.pop("tenant", "north")
    return act(database, _order(action, **more), job_id, tenant=tenant)


def _all(database: Database, action: str, **more: Any) -> int:
    return sum(len(step.changed) for step in run(database, _order(action, **more)))


def _claim(database: Database, job_id: str) -> Claim:
    with database.write() as connection:
        claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=8)
    assert claim is not None
    return claim


def _record(database: Database, claim: Claim, *outcomes: Scored | NotScored) -> bool:
    with database.write() as connection:
        return jobs.record(connection, claim, outcomes, lease_s=60)


def _end(database: Database, job_id: str, *errors: HilumError) -> list[str]:
    """End each image of the job with its error; returns the images."""
    claim = _claim(database, job_id)
    outcomes = []
    for image, error in zip(claim.pending, errors, strict=True):
        failed = isinstance(error, UnexpectedError)
        status = ItemStatus.FAILED if failed else ItemStatus.REFUSED
        outcomes.append(NotScored(image_id=image.image_id, status=status, error=error))
    assert _record(database, claim, *outcomes)
    return [image.image_id for image in claim.pending]


def _quarantine(database: Database, job_id: str) -> None:
    claim = _claim(database, job_id)
    with database.write() as connection:
        jobs.quarantine(connection, claim, StorageUnavailableError("The store did not answer."))


def _list(database: Database, **which: Any) -> list[JobState]:
    with database.read() as connection:
        return list_jobs(connection, JobFilter(**which))


def _ids(database: Database, **which: Any) -> list[str]:
    return [job.id for job in _list(database, **which)]


def _audited(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    with database.read() as connection:
        audit.verify(connection)
        columns = (audit_table.c.action, audit_table.c.object, audit_table.c.detail)
        found = connection.execute(select(*columns).order_by(audit_table.c.id))
        return [tuple(row) for row in found]


# --- cancelling -----------------------------------------------------------------------------


def test_a_queued_job_is_cancelled(database: Database, submit: Submit, state_of: StateOf) -> None:
    submitted = submit(images=2)
    job_id = submitted.job_id
    _act(database, "cancel", job_id)
    state = state_of(submitted)
    assert state.status is JobStatus.FAILED
    assert state.error is not None
    assert state.error["code"] == "job.cancelled"
    assert state.counts[ItemStatus.FAILED] == 2
    assert state.finished_at is not None
    with database.write() as connection:
        assert jobs.claim(connection, submitted.job_id, lease_s=60, max_unreported=8) is None
        assert sweeper.take_due(connection, grace_s=0) == []
        assert connection.execute(select(outbox.c.kind)).scalars().all() == ["job.failed"]
    assert _audited(database) == [
        (
            "job.cancelled",
            submitted.job_id,
            {"filter": {"tenant": "north"}, "jobs": [submitted.job_id]},
        )
    ]
    _act(database, "cancel", submitted.job_id)  # again: nothing changes, nothing is audited
    assert len(_audited(database)) == 1


def test_the_worker_of_a_cancelled_job_writes_nothing_more(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit(images=3)
    claim = _claim(database, submitted.job_id)
    first, second, _ = claim.pending
    _record(database, claim, scored(first.image_id, seed=1))
    _act(database, "cancel", submitted.job_id)
    error = StorageUnavailableError("The store did not answer.")
    steps: list[Callable[[Any], object]] = [
        lambda c: jobs.renew(c, claim, lease_s=60),
        lambda c: jobs.begin(c, claim, [second.image_id], lease_s=60),
        lambda c: jobs.record(c, claim, [scored(second.image_id, seed=2)], lease_s=60),
        lambda c: jobs.defer(c, claim, error, delay_s=1, images={}),
        lambda c: jobs.release(c, claim),
        lambda c: jobs.quarantine(c, claim, error),
    ]
    for step in steps:
        with pytest.raises(LeaseLostError), database.write() as connection:
            step(connection)
    state = state_of(submitted)
    assert state.status is JobStatus.FAILED
    assert (state.counts[ItemStatus.SCORED], state.counts[ItemStatus.FAILED]) == (1, 2)
    with database.write() as connection:
        assert sweeper.expire_leases(connection) == 0


def test_a_completed_study_stays_so_when_its_next_job_is_cancelled(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit()
    claim = _claim(database, submitted.job_id)
    (image,) = claim.pending
    _record(database, claim, scored(image.image_id))
    with database.write() as connection:
        job_id = studies.add_job(
            connection,
            tenant="north",
            study_id=submitted.study_id,
            image_ids=[image.image_id],
            queue=Queue.BULK,
        )
    _act(database, "cancel", job_id)
    state = state_of(submitted)
    assert (state.status, state.counts[ItemStatus.SCORED]) == (JobStatus.COMPLETED, 1)


@pytest.mark.parametrize("action", ["cancel", "requeue"])
def test_a_job_that_has_ended_is_not_cancelled(
    database: Database, submit: Submit, action: str
) -> None:
    job_id = submit().job_id
    _end(database, job_id, NotDicomError("No."))
    with pytest.raises(JobStateError, match="is completed"):
        _act(database, action, job_id)


def test_another_tenants_job_does_not_exist(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    for action in Action:
        for tenant, id in (("south", job_id), ("north", "jb_none"), (None, "jb_none")):
            with pytest.raises(JobUnknownError):
                _act(database, action, id, tenant=tenant)
    assert _act(database, "cancel", job_id, tenant=None).id == job_id
    with database.read() as connection:
        assert get(connection, job_id, tenant="south") is None


# --- retrying -------------------------------------------------------------------------------


def test_a_quarantined_job_is_retried_with_new_counters(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    submitted = submit(images=3, queue=Queue.STAT)
    claim = _claim(database, submitted.job_id)
    _record(database, claim, scored(claim.pending[0].image_id))
    error = StorageUnavailableError("The store did not answer.")
    with database.write() as connection:
        jobs.quarantine(connection, claim, error)
    assert _ids(database, quarantined=True) == [submitted.job_id]
    changed = _act(database, "retry", submitted.job_id)
    assert (changed.id, changed.route) == (submitted.job_id, "stat")
    assert changed.publish is not None
    assert _ids(database, quarantined=True) == []
    state = state_of(submitted)
    assert (state.status, state.job_id) == (JobStatus.QUEUED, changed.publish)
    assert (state.counts[ItemStatus.SCORED], state.counts[ItemStatus.PENDING]) == (1, 2)
    again = _claim(database, changed.publish)
    assert (again.attempt, again.deferrals, again.failing_since) == (1, 0, None)
    assert [image.position for image in again.pending] == [1, 2]
    assert not any(image.unreported or image.deferred for image in again.pending)
    assert _record(database, again, *(scored(i.image_id, seed=9) for i in again.pending))
    state = state_of(submitted)
    assert (state.status, state.counts[ItemStatus.SCORED]) == (JobStatus.COMPLETED, 3)
    (action, of, detail), *_ = _audited(database)
    assert (action, of) == ("job.retried", submitted.job_id)
    assert detail["new_jobs"] == [changed.publish]
    with database.read() as connection:
        kinds = connection.execute(select(outbox.c.kind).order_by(outbox.c.id)).scalars().all()
    assert kinds == ["job.failed", "job.completed"], "each job is reported once"


def test_which_images_are_tried_again(
    database: Database, submit: Submit, state_of: StateOf, scored: Callable[..., Scored]
) -> None:
    """Missing and failed ones; refused ones only when asked."""
    submitted = submit(images=3)
    missing, refused, failed = _end(
        database,
        submitted.job_id,
        ObjectMissingError("No."),
        NotDicomError("No."),
        UnexpectedError("No."),
    )
    first = _act(database, "retry", submitted.job_id).publish
    assert first is not None
    claim = _claim(database, first)
    assert [image.image_id for image in claim.pending] == [missing, failed]
    state = state_of(submitted)
    assert state.status is JobStatus.COMPLETED, "as before, until the new outcomes are there"
    assert state.counts[ItemStatus.REFUSED] == 2
    assert _record(database, claim, scored(missing, seed=1), scored(failed, seed=2))
    state = state_of(submitted)
    assert (state.counts[ItemStatus.SCORED], state.counts[ItemStatus.REFUSED]) == (2, 1)
    with pytest.raises(NothingToRetryError):
        _act(database, "retry", submitted.job_id)
    with pytest.raises(NothingToRetryError):
        _act(database, "retry", submitted.job_id, code="storage.object_missing")
    second = _act(database, "retry", submitted.job_id, code=NotDicomError.code).publish
    assert second is not None
    assert [image.image_id for image in _claim(database, second).pending] == [refused]
    with pytest.raises(NothingToRetryError):
        _act(database, "retry", submitted.job_id, refused=True)
    with pytest.raises(JobStateError, match="is running"):
        _act(database, "retry", second)


def test_a_cancelled_job_is_retried_when_it_is_named(
    database: Database, submit: Submit, state_of: StateOf
) -> None:
    one, two = submit(), submit()
    _all(database, "cancel", status=JobStatus.QUEUED)
    assert _all(database, "retry", tenant="north") == 0
    assert _ids(database, quarantined=True) == []
    _act(database, "retry", one.job_id)
    assert state_of(one).status is JobStatus.QUEUED
    assert _all(database, "retry", code="job.cancelled") == 1
    assert state_of(two).status is JobStatus.QUEUED
    assert state_of(two).error is None


def test_operators_at_the_same_time_retry_once(
    database: Database, submit: Submit, race: Callable[..., list[object]]
) -> None:
    job_id = submit(images=2).job_id
    _quarantine(database, job_id)
    found = race(lambda _: _act(database, "retry", job_id))
    assert sorted(type(one).__name__ for one in found) == ["Changed", *["NothingToRetryError"] * 5]
    assert len(_ids(database)) == 2


def test_a_retry_stays_bound_and_waits_for_its_model(
    database: Database, model_id: int, submit: Submit
) -> None:
    with database.read() as connection:
        (digest,) = (found.digest for found in models.listing(connection))
    bound = studies.submit(
        database, tenant="north", queue=Queue.BULK, uris=["s3://b/k"], model_id=model_id
    )
    submit()
    assert _ids(database, model=digest) == [bound.job_id]
    _act(database, "cancel", bound.job_id)
    changed = _act(database, "retry", bound.job_id)
    assert changed.publish is not None
    with database.write() as connection:
        assert jobs.claim(connection, changed.publish, lease_s=60, max_unreported=8) is None
    (job,) = _list(database, ids=(changed.publish,))
    assert (job.model, job.status) == (digest, JobStatus.QUEUED)
    assert job.due_at is not None
    assert job.due_at.year < 9999
    with database.write() as connection:
        routes = {due.route for due in sweeper.take_due(connection, grace_s=0)}
    assert changed.route in routes
    assert changed.route != "bulk"


# --- requeueing -----------------------------------------------------------------------------


def test_a_waiting_job_is_due_now_and_published_again(database: Database, submit: Submit) -> None:
    job_id = submit().job_id
    claim = _claim(database, job_id)
    error = StorageUnavailableError("The store did not answer.")
    with pytest.raises(JobStateError, match="is running"):
        _act(database, "requeue", job_id)
    with database.write() as connection:
        jobs.defer(connection, claim, error, delay_s=3600, images={})
        assert sweeper.take_due(connection, grace_s=0) == []
    assert _act(database, "requeue", job_id).publish == job_id
    with database.write() as connection:
        assert [due.job_id for due in sweeper.take_due(connection, grace_s=0)] == [job_id]
        assert sweeper.take_due(connection, grace_s=0) == []
    _act(database, "requeue", job_id)
    with database.write() as connection:
        assert [due.job_id for due in sweeper.take_due(connection, grace_s=0)] == [job_id]


# --- many -----------------------------------------------------------------------------------


def test_many_jobs_go_in_bounded_steps_that_can_be_broken_off(
    database: Database, submit: Submit
) -> None:
    submitted = [submit(images=2) for _ in range(7)]
    _claim(database, submitted[3].job_id)
    order = _order("cancel", tenant="north")
    assert count_chosen(database, order) == 7
    steps = run(database, order, step_size=3)
    assert len(next(steps).changed) == 3
    steps.close()  # as if the operator had stopped the command here
    assert count_chosen(database, order) == 4
    assert [len(step.changed) for step in run(database, order, step_size=3)] == [3, 1]
    assert count_chosen(database, order) == 0
    assert _ids(database, status=JobStatus.FAILED) == [s.job_id for s in reversed(submitted)]
    rows = _audited(database)
    assert [len(detail["jobs"]) for _, _, detail in rows] == [3, 3, 1]
    assert {(action, of) for action, of, _ in rows} == {("job.cancelled", "jobs")}
    assert rows[0][2]["filter"]["tenant"] == "north"


def test_rare_jobs_are_found_behind_many_others(
    database: Database, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step looks at a bounded number of jobs; the next one goes on behind them."""
    monkeypatch.setattr(steps_module, "_WINDOW", 2)
    made = [submit() for _ in range(7)]
    for each in made[:6]:
        _end(database, each.job_id, NotDicomError("No."))
    _end(database, made[6].job_id, ObjectMissingError("No."))
    order = _order("retry", code="storage.object_missing")
    assert count_chosen(database, order) == 1
    steps = [len(step.changed) for step in run(database, order, step_size=1)]
    assert sum(steps) == 1
    assert steps[:3] == [0, 0, 0]
    assert _all(database, "retry", tenant="north") == 0


def test_operators_and_workers_at_the_same_time(
    database: Database,
    submit: Submit,
    scored: Callable[..., Scored],
    race: Callable[..., list[object]],
) -> None:
    """Each job ends once, and only once: completed by a worker, or cancelled."""
    made = [submit() for _ in range(12)]

    def step(n: int) -> None:
        if n % 2:
            _all(database, "cancel", tenant="north")
            return
        for each in made[n // 2 :: 3]:
            with database.write() as connection:
                claim = jobs.claim(connection, each.job_id, lease_s=60, max_unreported=8)
            if claim is None:
                continue
            try:
                _record(database, claim, *(scored(i.image_id, seed=1) for i in claim.pending))
            except LeaseLostError:
                continue

    assert race(step) == [None] * 6
    with database.read() as connection:
        tally = select(table.c.status, func.count().label("number")).group_by(table.c.status)
        ended = {row.status: row.number for row in connection.execute(tally)}
        events = connection.execute(select(outbox.c.job_id)).scalars().all()
        pending = select(func.count()).where(items.c.status == ItemStatus.PENDING)
        assert connection.execute(pending).scalar_one() == 0
    assert sum(ended.values()) == 12
    assert set(ended) <= {JobStatus.COMPLETED, JobStatus.FAILED}
    assert len(events) == len(set(events)) == 12


def test_filters(database: Database, submit: Submit) -> None:
    one, two, three = submit(queue=Queue.STAT), submit(), submit(images=2)
    _end(database, two.job_id, NotDicomError("No."))
    _quarantine(database, three.job_id)
    every = [three.job_id, two.job_id, one.job_id]
    assert _ids(database) == every
    assert _ids(database, queue=Queue.STAT) == [one.job_id]
    assert _ids(database, status=JobStatus.COMPLETED) == [two.job_id]
    assert _ids(database, code=NotDicomError.code) == [two.job_id]
    assert _ids(database, code=StorageUnavailableError.code) == [three.job_id]
    assert _ids(database, quarantined=True) == [three.job_id]
    assert _ids(database, tenant="south") == []
    assert _ids(database, campaign_id="cp_0") == []
    assert _ids(database, model="sha256:0") == []
    now, hour = datetime.now(UTC), timedelta(hours=1)
    assert _ids(database, since=now - hour, until=now + hour) == every
    assert _ids(database, since=now + hour) == _ids(database, until=now - hour) == []
    assert _ids(database, until=datetime(1, 1, 1, tzinfo=UTC)) == []
    assert _ids(database, since=datetime(9999, 12, 31, tzinfo=UTC)) == []
    with database.read() as connection:
        page = list_jobs(connection, JobFilter(), limit=2)
        rest = list_jobs(connection, JobFilter(), after=page[-1].id)
        details = get(connection, three.job_id)
    assert [job.id for job in (*page, *rest)] == every
    assert details is not None
    assert details.counts[ItemStatus.FAILED] == 2
    assert details.codes == {StorageUnavailableError.code: 2}


def test_a_campaigns_job_is_not_retried(database: Database, submit: Submit, model_id: int) -> None:
    now = datetime.now(UTC)
    values = {
        **{"id": "cp_1", "tenant": "north", "name": "n", "selection": {}, "modes": ["all"]},
        **{"model_id": model_id, "preprocess_digest": "0", "pipeline": "0", "status": "running"},
        **{"created_by": "cli:test", "created_at": now, "updated_at": now},
    }
    job_id = submit().job_id
    with database.write() as connection:
        connection.execute(insert(campaigns).values(**values))
        connection.execute(update(table).where(table.c.id == job_id).values(campaign_id="cp_1"))
    assert _ids(database, campaign_id="cp_1") == [job_id]
    assert _all(database, "cancel", campaign_id="cp_1") == 1
    assert _all(database, "retry", code="job.cancelled") == 0
    with pytest.raises(JobStateError, match="campaign"):
        _act(database, "retry", job_id)


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def hilum(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``hilum jobs`` on the database of the test."""
    url = database._engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("HILUM_DATABASE_URL", url.replace("postgresql+psycopg", "postgresql"))

    def hilum(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(command, arguments, input=answer)

    return hilum


def test_the_command_counts_asks_and_acts(
    database: Database, submit: Submit, hilum: Callable[..., Result]
) -> None:
    made = [submit() for _ in range(3)]
    shown = hilum("list", "--json")
    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == [
        each.job_id for each in reversed(made)
    ]
    assert made[2].job_id in hilum("list", "--limit", "1").stdout
    assert made[2].job_id not in hilum("list", "--after", made[2].job_id).stdout
    dry = hilum("cancel", "--tenant", "north", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "3 jobs would be cancelled.\n")
    refused = hilum("cancel", "--tenant", "north", answer="n\n")
    assert refused.exit_code == 1
    assert "Cancel 3 jobs?" in refused.output
    assert hilum("cancel", "--tenant", "north").exit_code == 1, "nobody is there to answer"
    assert len(_ids(database, status=JobStatus.QUEUED)) == 3
    one = hilum("cancel", made[0].job_id)
    assert (one.exit_code, one.stdout) == (0, f"{made[0].job_id}  cancelled\n")
    done = hilum("cancel", "--all", "--yes", "--json")
    assert json.loads(done.stdout) == {
        **{"action": "cancel", "matched": 2, "changed": 2, "dry_run": False}
    }
    detail = hilum("show", made[1].job_id, "--json")
    assert json.loads(detail.stdout)["codes"] == {"job.cancelled": 1}
    assert "1 failed" in hilum("show", made[1].job_id).stdout
    again = hilum("retry", made[0].job_id, made[1].job_id, "jb_none", "--json")
    assert again.exit_code in {0, 3}
    said = [json.loads(line) for line in again.stdout.splitlines()]
    assert said[2]["error"]["code"] == "job.unknown"
    assert {each["new_job"] for each in said[:2]} == set(_ids(database, status=JobStatus.QUEUED))
    assert "3 jobs" not in hilum("requeue", "--queue", "routine", "--yes").stdout


def test_the_command_and_quarantine(
    database: Database, submit: Submit, hilum: Callable[..., Result]
) -> None:
    job_id = submit().job_id
    _quarantine(database, job_id)
    assert hilum("quarantine").stdout.split()[0] == job_id
    assert hilum("release", "--all", "--yes").stdout == "1 jobs retried.\n"
    assert hilum("quarantine").stdout == ""
    for wrong in (
        ["cancel"],
        ["cancel", "jb_1", "--all"],
        ["cancel", "--all", "--tenant", "north"],
        ["list", "--since", "yesterday"],
        ["list", "--tenant", "a\0b"],
        ["show", "a\0b"],
        ["cancel", "a\0b"],
    ):
        assert hilum(*wrong).exit_code == 2, wrong
    assert isinstance(hilum("show", "jb_none").exception, JobUnknownError)
    assert isinstance(hilum("cancel", job_id).exception, JobStateError)
