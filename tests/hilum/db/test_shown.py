"""What a study shows while it is scored again, by whom, and with which model in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_package

from hilum.db import jobs, models, serving, studies
from hilum.db.claims import NotScored, Scored
from hilum.db.connection import Database
from hilum.db.results import NewResult
from hilum.db.serving import Canary
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.studies import ImageState, StudyState, Submission
from hilum.errors import StorageUnavailableError
from hilum.queue import Queue

Outcome = Callable[[str], Scored | NotScored]


class Scene:
    """One study of two images, its jobs and what it shows."""

    def __init__(
        self, database: Database, submit: Callable[..., Submission], new: Callable[..., NewResult]
    ) -> None:
        self.database = database
        self._new = new
        self.made = submit(images=2)

    def again(self, *, campaign: str | None = None, model_id: int | None = None) -> str:
        """Another job for all images."""
        ids = [image.id for image in self.images()]
        with self.database.write() as connection:
            return studies.add_job(
                connection,
                tenant="north",
                study_id=self.made.study_id,
                image_ids=ids,
                queue=Queue.BULK,
                model_id=model_id,
                campaign_id=campaign,
            )

    def work(self, job_id: str, *outcomes: Outcome, model_id: int | None = None) -> None:
        """End the first images of the job; give it back if any are left."""
        with self.database.write() as connection:
            claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=8, model_id=model_id)
            assert claim is not None
            ended = [
                outcome(image.image_id)
                for outcome, image in zip(outcomes, claim.pending, strict=False)
            ]
            if not jobs.record(connection, claim, ended, lease_s=60):
                jobs.release(connection, claim)

    def give_up(self, job_id: str) -> None:
        """The job ends in quarantine."""
        with self.database.write() as connection:
            claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=8)
            assert claim is not None
            jobs.quarantine(connection, claim, StorageUnavailableError("The store is away."))

    def score(self, film: int, **fields: object) -> Outcome:
        """Films of another number are other objects."""
        return lambda image_id: Scored(image_id=image_id, result=self._new(film, **fields))

    def state(self) -> StudyState:
        """Of the study."""
        with self.database.read() as connection:
            state = studies.get(connection, tenant="north", study_id=self.made.study_id)
        assert state is not None
        return state

    def images(self) -> list[ImageState]:
        """Of the study, as they are shown; the same one by one."""
        state = self.state()
        with self.database.read() as connection:
            shown = studies.list_images(connection, study=state)
            alone = [studies.get_image(connection, study=state, image_id=i.id) for i in shown]
        assert shown == alone
        counted = [image.status for image in shown]
        assert {s: counted.count(s) for s in ItemStatus} == state.counts
        return shown

    def results(self) -> list[int | None]:
        """Of the images."""
        return [image.result_id for image in self.images()]


@pytest.fixture
def scene(
    database: Database, submit: Callable[..., Submission], new_result: Callable[..., NewResult]
) -> Scene:
    """A study that was not scored yet."""
    return Scene(database, submit, new_result)


@pytest.fixture
def second_model(database: Database, tmp_path: Path) -> int:
    """Another registered model."""
    manifest = tiny_package.build(tmp_path / "second", version="2.0.0")
    with database.write() as connection:
        return models.register(connection, **manifest.registration())


def test_a_second_job_of_a_completed_study_hides_nothing(scene: Scene) -> None:
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    assert scene.results() == [1, 2]
    first = scene.state()
    second = scene.again()
    assert scene.state() == first
    assert scene.results() == [1, 2]
    # One by one, as the new results come; until the last the study is what it was.
    scene.work(second, scene.score(1, content_sha256=b"n" * 32))
    assert scene.results() == [3, 2]
    assert scene.state() == first
    scene.work(second, scene.score(2, content_sha256=b"m" * 32))
    assert scene.results() == [3, 4]
    state = scene.state()
    assert (state.job_id, state.queue, state.status) == (second, Queue.BULK, JobStatus.COMPLETED)


def test_a_refusal_is_news_and_giving_up_is_not(
    scene: Scene, refused: Callable[[str], NotScored]
) -> None:
    """A film that a corrected policy refuses must not keep its numbers."""
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    second = scene.again()
    scene.work(second, refused)
    scene.give_up(second)
    one, two = scene.images()
    assert (one.status, one.result_id) == (ItemStatus.REFUSED, None)
    assert one.error is not None
    assert (two.status, two.result_id, two.error) == (ItemStatus.SCORED, 2, None)
    assert scene.state().status is JobStatus.COMPLETED


def test_a_refusal_is_news_under_a_model_in_force_too(
    scene: Scene, model_id: int, refused: Callable[[str], NotScored]
) -> None:
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    _serve(scene.database, model_id)
    second = scene.again()
    scene.work(second, refused, scene.score(2))
    one, two = scene.images()
    assert (one.status, one.result_id) == (ItemStatus.REFUSED, None)
    assert one.error is not None
    assert (two.status, two.result_id) == (ItemStatus.SCORED, 2)
    # Until a later job scores it.
    scene.work(scene.again(), scene.score(1), scene.score(2))
    assert scene.results() == [1, 2]


def test_a_study_that_was_given_up_is_queued_again(scene: Scene) -> None:
    scene.work(scene.made.job_id, scene.score(1))
    scene.give_up(scene.made.job_id)
    assert scene.state().status is JobStatus.FAILED
    second = scene.again()
    state = scene.state()
    assert (state.job_id, state.status) == (second, JobStatus.QUEUED)
    assert [image.status for image in scene.images()] == [ItemStatus.SCORED, ItemStatus.PENDING]


def test_a_campaign_is_not_shown_before_its_model_is_in_force(
    scene: Scene, model_id: int, second_model: int, refused: Callable[[str], NotScored]
) -> None:
    scene.work(scene.made.job_id, scene.score(1), refused)
    before = scene.state(), scene.images()
    campaign = scene.again(campaign="ca_1", model_id=second_model)
    assert (scene.state(), scene.images()) == before
    newer = {"model_id": second_model}
    scene.work(campaign, scene.score(1, **newer), scene.score(2, **newer), model_id=second_model)
    assert (scene.state(), scene.images()) == before

    _serve(scene.database, second_model)
    assert scene.results() == [2, 3]
    assert all(image.status is ItemStatus.SCORED for image in scene.images())
    assert all(image.error is None for image in scene.images())
    assert scene.state().job_id == scene.made.job_id
    # Back: the campaign's results go, and what was there is there.
    _serve(scene.database, model_id)
    assert (scene.state(), scene.images()) == before
    _serve(scene.database, second_model)
    _serve(scene.database, None)
    assert (scene.state(), scene.images()) == before


def test_other_tenants_models_and_objects_do_not_matter(
    scene: Scene, second_model: int, new_result: Callable[..., NewResult]
) -> None:
    from hilum.db import results

    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    with scene.database.write() as connection:
        other = new_result(1, model_id=second_model)
        results.save(connection, tenant="south", result=other)
        changed = new_result(1, model_id=second_model, content_sha256=b"c" * 32)
        results.save(connection, tenant="north", result=changed)
        serving.set_serving(connection, tenant="south", model_id=second_model)
    assert scene.results() == [1, 2]
    _serve(scene.database, second_model)
    assert scene.results() == [1, 2]


def test_a_canary_shows_a_share_of_the_studies(
    scene: Scene, model_id: int, second_model: int
) -> None:
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    newer = {"model_id": second_model}
    campaign = scene.again(campaign="ca_1", model_id=second_model)
    scene.work(campaign, scene.score(1, **newer), scene.score(2, **newer), model_id=second_model)
    place = serving.position_of(scene.made.study_id)
    for share, shown in ((0.0, [1, 2]), (place, [1, 2]), (place + 1e-6, [3, 4]), (1.0, [3, 4])):
        canary = Canary(model_id=second_model, share=min(share, 1.0))
        _serve(scene.database, model_id, canary)
        assert scene.results() == shown, share
    with scene.database.read() as connection:
        found = serving.get(connection, "north")
        assert serving.get(connection, "south") is None
    assert found is not None
    assert (found.model_id, found.canary) == (model_id, canary)


def test_where_the_canary_has_no_result_the_model_in_force_is_shown(
    scene: Scene, model_id: int, second_model: int, tmp_path: Path
) -> None:
    """Not the older result of the study's own job: a canary must not take back a promotion."""
    third = tiny_package.build(tmp_path / "third", version="3.0.0")
    with scene.database.write() as connection:
        third_model = models.register(connection, **third.registration())
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    for number, model in enumerate((second_model, third_model), start=1):
        campaign = scene.again(campaign=f"ca_{number}", model_id=model)
        films = (1, 2) if model == second_model else (1,)
        outcomes = [scene.score(film, model_id=model) for film in films]
        scene.work(campaign, *outcomes, model_id=model)
    _serve(scene.database, second_model, Canary(model_id=third_model, share=1.0))
    assert scene.results() == [5, 4]
    _serve(scene.database, second_model, Canary(model_id=third_model, share=0.0))
    assert scene.results() == [3, 4]


def test_shares_are_those_of_the_studies() -> None:
    places = [serving.position_of(f"st_{n}") for n in range(4000)]
    for share in (0.05, 0.5):
        assert sum(place < share for place in places) / len(places) == pytest.approx(
            share, abs=0.03
        )
    with pytest.raises(ValueError, match="share"):
        Canary(model_id=1, share=1.5)


def test_a_film_of_an_older_pipeline_gets_a_new_result_when_it_comes_again(
    scene: Scene, model_id: int, submit: Callable[..., Submission]
) -> None:
    scene.work(scene.made.job_id, scene.score(1), scene.score(2))
    newer = {"pipeline": "0003-0000000000000000"}
    later = Scene(scene.database, submit, scene._new)
    later.work(later.made.job_id, later.score(1, **newer), later.score(2))
    assert later.results() == [3, 2]
    # Each study shows what its own job has made, unless the model is in force.
    assert scene.results() == [1, 2]
    _serve(scene.database, model_id)
    assert scene.results() == [3, 2]
    # A worker of the release before brings a result of the old pipeline later: not the newest.
    last = Scene(scene.database, submit, scene._new)
    last.work(last.made.job_id, last.score(4, **newer), last.score(5), model_id=model_id)
    again = Scene(scene.database, submit, scene._new)
    again.work(again.made.job_id, again.score(4), again.score(5), model_id=model_id)
    assert again.results() == last.results()


def _serve(database: Database, model_id: int | None, canary: Canary | None = None) -> None:
    with database.write() as connection:
        serving.set_serving(connection, tenant="north", model_id=model_id, canary=canary)
