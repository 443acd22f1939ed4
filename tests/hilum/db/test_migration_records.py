"""Migration 0004 on a database that the release before has filled, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    MetaData,
    Table,
    create_engine,
    insert,
    inspect,
    make_url,
    select,
    text,
)

from hilum.db import audit, keys, migrate
from hilum.db.connection import Database
from hilum.db.keys import Scope
from hilum.db.tables import instances

BEFORE = "0002"
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
NEW = {"deliveries", "instances", "campaigns", "campaign_items", "audit"}
T0 = datetime(2025, 3, 1, 12, tzinfo=UTC)


def _time(database: Database, hours: int) -> datetime:
    moment = T0 + timedelta(hours=hours)
    return moment if database.dialect == "postgresql" else moment.replace(tzinfo=None)


def _insert(connection: Connection, name: str, *rows: Mapping[str, Any]) -> None:
    """As the release before does: with the columns that there are now."""
    table = Table(name, MetaData(), autoload_with=connection)
    connection.execute(insert(table), [*rows])


def _result(database: Database, number: int, **values: Any) -> dict[str, Any]:
    return {
        "id": number,
        "tenant": "north",
        "sop_instance_uid": f"1.2.{number}",
        "content_sha256": bytes([number]) * 32,
        "model_id": 1,
        "series_instance_uid": "1.3",
        "study_instance_uid": "1.4",
        "rows": 100,
        "columns": 80,
        "raw": b"",
        "probability": b"",
        "cam": b"",
        "cam_labels": b"",
        "engine": "onnxruntime-cpu",
        "flags": [],
        "created_at": _time(database, number),
        **values,
    }


@pytest.fixture
def filled(database_url: str) -> str:
    """Three results of two objects; one of them is shown by two studies, one by none."""
    migrate.upgrade(database_url, BEFORE)
    with Database(database_url) as database, database.write() as connection:
        now = _time(database, 0)
        key = {"tenant": "north", "name": "pacs", "created_at": now}
        _insert(
            connection,
            "api_keys",
            {**key, "id": "key_1", "key_sha256": keys._digest("hk_1"), "scopes": ["studies:write"]},
            {**key, "id": "key_2", "key_sha256": keys._digest("hk_2"), "scopes": ["studies:read"]},
        )
        model = {"preprocess_digest": "p", "manifest": {}, "registered_at": now}
        _insert(
            connection,
            "models",
            {**model, "id": 1, "digest": "a"},
            {**model, "id": 2, "digest": "b"},
        )
        again = {"sop_instance_uid": "1.2.1", "content_sha256": b"\x01" * 32, "model_id": 2}
        rows = [_result(database, 1), _result(database, 2), _result(database, 3, **again)]
        _insert(connection, "results", *rows)
        for n, uri in ((1, "s3://old/a.dcm"), (2, "s3://new/folder/a.dcm")):
            _insert(connection, "studies", {"id": f"st_{n}", "tenant": "north", "created_at": now})
            image = {"id": f"im_{n}", "study_id": f"st_{n}", "position": 0, "uri": uri}
            _insert(connection, "images", image)
            job = {"id": f"jb_{n}", "study_id": f"st_{n}", "tenant": "north", "queue": "bulk"}
            times = {"available_at": now, "created_at": now}
            counts = {"attempts": 1, "unreported": 0, "deferrals": 0}
            _insert(connection, "jobs", {**job, **times, **counts, "status": "completed"})
            item = {"job_id": f"jb_{n}", "image_id": f"im_{n}", "status": "scored"}
            _insert(connection, "items", {**item, "unreported": 0, "result_id": 1})
    return database_url


def _instances(url: str) -> list[tuple[Any, ...]]:
    c = instances.c
    columns = (c.sop_instance_uid, c.content_sha256, c.rows, c.columns, c.uri, c.source)
    query = select(*columns, c.first_seen_at, c.last_seen_at).order_by(c.sop_instance_uid)
    with Database(url) as database, database.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_instances_are_filled_with_what_results_know(filled: str) -> None:
    migrate.upgrade(filled)
    at = [T0 + timedelta(hours=n) for n in range(4)]
    assert _instances(filled) == [
        ("1.2.1", b"\x01" * 32, 100, 80, "s3://new/folder/a.dcm", "new", at[1], at[3]),
        ("1.2.2", b"\x02" * 32, 100, 80, None, None, at[2], at[2]),
    ]


def test_instances_may_be_made_before_the_transaction(filled: str) -> None:
    """As it is on PostgreSQL, where that may take long; also twice, if it was broken off."""
    migration = ScriptDirectory(str(Path(migrate.__file__).with_name("migrations")))
    script = next(one for one in migration.walk_revisions() if one.path.endswith("_records.py"))
    engine = create_engine(make_url(filled).set(drivername=_DRIVERS[filled.partition(":")[0]]))
    for _ in range(2):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            script.module.prepare(connection)
    engine.dispose()
    prepared = _instances(filled)
    migrate.upgrade(filled)
    assert _instances(filled) == prepared
    assert len(prepared) == 2
    with Database(filled) as database, database.read() as connection:
        found = {index["name"] for index in inspect(connection).get_indexes("instances")}
    assert {str(index.name) for index in instances.indexes} <= found


def test_keys_go_on_as_they_were(filled: str) -> None:
    migrate.upgrade(filled)
    with Database(filled) as database, database.read() as connection:
        writer, reader = (keys.find(connection, secret) for secret in ("hk_1", "hk_2"))
    assert writer is not None
    assert reader is not None
    assert writer.scopes == {Scope.SUBMIT, Scope.STAT}
    assert reader.scopes == {Scope.READ}


def test_the_release_before_goes_on_writing(filled: str) -> None:
    """It knows none of the new columns and tables; every one must be there without it."""
    migrate.upgrade(filled)
    with Database(filled) as database, database.write() as connection:
        _insert(connection, "results", _result(database, 4))
        row = {"tenant": "north", "name": "n", "created_at": _time(database, 0)}
        row |= {"id": "key_3", "key_sha256": keys._digest("hk_3"), "scopes": ["studies:read"]}
        _insert(connection, "api_keys", row)
        found = keys.find(connection, "hk_3")
    assert found is not None
    assert found.scopes == {Scope.READ}


def test_down_and_up_with_data(filled: str) -> None:
    migrate.upgrade(filled)
    before = _instances(filled)
    with Database(filled) as database:
        with database.write() as connection:
            keys.create(connection, tenant="north", name="new", scopes=["submit", "read"])
            assert audit.verify(connection).rows == 1
        assert migrate.downgrade(filled, BEFORE) == BEFORE
        with database.read() as connection:
            assert not NEW & {*inspect(connection).get_table_names()}
            kept = {
                name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
                for name in ("api_keys", "results", "items")
            }
            assert kept == {"api_keys": 3, "results": 3, "items": 2}
    migrate.upgrade(filled)
    assert _instances(filled) == before
    with Database(filled) as database, database.read() as connection:
        made = keys.listing(connection)[-1]
    assert made.scopes == {Scope.READ}, "what the release before could read of it is left"
