"""Results: what goes in comes out, and a second one is the first one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sqlalchemy import func, select

from hilum.db import results
from hilum.db.connection import Database
from hilum.db.results import NewResult
from hilum.db.tables import findings
from hilum.db.tables import results as results_table
from hilum.packages.load import Package
from hilum.packages.registered import manifest_of


def _save(database: Database, result: NewResult, tenant: str = "north") -> int:
    with database.write() as connection:
        return results.save(connection, tenant=tenant, result=result)


def test_round_trip(
    database: Database, new_result: Callable[..., NewResult], tiny: Package, model_id: int
) -> None:
    new = new_result(7)
    result_id = _save(database, new)
    with database.read() as connection:
        stored = results.get(connection, result_id)
        assert results.get(connection, result_id + 1) is None
    assert stored is not None
    for name in ("sop_instance_uid", "series_instance_uid", "study_instance_uid", "rows", "columns",
                 "content_sha256", "engine", "flags", "cam_labels"):  # fmt: skip
        assert getattr(stored, name) == getattr(new, name), name
    assert stored.raw.dtype == stored.probability.dtype == stored.cam.dtype == np.float32
    np.testing.assert_array_equal(stored.raw, new.raw)
    np.testing.assert_array_equal(stored.probability, new.probability)
    np.testing.assert_array_equal(stored.cam, new.cam.astype(np.float16))
    # In the order of the labels, whatever the order they came in.
    assert [finding.label for finding in stored.findings] == ["Effusion", "Nodule/Mass"]
    assert {(f.label, f.probability, f.threshold) for f in stored.findings} == {
        (f.label, f.probability, f.threshold) for f in new.findings
    }
    assert stored.model.id == model_id
    assert manifest_of(stored.model) == tiny.manifest


def test_maps_by_label(database: Database, new_result: Callable[..., NewResult]) -> None:
    new = new_result(3)
    result_id = _save(database, new)
    with database.read() as connection:
        stored = results.get(connection, result_id)
    assert stored is not None
    grid = stored.cam_of(3)
    assert grid is not None
    np.testing.assert_array_equal(grid, new.cam[1].astype(np.float16))
    assert stored.cam_of(0) is None


def test_without_maps(database: Database, new_result: Callable[..., NewResult]) -> None:
    new = new_result(cam=np.zeros((0, 4, 4), np.float32), cam_labels=(), findings=())
    result_id = _save(database, new)
    with database.read() as connection:
        stored = results.get(connection, result_id)
    assert stored is not None
    assert (stored.cam.shape, stored.cam_labels, stored.findings) == ((0, 4, 4), (), ())


def test_the_first_result_stays(database: Database, new_result: Callable[..., NewResult]) -> None:
    first = new_result(1)
    second = new_result(1, probability=np.zeros(6, np.float32), findings=())
    result_id = _save(database, first)
    assert _save(database, second) == result_id
    with database.read() as connection:
        stored = results.get(connection, result_id)
    assert stored is not None
    np.testing.assert_array_equal(stored.probability, first.probability)
    assert len(stored.findings) == 2


def test_what_makes_a_result_another_one(
    database: Database, new_result: Callable[..., NewResult]
) -> None:
    ids = {
        _save(database, new_result(1)),
        _save(database, new_result(1), tenant="south"),
        _save(database, new_result(1, content_sha256=b"2" * 32)),
        _save(database, new_result(1, sop_instance_uid="1.2.3")),
        _save(database, new_result(1, pipeline="0003-x")),
    }
    assert len(ids) == 5
    assert _save(database, new_result(1, pipeline="0003-x")) == max(ids)
    assert _save(database, new_result(1)) == min(ids)


def test_saved_at_the_same_time(
    database: Database, new_result: Callable[..., NewResult], race: Callable[..., list[object]]
) -> None:
    result = new_result(5)
    found = race(lambda _: _save(database, result))
    assert all(isinstance(one, int) for one in found), found
    assert len(set(found)) == 1
    with database.read() as connection:
        for table, rows in ((results_table, 1), (findings, 2)):
            count = select(func.count()).select_from(table)
            assert connection.execute(count).scalar_one() == rows


def test_uids_are_not_printed(new_result: Callable[..., NewResult]) -> None:
    assert "1.2.826" not in repr(new_result())


def test_many_results_are_read_without_their_maps(
    database: Database, new_result: Callable[..., NewResult]
) -> None:
    with database.write() as connection:
        ids = [results.save(connection, tenant="n", result=new_result(n)) for n in range(3)]
    with database.read() as connection:
        alone = results.get(connection, ids[1])
        many = results.get_many(connection, [*ids[1:], 10**12], maps=False)
    assert sorted(many) == ids[1:]
    assert alone is not None
    assert many[ids[1]].cam.shape == (0, 4, 4)
    np.testing.assert_array_equal(many[ids[1]].probability, alone.probability)
    same = ("cam_labels", "findings", "flags", "content_sha256", "model", "created_at")
    assert all(getattr(many[ids[1]], name) == getattr(alone, name) for name in same)
