"""Connections: transactions, and failures that tell nothing of the data."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from hilum.db.connection import Database
from hilum.db.patience import persist
from hilum.db.tables import api_keys, studies
from hilum.errors import ConfigurationError, DatabaseUnavailableError, UnexpectedError


def _row(study_id: str = "st_1", tenant: str = "north") -> dict[str, object]:
    return {"id": study_id, "tenant": tenant, "created_at": text("CURRENT_TIMESTAMP")}


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "sqlite://", "sqlite:///:memory:", "mysql://u:pw-secret@h/d", "odd://h/d"],
)
def test_urls_hilum_cannot_use(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Database(url)
    assert "pw-secret" not in str(caught.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="folder"):
        Database(f"sqlite:///{tmp_path}/file/hilum.db")


def test_nobody_answers() -> None:
    database = Database("postgresql://u:pw-secret@127.0.0.1:9/d")
    with pytest.raises(DatabaseUnavailableError) as caught, database.read():
        pass
    assert "pw-secret" not in "".join(traceback.format_exception(caught.value))


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    def step() -> None:
        with database.write() as connection:
            connection.execute(insert(studies).values(**_row()))
            raise KeyError

    with pytest.raises(KeyError):
        step()
    with database.read() as connection:
        assert connection.execute(select(studies.c.id)).all() == []


def test_refused_statements_do_not_quote_values(database: Database) -> None:
    with database.write() as connection:
        connection.execute(insert(studies).values(**_row("st_DOE^JANE")))
    with pytest.raises(UnexpectedError) as caught, database.write() as connection:
        connection.execute(insert(studies).values(**_row("st_DOE^JANE")))
    assert "DOE" not in "".join(traceback.format_exception(caught.value))
    assert "DOE" not in repr(caught.value)


def test_a_server_that_is_read_only_is_unavailable(database: Database) -> None:
    if database.dialect != "postgresql":
        pytest.skip("a state of PostgreSQL")

    def write() -> None:
        with database.write() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(insert(studies).values(**_row()))

    with pytest.raises(DatabaseUnavailableError):
        write()


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(UnexpectedError), database.write() as connection:
        connection.execute(
            text("INSERT INTO images (id, study_id, position, uri) VALUES ('im_1', 'none', 0, 'u')")
        )


def test_read_then_write_is_not_lost(database: Database, race: Callable[..., list[object]]) -> None:
    """Each thread adds one to what it reads; on SQLite that needs the lock from the start."""
    row = {"id": "key", "tenant": "t", "name": "0", "key_sha256": b"0" * 32, "scopes": []}
    with database.write() as connection:
        now = text("CURRENT_TIMESTAMP")
        connection.execute(insert(api_keys).values(**row, created_at=now))

    def add(_: int) -> None:
        with database.write() as connection:
            query = select(api_keys.c.name).with_for_update()
            name = connection.execute(query).scalar_one()
            connection.execute(api_keys.update().values(name=str(int(name) + 1)))

    assert race(add) == [None] * 6
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.name)).scalar_one() == "6"


def test_persist_waits_for_a_database_that_comes_back(database: Database) -> None:
    calls = []

    def step(connection: object) -> str:
        calls.append(connection)
        if len(calls) < 3:
            raise DatabaseUnavailableError("away")
        return "done"

    stop = threading.Event()
    assert persist(database, step, patience_s=30, stop=stop, longest_wait_s=0.01) == "done"
    assert len(calls) == 3


def test_persist_gives_up(database: Database) -> None:
    def step(_: object) -> None:
        raise DatabaseUnavailableError("away")

    with pytest.raises(DatabaseUnavailableError):
        persist(database, step, patience_s=0, stop=threading.Event())
    stop = threading.Event()
    stop.set()
    with pytest.raises(DatabaseUnavailableError):
        persist(database, step, patience_s=3600, stop=stop)
