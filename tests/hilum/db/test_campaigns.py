"""Campaigns on a real database: what is selected, each instance once, pauses, promotions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, insert, select, update

from hilum.campaigns import comparing, creating, page, steps
from hilum.campaigns.creating import Wish
from hilum.campaigns.planning import wilson
from hilum.campaigns.windows import Overlap, Window
from hilum.db import audit, feedback, instances, jobs, serving, studies, workers
from hilum.db.campaigns import notifying, promotions, rows, selection, slices
from hilum.db.campaigns.promotions import Notify
from hilum.db.campaigns.rows import Campaign, NewCampaign
from hilum.db.campaigns.selection import Mode, Selection, Target
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.claims import Claim, NotScored, Scored
from hilum.db.connection import Database
from hilum.db.feedback import Opinion, Verdict
from hilum.db.instances import NewInstance
from hilum.db.results import NewResult, get_many, save
from hilum.db.states import ItemStatus
from hilum.db.studies import Submission
from hilum.db.tables import audit as audit_table
from hilum.db.tables import (
    campaign_items,
    campaigns,
    deliveries,
    images,
    items,
    outbox,
    results,
)
from hilum.db.tables import instances as instances_table
from hilum.db.tables import jobs as jobs_table
from hilum.db.tables import models as models_table
from hilum.db.tables import studies as studies_table
from hilum.db.tables import workers as workers_table
from hilum.errors import (
    CampaignExistsError,
    CampaignStateError,
    CampaignUnknownError,
    ModelUnservedError,
    NothingToRollBackError,
    ObjectMissingError,
    PreprocessingChangedError,
    SelectionUnknownError,
    UnexpectedError,
)
from hilum.packages.load import Package
from hilum.queue import Queue

TENANT = "north"
PIPELINE = "0003-0000000000000000"
OLD = "0002-0000000000000000"


def instance(n: int, **fields: Any) -> NewInstance:
    """The n-th film of an archive."""
    defaults: dict[str, Any] = {
        "sop_instance_uid": f"1.2.1{n:05}",  # ids are in this order
        "series_instance_uid": "1.3",
        "study_instance_uid": "1.4",
        "content_sha256": n.to_bytes(4, "big") * 8,
        "uri": f"s3://archive/{n}.dcm",
        "etag": f'"{n}"',
        "source": "archive",
        "rows": 100,
        "columns": 80,
        "view": "PA",
        "institution": "A" if n % 2 else "B",
        "acquisition_date": date(2024, 1, 1) + timedelta(days=n % 7),
    }
    return NewInstance(**{**defaults, **fields})


class Archive:
    """Instances of a tenant, and a worker that scores what a campaign queues."""

    def __init__(
        self, database: Database, model_id: int, new: Callable[..., NewResult], tiny: Package
    ) -> None:
        self.database = database
        self.model_id = model_id
        self._new = new
        self._tiny = tiny

    @property
    def target(self) -> Target:
        return Target(tenant=TENANT, model_id=self.model_id, pipeline=PIPELINE)

    def enter(self, count: int, **fields: Any) -> None:
        with self.database.write() as connection:
            for some in range(0, count, 500):
                page = range(some, min(some + 500, count))
                seen = [instance(n, **fields) for n in page]
                instances.record(connection, tenant=TENANT, seen=seen)

    def result(self, n: int, **fields: Any) -> NewResult:
        one = instance(n)
        defaults = {
            "model_id": self.model_id,
            "pipeline": PIPELINE,
            "sop_instance_uid": one.sop_instance_uid,
            "content_sha256": one.content_sha256,
        }
        return self._new(n % 251, **{**defaults, **fields})

    def serve(
        self,
        model_id: int | None = None,
        worker_id: str = "wk_1",
        queues: Sequence[str] = (),
    ) -> None:
        with self.database.write() as connection:
            workers.beat(
                connection,
                worker_id,
                model_id=model_id or self.model_id,
                queues=queues or [*Queue],
                processes=1,
                alive_s=60,
            )

    def create(self, *modes: Mode, chosen: Selection | None = None, **fields: Any) -> str:
        new = NewCampaign(
            name="night", selection=chosen or Selection(), modes=modes or (Mode.MISSING,), **fields
        )
        with self.database.write() as connection:
            return rows.create(
                connection, new, self.target, preprocess_digest="p" * 64, actor="test"
            )

    def start(self, campaign_id: str) -> None:
        with self.database.write() as connection:
            rows.set_status(connection, campaign_id, CampaignStatus.RUNNING, actor="test")

    def step(self, campaign_id: str) -> Campaign:
        found = steps.step(self.database, campaign_id)
        assert found is not None
        return found

    def frozen(self, campaign_id: str) -> list[int]:
        """The instances of the campaign, in its order."""
        while self.step(campaign_id).frozen_at is None:
            pass
        query = select(campaign_items.c.instance_id).where(
            campaign_items.c.campaign_id == campaign_id
        )
        with self.database.read() as connection:
            return [*connection.execute(query.order_by(campaign_items.c.position)).scalars()]

    def claims(self) -> Iterator[Claim]:
        """The jobs that a worker of the model finds."""
        query = select(jobs_table.c.id).where(jobs_table.c.status == "queued")
        with self.database.read() as connection:
            found = [*connection.execute(query.order_by(jobs_table.c.id)).scalars()]
        for job_id in found:
            with self.database.write() as connection:
                claim = jobs.claim(
                    connection, job_id, lease_s=60, max_unreported=8, model_id=self.model_id
                )
            if claim is not None:
                yield claim

    def work(self, outcome: Callable[[int], Any] | None = None) -> list[int]:
        """Score all that is queued; the numbers of the films, in the order of work."""
        done = []
        for claim in self.claims():
            ended: list[Scored | NotScored] = []
            for image in claim.pending:
                n = int(image.uri.rpartition("/")[2].removesuffix(".dcm"))
                done.append(n)
                made = outcome(n) if outcome else self.result(n)
                if isinstance(made, NewResult):
                    ended.append(Scored(image_id=image.image_id, result=made))
                else:
                    refused = ItemStatus.REFUSED
                    ended.append(NotScored(image_id=image.image_id, status=refused, error=made))
            with self.database.write() as connection:
                jobs.record(connection, claim, ended, lease_s=60)
        return done

    def finish(self, campaign_id: str, outcome: Callable[[int], Any] | None = None) -> Campaign:
        while (found := self.step(campaign_id)).status is CampaignStatus.RUNNING:
            self.work(outcome)
        return found

    def count(self, table: Any, *where: Any) -> int:
        with self.database.read() as connection:
            return int(
                connection.execute(
                    select(func.count()).select_from(table).where(*where)
                ).scalar_one()
            )

    def standings(self, chosen: Selection | None = None) -> dict[str, int]:
        with self.database.read() as connection:
            found = selection.count(connection, chosen or Selection(), self.target)
        return {
            f"{one.standing}:{one.code}" if one.code else one.standing: one.instances
            for one in found
        }


@pytest.fixture
def archive(
    database: Database, model_id: int, new_result: Callable[..., NewResult], tiny: Package
) -> Archive:
    return Archive(database, model_id, new_result, tiny)


def test_each_instance_is_scored_once_and_the_newest_first(archive: Archive) -> None:
    archive.enter(300)
    archive.serve()
    campaign_id = archive.create(max_in_flight=100)
    order = archive.frozen(campaign_id)
    assert len(order) == len(set(order)) == 300
    with archive.database.read() as connection:
        dates = dict(
            connection.execute(
                select(instances_table.c.id, instances_table.c.acquisition_date)
            ).all()
        )
    assert [dates[each] for each in order] == sorted(dates.values(), reverse=True)
    assert archive.step(campaign_id).queued == 0, "a created campaign waits to be run"
    archive.start(campaign_id)
    done = []
    while (found := archive.step(campaign_id)).status is CampaignStatus.RUNNING:
        assert found.queued <= 100
        done += archive.work()
    assert sorted(done) == list(range(300))
    assert (found.status, found.scored, found.queued, found.waiting) == ("completed", 300, 0, 0)
    assert archive.count(campaign_items, campaign_items.c.result_id.is_not(None)) == 300
    # What carried the work is gone; the results stay.
    for table in (jobs_table, items, images, studies_table, outbox):
        assert archive.count(table) == 0
    assert archive.count(results) == 300
    assert archive.standings() == {"done": 300}


def test_pages_cover_the_selection_exactly_once_while_dates_are_learnt(
    archive: Archive, race: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several planners at once, and an indexer that gives films dates that the first pass is
    past."""
    monkeypatch.setattr(slices.freeze_page, "__kwdefaults__", {"page": 7})
    archive.enter(90)
    with archive.database.write() as connection:
        undated = update(instances_table).where(instances_table.c.id % 3 == 0)
        connection.execute(undated.values(acquisition_date=None))
    campaign_id = archive.create()
    archive.enter(100)  # ten more, which the frozen selection does not contain
    rng = random.Random(4711)

    def plan(n: int) -> None:
        while steps.step(archive.database, campaign_id).frozen_at is None:  # type: ignore[union-attr]
            one = rng.randrange(1, 91)
            day = date(2024, 1, 1) + timedelta(days=rng.randrange(60))
            with archive.database.write() as connection:
                own = update(instances_table).where(instances_table.c.id == one)
                connection.execute(own.values(acquisition_date=day))

    assert race(plan, threads=4) == [None] * 4
    order = archive.frozen(campaign_id)
    assert sorted(order) == list(range(1, 91))
    with archive.database.read() as connection:
        assert rows.get(connection, campaign_id).selected == 90


def test_planners_and_workers_at_once_double_nothing(
    archive: Archive, race: Callable[..., list[Any]]
) -> None:
    archive.enter(200)
    archive.serve()
    campaign_id = archive.create(max_in_flight=70)
    archive.frozen(campaign_id)
    archive.start(campaign_id)

    def run(n: int) -> list[int]:
        done: list[int] = []
        while archive.step(campaign_id).status is CampaignStatus.RUNNING:
            done += archive.work()
        return done

    shares = race(run, threads=4)
    assert all(isinstance(share, list) for share in shares), shares
    assert sorted(itertools.chain(*shares)) == list(range(200))


def test_a_planner_that_dies_in_mid_slice_leaves_nothing_half_done(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.enter(150)
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    add, calls = slices._add_job, itertools.count()

    def die(*arguments: Any) -> str:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return add(*arguments)

    monkeypatch.setattr(slices, "_add_job", die)
    with pytest.raises(KeyboardInterrupt):
        archive.step(campaign_id)
    assert archive.count(jobs_table) == 0
    assert archive.finish(campaign_id).scored == 150
    assert archive.count(results) == 150


def test_modes_and_filters(archive: Archive, submit: Callable[..., Submission]) -> None:
    archive.enter(12)
    archive.serve()

    def outcome(n: int) -> Any:
        if n in (0, 1):
            return ObjectMissingError("The object does not exist.")
        if n == 2:
            return UnexpectedError("…")
        return archive.result(n, pipeline=OLD if n in (3, 4) else PIPELINE)

    first = archive.create(chosen=Selection(until=date(2024, 1, 5)))  # not 5, 6: other days
    archive.frozen(first)
    archive.start(first)
    ended = archive.finish(first, outcome)
    assert (ended.scored, ended.refused, ended.failed) == (7, 3, 0)
    assert ended.codes == {"storage.object_missing": 2, "internal.unexpected": 1}
    standings = archive.standings()
    assert standings == {
        "done": 5,
        "stale": 2,
        "missing": 2,
        "refused:storage.object_missing": 2,
        "refused:internal.unexpected": 1,
    }
    counts = {
        (Mode.MISSING,): {5, 6},
        (Mode.STALE,): {3, 4},
        (Mode.REFUSED,): {0, 1, 2},
        (Mode.MISSING, Mode.STALE): {3, 4, 5, 6},
        (Mode.ALL,): set(range(12)),
    }
    for modes, expected in counts.items():
        campaign_id = archive.create(*modes)
        assert set(archive.frozen(campaign_id)) == {n + 1 for n in expected}
        with archive.database.write() as connection:
            rows.set_status(connection, campaign_id, CampaignStatus.CANCELLED, actor="test")
    by_code = archive.create(Mode.REFUSED, chosen=Selection(codes=("internal.unexpected",)))
    assert archive.frozen(by_code) == [3]
    assert archive.standings()["underway"] == 1
    site = Selection(sites=("A",), since=date(2024, 1, 2), labels=("Effusion",))
    assert archive.standings(site) == {"done": 2, "stale": 1}
    with archive.database.read() as connection:
        wanted = (Mode.MISSING,)
        shown = selection.sample(connection, Selection(), wanted, archive.target, limit=5)
    assert {row["uri"] for row in shown} == {"s3://archive/5.dcm", "s3://archive/6.dcm"}


def test_refusals_by_live_jobs_count_too(
    archive: Archive, refused: Callable[[str], NotScored]
) -> None:
    archive.enter(2)
    made = studies.submit(
        archive.database, tenant=TENANT, queue=Queue.ROUTINE, uris=["s3://archive/1.dcm"]
    )
    with archive.database.write() as connection:
        claim = jobs.claim(connection, made.job_id, lease_s=60, max_unreported=8)
        assert claim is not None
        jobs.record(connection, claim, [refused(claim.pending[0].image_id)], lease_s=60)
    assert archive.standings() == {"missing": 1, "refused:dicom.not_dicom": 1}


@pytest.mark.parametrize(
    "chosen", [{"sites": ("C",)}, {"views": ("LL",)}, {"devices": ("X",)}, {"labels": ("Hump",)}]
)
def test_filters_by_what_does_not_exist(archive: Archive, chosen: Any) -> None:
    archive.enter(1)
    with pytest.raises(SelectionUnknownError), archive.database.read() as connection:
        selection.check(connection, TENANT, Selection(**chosen))


def test_two_campaigns_over_the_same_selection(archive: Archive) -> None:
    archive.enter(4)
    first = archive.create()
    with pytest.raises(CampaignExistsError, match=first):
        archive.create()
    assert len(archive.frozen(first)) == 4
    # One that overlaps gets what the first one does not have.
    assert archive.frozen(archive.create(Mode.MISSING, Mode.STALE)) == []


def test_a_campaign_over_nothing(archive: Archive) -> None:
    campaign_id = archive.create()
    assert archive.frozen(campaign_id) == []
    archive.start(campaign_id)
    found = archive.step(campaign_id)
    assert (found.status, found.error and found.error["code"]) == (
        "completed",
        "campaign.nothing_selected",
    )


def test_pause_withdraws_what_no_worker_has(archive: Archive) -> None:
    archive.enter(200)
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    assert archive.step(campaign_id).queued == 200
    claim = next(archive.claims())
    with archive.database.write() as connection:
        paused = rows.set_status(connection, campaign_id, CampaignStatus.PAUSED, actor="test")
    assert (paused.queued, paused.waiting) == (len(claim.pending), 200 - len(claim.pending))
    assert archive.count(jobs_table) == 1
    ended = []
    for image in claim.pending:
        n = int(image.uri.rpartition("/")[2].removesuffix(".dcm"))
        ended.append(Scored(image_id=image.image_id, result=archive.result(n)))
    with archive.database.write() as connection:
        jobs.record(connection, claim, ended, lease_s=60)
        rows.change(connection, campaign_id, stepped_at=None)  # as if a second had passed
    assert steps.advance(archive.database) == 1
    with archive.database.read() as connection:
        found = rows.get(connection, campaign_id)
    assert (found.status, found.queued, found.scored) == ("paused", 0, len(ended))
    archive.start(campaign_id)
    assert archive.finish(campaign_id).scored == 200
    with pytest.raises(CampaignStateError):
        archive.start(campaign_id)
    with pytest.raises(CampaignUnknownError), archive.database.read() as connection:
        rows.get(connection, campaign_id, tenant="south")


def test_a_campaign_pauses_by_itself_when_too_much_fails(archive: Archive) -> None:
    archive.enter(300)
    campaign_id = archive.create(max_failure_rate=0.2, max_in_flight=100)
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    missing = ObjectMissingError("The object does not exist.")
    found = archive.finish(campaign_id, lambda n: missing if n % 3 == 0 else archive.result(n))
    assert found.status is CampaignStatus.PAUSED
    assert found.error is not None
    assert found.error["code"] == "campaign.failure_rate"
    assert 0 < found.ended < 300
    archive.start(campaign_id)
    assert archive.finish(campaign_id, archive.result).status is CampaignStatus.COMPLETED


def test_a_throttle(archive: Archive) -> None:
    archive.enter(100)
    campaign_id = archive.create(images_per_s=10.0)
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    assert 10 <= archive.step(campaign_id).queued <= 50  # what is due since a second ago
    with archive.database.write() as connection:
        hours_ago = datetime.now(UTC) - timedelta(hours=1)
        rows.change(connection, campaign_id, spent_until=hours_ago)
    assert archive.step(campaign_id).queued < 100, "a pause is not made up for at once"


def test_outside_of_its_window_a_campaign_rests_and_a_missed_one_is_noted(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.enter(10)
    now = datetime.now(UTC)
    open_ = {
        "start": (now - timedelta(hours=1)).strftime("%H:%M"),
        "end": (now + timedelta(hours=1)).strftime("%H:%M"),
        "time_zone": "UTC",
    }
    shut = {
        "start": (now - timedelta(hours=3)).strftime("%H:%M"),
        "end": (now - timedelta(hours=2)).strftime("%H:%M"),
        "time_zone": "UTC",
    }
    campaign_id = archive.create(window=Window.checked(open_).document())
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    assert archive.step(campaign_id).queued == 10
    with archive.database.write() as connection:
        document = Window.checked(shut).document()
        before = now - timedelta(days=2)
        rows.change(connection, campaign_id, window=document, started_at=before)
    for _ in range(2):
        found = archive.step(campaign_id)
        assert (found.queued, found.missed_windows) == (0, 1)
    assert found.missed_at is not None
    assert caplog.text.count("campaign.window_missed") == 1


def test_an_instance_without_address_ends_with_its_error(archive: Archive) -> None:
    archive.enter(3)
    with archive.database.write() as connection:
        one = update(instances_table).where(instances_table.c.id == 2)
        connection.execute(one.values(uri=None))
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    found = archive.finish(campaign_id)
    assert (found.scored, found.failed) == (2, 1)
    assert found.codes == {"instance.address_unknown": 1}
    assert archive.standings() == {"done": 2, "failed:instance.address_unknown": 1}


def test_what_was_scored_meanwhile_is_not_scored_again(archive: Archive) -> None:
    archive.enter(5)
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    with archive.database.write() as connection:
        save(connection, tenant=TENANT, result=archive.result(3))
    archive.start(campaign_id)
    found = archive.step(campaign_id)
    assert (found.scored, found.queued) == (1, 4)
    assert 3 not in archive.work()


def test_a_header_becomes_the_object_that_was_read(archive: Archive) -> None:
    """`hilum index` does not know the digest of the object; the worker tells."""
    with archive.database.write() as connection:
        header = instance(0, content_sha256=b"\x01" * 32, header_only=True)
        instances.record(connection, tenant=TENANT, seen=[header])
    assert archive.standings() == {"missing": 1}
    campaign_id = archive.create()
    assert archive.frozen(campaign_id) == [1]
    archive.start(campaign_id)
    archive.step(campaign_id)
    for claim in archive.claims():
        outcome = Scored(
            image_id=claim.pending[0].image_id, result=archive.result(0), instance=instance(0)
        )
        with archive.database.write() as connection:
            jobs.record(connection, claim, [outcome], lease_s=60)
    assert archive.count(instances_table) == 2
    assert archive.standings() == {"done": 1, "superseded": 1}
    assert archive.step(campaign_id).scored == 1
    assert archive.standings() == {"done": 1}
    assert archive.count(instances_table, instances_table.c.id == 1) == 1


def _other_model(archive: Archive, **changes: Any) -> int:
    """Another row of models: another package, or the same with another preprocessing."""
    with archive.database.write() as connection:
        row = connection.execute(
            select(models_table).where(models_table.c.id == archive.model_id)
        ).one()
        values = {**row._mapping, **changes}
        del values["id"]
        new = insert(models_table).values(**values).returning(models_table.c.id)
        return int(connection.execute(new).scalar_one())


def test_jobs_of_a_preprocessing_that_is_gone_end_with_their_error(
    archive: Archive, submit: Callable[..., Submission]
) -> None:
    archive.enter(3)
    archive.serve()
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    archive.step(campaign_id)
    live = studies.submit(
        archive.database,
        tenant=TENANT,
        queue=Queue.ROUTINE,
        uris=["s3://archive/1.dcm"],
        model_id=archive.model_id,
    )
    newer = _other_model(archive, preprocess_digest="n" * 64)
    archive.serve(newer, "wk_2")
    steps.advance(archive.database)
    with archive.database.read() as connection:
        assert rows.get(connection, campaign_id).status is CampaignStatus.RUNNING
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with archive.database.write() as connection:
        old = update(workers_table).where(workers_table.c.id == "wk_1")
        connection.execute(old.values(alive_until=long_ago))
        connection.execute(update(jobs_table).values(created_at=long_ago))
        connection.execute(update(campaigns).values(stepped_at=None))
    steps.advance(archive.database)
    with archive.database.read() as connection:
        found = rows.get(connection, campaign_id)
        study = studies.get(connection, tenant=TENANT, study_id=live.study_id)
    code = PreprocessingChangedError.code
    assert (found.status, found.error and found.error["code"]) == ("paused", code)
    assert study is not None
    assert (study.status, study.error and study.error["code"]) == ("failed", code)


def test_promotion_changes_one_row_and_is_taken_back(archive: Archive) -> None:
    archive.enter(3)
    archive.serve()
    old_model = _other_model(archive, digest="sha256:" + "0" * 64)
    made = studies.submit(
        archive.database,
        tenant=TENANT,
        queue=Queue.ROUTINE,
        uris=[f"s3://archive/{n}.dcm" for n in range(3)],
    )
    archive.work(lambda n: archive.result(n, model_id=old_model))
    campaign_id = archive.create()
    archive.frozen(campaign_id)

    def shown() -> list[int | None]:
        with archive.database.read() as connection:
            state = studies.get(connection, tenant=TENANT, study_id=made.study_id)
            assert state is not None
            return [one.result_id for one in studies.list_images(connection, study=state)]

    def promote(**options: Any) -> promotions.Promotion:
        with archive.database.write() as connection:
            return promotions.promote(connection, campaign_id, actor="test", **options)

    before = shown()
    with pytest.raises(CampaignStateError):
        promote()
    archive.start(campaign_id)
    assert archive.finish(campaign_id).scored == 3
    assert shown() == before, "a shadow until its promotion"
    with archive.database.write() as connection:
        workers.leave(connection, "wk_1")
    with pytest.raises(ModelUnservedError):
        promote()
    archive.serve(worker_id="wk_2", queues=["bulk"])
    with pytest.raises(ModelUnservedError, match="stat, routine"):
        promote()
    archive.serve()
    events = archive.count(outbox)
    assert promote().before is None
    assert not set(shown()) & set(before)
    assert (archive.count(outbox), archive.count(deliveries)) == (events, 0)
    later = studies.submit(archive.database, tenant=TENANT, queue=Queue.ROUTINE, uris=["s3://x/1"])
    assert later.route.startswith("routine."), "new studies are bound to the model in force"
    with archive.database.write() as connection:
        assert promotions.roll_back(connection, TENANT, actor="test").after is None
    assert shown() == before
    with pytest.raises(NothingToRollBackError), archive.database.write() as connection:
        promotions.roll_back(connection, TENANT, actor="test")
    with archive.database.read() as connection:
        audit.verify(connection)
        actions = connection.execute(select(audit_table.c.action).order_by(audit_table.c.id))
        assert [*actions.scalars()][-2:] == ["model.promoted", "model.rolled_back"]


def test_a_canary_first_then_all(archive: Archive) -> None:
    archive.enter(1)
    archive.serve()
    base = _other_model(archive, digest="sha256:" + "0" * 64)
    archive.serve(base, "wk_base")
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    archive.finish(campaign_id)
    with archive.database.write() as connection:
        made = promotions.promote(connection, campaign_id, actor="test", share=0.25)
    assert made.after is not None
    assert (made.after.model_id, made.after.canary and made.after.canary.share) == (base, 0.25)
    ids = [f"st_{n:032x}" for n in range(400)]
    shares = [made.after.shown(study_id) == archive.model_id for study_id in ids]
    assert 60 < sum(shares) < 140
    with archive.database.write() as connection:
        made = promotions.promote(connection, campaign_id, actor="test")
        assert made.after is not None
        assert (made.after.model_id, made.after.canary) == (archive.model_id, None)
        restored = promotions.roll_back(connection, TENANT, actor="test").after
    assert restored is not None
    assert (restored.model_id, restored.canary and restored.canary.share) == (base, 0.25)


@pytest.mark.parametrize("used", [PIPELINE, "0004-0000000000000000"])
def test_a_newer_pipeline_of_the_model_in_force_is_a_shadow_too(
    archive: Archive, used: str
) -> None:
    """Also if the workers were upgraded after the campaign was created."""
    archive.enter(1)
    archive.serve()
    made = studies.submit(
        archive.database, tenant=TENANT, queue=Queue.ROUTINE, uris=["s3://archive/0.dcm"]
    )
    archive.work(lambda n: archive.result(n, pipeline=OLD))
    with archive.database.write() as connection:
        serving.set_serving(connection, tenant=TENANT, model_id=archive.model_id, pipeline=OLD)
    campaign_id = archive.create(Mode.STALE)
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    outcome = partial(archive.result, pipeline=used)
    assert archive.finish(campaign_id, outcome).scored == 1

    def shown() -> int | None:
        with archive.database.read() as connection:
            state = studies.get(connection, tenant=TENANT, study_id=made.study_id)
            assert state is not None
            return studies.list_images(connection, study=state)[0].result_id

    assert shown() == 1
    with archive.database.write() as connection:
        promotions.promote(connection, campaign_id, actor="test")
    assert shown() == 2


def test_deliveries_only_if_asked_for_and_at_their_rate(archive: Archive) -> None:
    archive.enter(4)
    archive.serve()
    old_model = _other_model(archive, digest="sha256:" + "0" * 64)
    for n in range(4):
        studies.submit(
            archive.database, tenant=TENANT, queue=Queue.ROUTINE, uris=[f"s3://archive/{n}.dcm"]
        )
    archive.work(lambda n: archive.result(n, model_id=old_model))
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    archive.finish(campaign_id)
    with archive.database.write() as connection:
        wish = Notify(destinations=("pacs",), per_minute=2)
        promotions.promote(connection, campaign_id, actor="test", notify=wish)
    steps.advance(archive.database)
    steps.advance(archive.database)
    with archive.database.read() as connection:
        due = [
            *connection.execute(select(deliveries.c.due_at).order_by(deliveries.c.due_at)).scalars()
        ]
        assert notifying.due(connection) == []
    assert len(due) == 4
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(due)]
    assert gaps == pytest.approx([30] * 3, abs=0.01)


def test_a_report_compares_with_what_is_shown(archive: Archive) -> None:
    archive.enter(60, view="AP", institution="Zoe Zebra")
    with archive.database.write() as connection:
        some = update(instances_table).where(instances_table.c.id <= 40)
        connection.execute(some.values(institution="North", sex="F", age_years=50.0))
    old_model = _other_model(archive, digest="sha256:" + "0" * 64)
    shadow = _other_model(archive, digest="sha256:" + "1" * 64)
    labels = archive._tiny.manifest.label_set.labels

    def probability(n: int, *, new: bool) -> Any:
        """Label 1 is gained by films 0 to 9 and lost by films 10 to 14; label 2 never flips."""
        values = np.full(len(labels), 0.1, dtype=np.float32)
        values[1] = 0.9 if (n < 10 if new else 10 <= n < 15) else 0.2
        values[2] = 0.9
        return values

    with archive.database.write() as connection:
        for n in range(60):
            old = {"model_id": old_model, "probability": probability(n, new=False)}
            save(connection, tenant=TENANT, result=archive.result(n, **old))
    # Of a campaign that nobody promoted: newer, and not what is shown.
    with archive.database.write() as connection:
        new = NewCampaign(name="other", selection=Selection(), modes=(Mode.MISSING,))
        target = Target(tenant=TENANT, model_id=shadow, pipeline=PIPELINE)
        rows.create(connection, new, target, preprocess_digest="p", actor="test")
        for n in range(60):
            save(connection, tenant=TENANT, result=archive.result(n, model_id=shadow))
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    ended = archive.finish(
        campaign_id, lambda n: archive.result(n, probability=probability(n, new=True))
    )
    with archive.database.read() as connection:
        found = comparing.compare(connection, ended, films=3)
        fewer = comparing.compare(connection, ended, at_most=20)
    document = found.document
    assert [one["model"] for one in document["compared_with"]] == ["sha256:" + "0" * 64]
    assert (document["pairs"], document["flipped"][0]) == (60, 15)
    one, two = (document["labels"][labels[k]] for k in (1, 2))
    assert (one["gained"][0], one["lost"][0], one["before"], one["after"]) == (10, 5, 5, 10)
    assert (two["gained"][0], two["lost"][0], two["before"], two["psi"]) == (0, 0, 60, 0.0)
    low, high = one["gained"][1:]
    assert low < 10 / 60 < high
    assert one["change"][0] == pytest.approx(5 / 60, abs=1e-6)
    strata = {(each["stratum"], each["value"]): each["n"] for each in document["strata"]}
    assert strata[("site", "North")] == 40
    assert strata[("age", "40-64")] == 40
    assert strata[("site", "Zoe Zebra")] == 20
    assert len(found.changed) == 3
    assert {each.label for each in found.changed} == {labels[1]}
    assert fewer.document["pairs"] == 20
    with archive.database.write() as connection:
        few = update(instances_table).where(instances_table.c.id == 60)
        connection.execute(few.values(institution="North"))
    with archive.database.read() as connection:
        again = comparing.compare(connection, ended).document
    assert "Zoe Zebra" not in str(again), "a stratum so small may name a person"
    text = page.render(found, lambda one: page.Look(before=None, after=None))
    assert "North" in text
    assert document["readers"] is None
    assert "There is no feedback of readers" in text


def test_a_report_shows_how_often_readers_agree(
    archive: Archive, submit: Callable[..., Submission]
) -> None:
    archive.enter(6)
    labels = archive._tiny.manifest.label_set.labels
    old_model = _other_model(archive, digest="sha256:" + "0" * 64)

    def probability(*, found: bool) -> Any:
        return np.full(len(labels), 0.99 if found else 0.01, dtype=np.float32)

    shown = []
    with archive.database.write() as connection:
        for n in range(6):  # the model before finds everything in films 0 to 2
            old = {"model_id": old_model, "probability": probability(found=n < 3), "findings": ()}
            shown.append(save(connection, tenant=TENANT, result=archive.result(n, **old)))
    made = submit()
    with archive.database.read() as connection:
        query = select(images.c.id).where(images.c.study_id == made.study_id)
        image_id = connection.execute(query).scalars().first()
        stored = get_many(connection, shown, maps=False)
    assert image_id is not None

    def say(n: int, reader: str, **present: bool) -> None:
        opinions = [
            Opinion(label=labels[int(k[1:])], verdict=Verdict.CORRECT, present=is_present)
            for k, is_present in present.items()
        ]
        with archive.database.write() as connection:
            feedback.give(
                connection,
                tenant=TENANT,
                study_id=made.study_id,
                image_id=image_id,
                result=stored[shown[n]],
                labels=labels,
                opinions=opinions,
                key_id="key_1",
                reader=reader,
            )

    say(0, "r-1", k1=True, k2=False)
    say(1, "r-1", k1=False)  # replaced by what two others say
    say(1, "r-2", k1=True)
    say(1, "r-3", k1=True)
    say(4, "r-1", k1=True)
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    ended = archive.finish(
        campaign_id, lambda n: archive.result(n, probability=probability(found=n in (0, 1, 4)))
    )
    with archive.database.read() as connection:
        found = comparing.compare(connection, ended)
    readers = found.document["readers"]
    assert set(readers) == {labels[1], labels[2]}
    one, two = readers[labels[1]], readers[labels[2]]
    assert (one["readings"], two["readings"]) == (3, 1)
    # Films 0, 1 and 4 have the finding; 0 and 1 were shown, the campaign finds all three.
    assert one["agrees_before"] == pytest.approx([2 / 3, *wilson(2, 3)])
    assert one["agrees_after"] == pytest.approx([1, *wilson(3, 3)])
    assert (two["agrees_before"][0], two["agrees_after"][0]) == (0, 0)
    text = page.render(found, lambda one: page.Look(before=None, after=None))
    assert "agrees before" in text
    assert "There is no feedback of readers" not in text


@pytest.mark.parametrize("overlap", list(Overlap))
def test_the_next_night(archive: Archive, overlap: Overlap) -> None:
    archive.enter(2)
    night = Window.parse("22:00-06:00", time_zone="UTC", overlap=overlap)
    wish = Wish(
        tenant=TENANT,
        model=None,
        modes=(Mode.MISSING,),
        selection=Selection(),
        name="night",
        window=night,
    )
    today = datetime.now(UTC).replace(hour=23, minute=0)

    def due(now: datetime) -> bool:
        return creating.is_due(archive.database, wish, now=now, actor="test")

    assert not due(today.replace(hour=12))
    assert due(today)
    campaign_id = archive.create()
    archive.frozen(campaign_id)
    archive.start(campaign_id)
    with archive.database.write() as connection:
        rows.change(connection, campaign_id, created_at=today)
    assert not due(today + timedelta(hours=1)), "once a window"
    assert due(today + timedelta(days=1)) is (overlap is not Overlap.SKIP)
    with archive.database.read() as connection:
        status = rows.get(connection, campaign_id).status
    new = NewCampaign(name="night", selection=Selection(), modes=(Mode.MISSING,))
    for refused in (False, True):  # as two timers at once would
        context = pytest.raises(CampaignExistsError) if refused else nullcontext()
        with context, archive.database.write() as connection:
            rows.create(
                connection,
                new,
                archive.target,
                preprocess_digest="p",
                actor="test",
                opened_at=datetime.now(UTC) + timedelta(days=-9 if refused else 9),
            )
    assert status == ("cancelled" if overlap is Overlap.REPLACE else "running")
