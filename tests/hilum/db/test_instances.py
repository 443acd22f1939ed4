"""Instances: one row a content, seen again and again, never losing what was known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, time
from typing import Any

import pytest
from sqlalchemy import Row, select

from hilum.db import instances, jobs
from hilum.db.claims import NotScored, Scored
from hilum.db.connection import Database
from hilum.db.identity import Sealed
from hilum.db.instances import NewInstance
from hilum.db.studies import Submission
from hilum.db.tables import instances as table
from hilum.errors import LeaseLostError

UID = "1.2.826.0.1.3680043.8.498.4711"
SECRET_TEXT = "Sankt-Annen-Klinik"


def seen(seed: int = 0, **values: Any) -> NewInstance:
    facts: dict[str, Any] = {
        "sop_instance_uid": f"{UID}.{seed}",
        "series_instance_uid": f"{UID}.1",
        "study_instance_uid": f"{UID}.2",
        "content_sha256": bytes([seed]) * 32,
        "uri": f"s3://films/{seed}.dcm",
        "etag": '"e1"',
        "source": "films",
        "rows": 1955,
        "columns": 1841,
    }
    return NewInstance(**{**facts, **values})


FULL: dict[str, Any] = {
    "modality": "DX",
    "view": "PA",
    "acquisition_date": date(2024, 5, 1),
    "acquisition_time": time(14, 30),
    "institution": SECRET_TEXT,
    "manufacturer": "Maker",
    "manufacturer_model": "Model 5",
    "age_years": 61.0,
    "sex": "F",
    "patient_id": Sealed(data=b"sealed", hash=b"h" * 32),
}


def _record(database: Database, *found: NewInstance, tenant: str = "north") -> None:
    with database.write() as connection:
        instances.record(connection, tenant=tenant, seen=found)


def _rows(database: Database) -> list[Row[Any]]:
    with database.read() as connection:
        return list(connection.execute(select(table).order_by(table.c.id)))


def test_a_new_instance(database: Database) -> None:
    _record(database, seen(**FULL))
    (row,) = _rows(database)
    expected = {**FULL, "tenant": "north", "uri": "s3://films/0.dcm", "etag": '"e1"'}
    expected |= {"patient_id": b"sealed", "patient_id_hash": b"h" * 32, "patient_name": None}
    assert {name: row._mapping[name] for name in expected} == expected
    assert row.first_seen_at == row.last_seen_at
    assert SECRET_TEXT not in repr(seen(**FULL))
    assert UID not in repr(seen(**FULL))


def test_seen_again_it_moves_and_keeps_what_was_known(database: Database) -> None:
    _record(database, seen(**FULL))
    (before,) = _rows(database)
    _record(database, seen(uri="s3://other/0.dcm", source="other", etag=None, view="AP"))
    (after,) = _rows(database)
    changed = {"uri": "s3://other/0.dcm", "source": "other", "etag": None, "view": "AP"}
    assert after.last_seen_at > before.last_seen_at
    changed["last_seen_at"] = after.last_seen_at
    assert after._asdict() == {**before._asdict(), **changed}


def test_tenants_and_contents_are_apart(database: Database) -> None:
    _record(database, seen())
    _record(database, seen(content_sha256=b"x" * 32))  # sent again with other pixels
    _record(database, seen(), tenant="south")
    assert [row.tenant for row in _rows(database)] == ["north", "north", "south"]


def test_one_object_twice_in_a_batch(database: Database) -> None:
    _record(database, seen(), seen(uri="s3://films/copy.dcm"))
    (row,) = _rows(database)
    assert row.uri == "s3://films/copy.dcm"


def test_nothing_to_record(database: Database) -> None:
    _record(database)
    assert _rows(database) == []


def test_writers_of_the_same_instances_do_not_deadlock(
    database: Database, race: Callable[..., list[object]]
) -> None:
    found = [seen(n) for n in range(12)]
    assert race(lambda n: _record(database, *found[n:], *found[:n])) == [None] * 6
    assert len(_rows(database)) == 12


def test_they_are_written_with_the_outcomes_or_not_at_all(
    database: Database,
    submit: Callable[..., Submission],
    scored: Callable[..., Scored],
    refused: Callable[[str], NotScored],
) -> None:
    job_id = submit(images=2).job_id
    with database.write() as connection:
        claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=8)
    assert claim is not None
    one, two = (image.image_id for image in claim.pending)
    good, bad = scored(one), refused(two)
    outcomes = [
        Scored(image_id=one, result=good.result, instance=seen(0)),
        NotScored(image_id=two, status=bad.status, error=bad.error, instance=seen(1)),
    ]
    with database.write() as connection:
        assert jobs.record(connection, claim, outcomes, lease_s=60)
    assert len(_rows(database)) == 2
    late = [NotScored(image_id=two, status=bad.status, error=bad.error, instance=seen(2))]
    with pytest.raises(LeaseLostError), database.write() as connection:
        jobs.record(connection, claim, late, lease_s=60)
    assert len(_rows(database)) == 2
