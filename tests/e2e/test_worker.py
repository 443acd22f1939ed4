"""Real workers, and what may happen to them: nothing is lost and nothing is doubled."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import psutil
import pytest
from pydicom.data import get_testdata_file
from sqlalchemy import select
from support import tiny_package
from support.tiny_film import film

from hilum.db import results as stored
from hilum.db.identity import IdentityVault
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.studies import Submission
from hilum.db.tables import instances, outbox, results
from hilum.embedded.process import Child, free_ports
from hilum.pipeline.cache import evict
from hilum.queue import Queue
from hilum.settings import PreparedSettings
from worker.app import EXIT_CANNOT_SERVE

if TYPE_CHECKING:
    from .conftest import TENANT, System
else:
    System = Any
    TENANT = "north"

pytestmark = pytest.mark.e2e

# Starting a worker costs seconds of CPU. The statements are tested on both databases elsewhere
# (tests/hilum/db, tests/worker); here one test runs on both, and each other one on one of them.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
POISONED = ("-m", "support.poisoned_worker")


def _in_the_middle(system: System, **environment: str) -> tuple[Child, Submission]:
    """A worker that has scored some of twelve films, and waits for the fifth of them."""
    worker = system.worker(
        module=POISONED,
        HILUM_WORKER__BATCH_SIZE="2",
        HELD_UNTIL=str(system.folder / "go"),
        **environment,
    )
    films = (film(n, rows=65 if n == 4 else 48) for n in range(12))
    made = system.submit([system.put(f"{n}.dcm", data) for n, data in enumerate(films)])
    system.until(made, lambda s: s.counts[ItemStatus.SCORED] > 0)
    return worker, made


def _real(name: str) -> bytes:
    path = get_testdata_file(f"{name}.dcm", download=False)
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def test_good_images_are_scored_and_bad_ones_carry_their_error(system: System) -> None:
    sent = {
        "rg1": (_real("RG1_UNCR"), "scored"),
        "rg1-j2k": (_real("RG1_J2KR"), "scored"),
        "leg": (_real("RG3_UNCR"), "policy.not_chest"),
        "text": (b"This is not DICOM. " * 20, "dicom.not_dicom"),
        "empty": (b"", "dicom.empty"),
        "cut": (film(1)[:-1000], "dicom.truncated"),
        "short": (film(6, PixelData=bytes(1000)), "dicom.truncated"),
        "no-pixels": (film(2, PixelData=None), "dicom.no_pixel_data"),
        "ct": (film(3, Modality="CT"), "policy.wrong_modality"),
        "lateral": (film(4, ViewPosition="LL"), "policy.not_frontal"),
        "fine": (film(5), "scored"),
    }
    uris = [system.put(f"{name}.dcm", data) for name, (data, _) in sent.items()]
    uris.append(f"s3://{system.bucket}/never-uploaded.dcm")
    expected = [outcome for _, outcome in sent.values()] + ["storage.object_missing"]
    (port,) = free_ports(1)
    secret = "i" * 40
    system.worker(
        HILUM_WORKER__METRICS_ADDRESS=f"127.0.0.1:{port}",
        HILUM_WORKER__DECODE_THREADS="2",
        HILUM_IDENTITY__STORE="true",
        HILUM_IDENTITY__SECRET=secret,
    )
    made = system.submit(uris)
    state = system.completed(made)
    images = system.images(made)
    found = [image.error["code"] if image.error else image.status.value for image in images]
    assert found == expected
    assert all(image.error["next_step"] for image in images if image.error)
    assert state.counts[ItemStatus.SCORED] == 3
    assert system.count(outbox) == 1
    with system.database.read() as connection:
        one, other = (stored.get(connection, images[n].result_id or 0) for n in (0, 1))
    assert one is not None
    assert other is not None
    assert (one.probability == other.probability).all(), "the same pixels, encoded differently"
    # Every film that could be opened is known, and with the secret also who it is of.
    vault = IdentityVault(secret)
    name = vault.hash("TEST^FILM", field="patient_name", tenant=TENANT)
    with system.database.read() as connection:
        rows = connection.execute(select(instances).order_by(instances.c.id)).all()
    known = {row.uri.rpartition("/")[2]: row for row in rows}
    assert {*known} == {
        *("rg1.dcm", "rg1-j2k.dcm", "leg.dcm", "short.dcm", "ct.dcm", "lateral.dcm", "fine.dcm")
    }
    assert known["ct.dcm"].modality == "CT"
    assert known["rg1.dcm"].rows == 1955
    assert {row.source for row in rows} == {system.bucket}
    assert all(row.etag for row in rows)
    named = {at for at, row in known.items() if row.patient_name_hash == name}
    assert named == {"short.dcm", "ct.dcm", "lateral.dcm", "fine.dcm"}
    # What the worker says names no object: keys and UIDs may be about patients.
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        numbers = answer.read().decode()
    counted = {code: expected.count(code) for code in set(expected)}
    for code, count in counted.items():
        assert f'hilum_images_total{{code="{code}"}} {count}.0' in numbers
    assert 'hilum_engine_images_total{engine="onnxruntime-cpu"} 3.0' in numbers
    assert 'hilum_engine_info{engine="onnxruntime-cpu",reason="' in numbers
    said = system.logs() + numbers
    for secret in (system.bucket, one.sop_instance_uid, one.study_instance_uid, "TEST^FILM"):
        assert secret not in said


@on_sqlite
def test_films_that_were_prepared_once_are_not_decoded_again(system: System) -> None:
    """A second model with the same preprocessing rescores from what the first one left."""
    uris = [system.put(f"{n}.dcm", film(n, rows=200, columns=150)) for n in range(3)]
    cache = {"HILUM_PREPARED__MODE": "on", "HILUM_PREPARED__SECRET": "s" * 40}
    first = system.worker(**cache)
    one = system.submit(uris)
    system.completed(one)
    first.stop()
    newer = system.folder / "newer"
    manifest = tiny_package.build(newer, version="2.0.0")
    # With this limit every film is refused that has to be opened.
    broken = {"HILUM_LIMITS__MAX_PIXELS": "1", "HILUM_MODEL_URI": str(newer)}
    system.worker(**cache, **broken)
    two = system.submit(uris)
    system.completed(two)
    with system.database.read() as connection:
        old, new = (
            [stored.get(connection, image.result_id or 0) for image in system.images(made)]
            for made in (one, two)
        )
    for before, after in zip(old, new, strict=True):
        assert before is not None
        assert after is not None, "no film may be opened with that limit"
        assert after.model.manifest["version"] == manifest.version == "2.0.0"
        assert (after.probability == before.probability).all()
        assert after.sop_instance_uid == before.sop_instance_uid
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert evict(system.store, PreparedSettings(), system.bucket, before=soon) == 3


@on_sqlite
def test_a_worker_process_killed_in_the_middle(system: System) -> None:
    worker, made = _in_the_middle(system)
    # Beside the pool process there is only multiprocessing's small resource tracker; the decode
    # processes are its children in turn.
    children = psutil.Process(worker.process.pid).children()
    max(children, key=lambda process: process.memory_info().rss).kill()
    system.until_ready(2)
    (system.folder / "go").touch()
    system.expire_leases()
    state = system.completed(made)
    assert state.attempts >= 2, "the job was taken up again"
    system.exactly_once(made, 12)


@on_sqlite
def test_a_package_replaced_under_a_worker_is_not_served_under_the_old_name(
    system: System,
) -> None:
    worker = system.worker()
    shutil.rmtree(system.package)
    tiny_package.build(system.package, version="2.0.0")
    children = psutil.Process(worker.process.pid).children()
    max(children, key=lambda process: process.memory_info().rss).kill()
    system.until_said("package.digest_mismatch")
    assert worker.process.wait(timeout=120) == EXIT_CANNOT_SERVE


@on_postgresql
def test_a_whole_worker_killed_in_the_middle(system: System) -> None:
    worker, made = _in_the_middle(system)
    processes = psutil.Process(worker.process.pid).children(recursive=True)
    worker.kill()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert system.state(made).status is JobStatus.RUNNING
    system.expire_leases()
    system.worker()
    system.completed(made)
    system.exactly_once(made, 12)


@on_sqlite
def test_a_worker_told_to_stop_gives_the_rest_back(system: System) -> None:
    worker, made = _in_the_middle(system)
    assert worker.stop(timeout_s=120) == 0
    state = system.state(made)
    assert state.status is JobStatus.QUEUED
    assert 0 < state.counts[ItemStatus.SCORED] < 12
    system.worker()
    system.completed(made)
    system.exactly_once(made, 12)


@on_sqlite
def test_an_image_that_kills_its_worker_is_given_up_alone(system: System) -> None:
    poison = film(66, rows=66, columns=66)
    uris = [system.put(f"{n}.dcm", film(n)) for n in range(3)]
    uris.insert(1, system.put("poison.dcm", poison))
    # The worker process itself ends on a film of 66 rows.
    system.worker(module=POISONED, HILUM_WORKER__MAX_IMAGE_ATTEMPTS="2")
    made = system.submit(uris)
    for processes in (2, 3):
        system.until_ready(processes)
        system.expire_leases()
    system.completed(made)
    images = system.images(made)
    assert [image.status.value for image in images] == ["scored", "failed", "scored", "scored"]
    assert images[1].error is not None
    assert images[1].error["code"] == "job.attempts_exhausted"
    assert system.count(results) == 3


@on_sqlite
def test_an_image_that_kills_its_decoder_costs_only_itself(system: System) -> None:
    uris = [system.put(f"{n}.dcm", film(n)) for n in range(3)]
    uris.insert(1, system.put("poison.dcm", film(67, rows=67)))
    system.worker(module=POISONED)
    made = system.submit(uris)
    state = system.completed(made)
    images = system.images(made)
    assert [image.status.value for image in images] == ["scored", "refused", "scored", "scored"]
    assert images[1].error is not None
    assert images[1].error["code"] == "dicom.decoder_crashed"
    assert state.attempts == 1, "the worker did not die of it"
    assert system.logs().count("worker.process_ready") == 1


@on_sqlite
def test_a_process_that_lost_its_gpu_is_replaced(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "lost"
    system.worker(module=("-m", "support.lost_gpu_worker"), LOST_GPU_MARK=str(mark))
    made = system.submit([system.put(f"{n}.dcm", film(n)) for n in range(3)])
    system.completed(made)
    assert system.count(results) == 3
    logs = system.logs()
    assert logs.count("worker.device_lost") == 1
    assert logs.count("worker.process_ready") == 2


@on_sqlite
def test_a_process_that_hangs_is_ended_and_its_job_finished(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "hung"
    system.worker(
        module=("-m", "support.hung_engine_worker"),
        HUNG_ENGINE_MARK=str(mark),
        HILUM_WORKER__NO_PROGRESS_S="3",
    )
    made = system.submit([system.put(f"{n}.dcm", film(n)) for n in range(3)])
    system.until_true(mark.exists)
    system.until_ready(2)
    system.expire_leases()
    state = system.completed(made)
    assert state.attempts >= 2
    system.exactly_once(made, 3)


@on_sqlite
def test_the_broker_is_restarted_and_then_emptied(system: System) -> None:
    first = [system.submit([system.put(f"a{n}.dcm", film(n))]) for n in range(3)]
    system.broker.stop()
    system.broker.start()
    system.worker()
    for made in first:
        system.completed(made)
    # Now with the worker running; and its messages gone for good.
    system.broker.stop()
    lost = [system.submit([system.put(f"b{n}.dcm", film(9 + n))], publish=False) for n in range(3)]
    for made in lost:
        assert system.publisher.publish(made.job_id, Queue.ROUTINE) is False
    system.broker.start()
    for made in lost:
        system.completed(made)
    assert system.count(results) == 6
    assert system.count(outbox) == 6


@on_sqlite
def test_the_broker_is_away_when_a_job_ends(system: System) -> None:
    """Its acknowledgement fails; the worker must ask the next broker for more all the same."""
    _, made = _in_the_middle(system)
    system.broker.stop()
    (system.folder / "go").touch()
    system.completed(made)
    system.exactly_once(made, 12)
    # Only now has the main process tried to acknowledge it.
    system.until_said("Connection to broker lost")
    system.broker.start()
    system.completed(system.submit([system.put("b.dcm", film(99))]))
    assert system.count(results) == 13


@on_sqlite
def test_messages_that_the_broker_lost_are_published_again(system: System) -> None:
    made = [system.submit([system.put(f"{n}.dcm", film(n))]) for n in range(3)]
    system.broker.flush()
    system.worker()
    for one in made:
        system.completed(one)
    assert system.count(results) == 3


@on_postgresql
def test_a_message_delivered_twice_changes_nothing(system: System) -> None:
    system.worker()
    made = system.submit([system.put("one.dcm", film(1))])
    before = system.completed(made)
    for _ in range(3):
        assert system.publisher.publish(made.job_id, Queue.ROUTINE)
    again = system.submit([system.put("same.dcm", film(1))])
    system.completed(again)  # behind them in the queue
    assert system.state(made) == before
    assert system.count(results) == 1, "the same instance, bytes and model: one result"
    assert system.count(outbox) == 2


@on_sqlite
def test_a_wrong_secret_waits_for_the_right_one(system: System) -> None:
    made = system.submit([system.put("one.dcm", film(1))])
    wrong = system.worker(HILUM_S3__SECRET_ACCESS_KEY="wrong")
    state = system.until(made, lambda s: s.error is not None)
    assert state.error is not None
    assert state.error["code"] == "storage.credentials_rejected"
    assert state.error["transient"] is True
    assert state.counts[ItemStatus.PENDING] == 1
    wrong.stop()
    system.worker()
    state = system.completed(made)
    assert state.error is None
    system.exactly_once(made, 1)


@on_sqlite
def test_a_store_that_stays_away_ends_in_quarantine_with_its_error(system: System) -> None:
    made = system.submit([system.put("one.dcm", film(1))])
    system.worker(
        HILUM_S3__ENDPOINT_URL="http://127.0.0.1:9",
        HILUM_S3__MAX_ATTEMPTS="1",
        HILUM_WORKER__GIVE_UP_AFTER_S="1",
    )
    state = system.until(made, lambda s: s.status is JobStatus.FAILED)
    assert state.error is not None
    assert state.error["code"] == "storage.unavailable"
    assert state.counts[ItemStatus.FAILED] == 1
    assert system.count(outbox) == 1


@on_sqlite
def test_a_worker_without_a_usable_model_ends_with_a_reason(system: System) -> None:
    (system.package / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(Exception, match=r"package\.digest_mismatch"):
        system.worker()
    assert system.workers[-1].process.returncode == 2
