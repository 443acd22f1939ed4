"""Archives are entered by their headers, from where a run was broken off."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import select
from support.tiny_film import film

from hilum.campaigns import indexing
from hilum.db import migrate
from hilum.db.connection import Database
from hilum.db.tables import index_runs, instances
from hilum.dicom.parse import open_head, open_object
from hilum.errors import ConfigurationError, DicomError, StorageUnavailableError
from hilum.pipeline import head
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore, open_store


@pytest.fixture
def store(s3: S3Settings) -> ObjectStore:
    return open_store(s3, Limits(), allow_local=True)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1, Limits(), tasks=DECODE_TASKS) as decoders:
        yield decoders


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'hilum.db'}"
    migrate.upgrade(url)
    with Database(url) as database:
        yield database


def test_a_header_is_the_same_from_the_beginning_of_its_file() -> None:
    data = film(1, rows=400, columns=300)
    whole = open_object(data, Limits()).header
    starts = {n: open_head(data[:n], Limits(), complete=False) for n in range(200, 1200, 7)}
    assert {header for header in starts.values() if header is not None} == {whole}
    assert starts[200] is None
    with pytest.raises(DicomError):
        open_head(data[:200], Limits(), complete=True)


def test_only_the_first_bytes_are_fetched(
    store: ObjectStore, bucket: str, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{bucket}/large.dcm"
    store.write(uri, film(1, rows=1000, columns=900))
    fetched: list[int] = []
    start = ObjectStore.start

    def watched(self: ObjectStore, uri: str, length: int) -> Any:
        found = start(self, uri, length)
        fetched.append(len(found[0]))
        return found

    monkeypatch.setattr(ObjectStore, "start", watched)
    header, etag = head.read(store, uri, decoders, identity=False)
    assert (header.rows, fetched) == (1000, [2**16])
    stat = store.stat(uri)
    assert stat is not None
    assert etag == stat.etag


def _index(
    database: Database, store: ObjectStore, decoders: Decoders, source: str, **options: Any
) -> dict[str, int]:
    return indexing.index(
        database,
        store,
        decoders,
        tenant="north",
        source=source,
        vault=None,
        threads=4,
        **options,
    )


def test_a_run_goes_on_where_it_was_broken_off(
    store: ObjectStore,
    bucket: str,
    decoders: Decoders,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "_PAGE", 4)
    for n in range(10):
        store.write(f"s3://{bucket}/a/{n}.dcm", film(n))
    store.write(f"s3://{bucket}/a/empty.dcm", b"")
    store.write(f"s3://{bucket}/a/.hilum/prepared/x", b"hidden")
    store.write(f"s3://{bucket}/ab/1.dcm", film(99))
    read, calls = head.read, []

    def broken(store: ObjectStore, uri: str, *arguments: Any, **named: Any) -> Any:
        calls.append(uri)
        if uri.endswith("/6.dcm") and len(calls) < 9:
            raise StorageUnavailableError("The store answered 503.")
        return read(store, uri, *arguments, **named)

    monkeypatch.setattr(head, "read", broken)
    source = f"s3://{bucket}/a"
    with pytest.raises(StorageUnavailableError):
        _index(database, store, decoders, source)
    with database.read() as connection:
        assert connection.execute(select(index_runs.c.counts)).scalar_one()["seen"] == 4
    calls[:] = [""] * 9
    assert _index(database, store, decoders, source) == {
        **{"seen": 11, "entered": 10, "known": 0, "dicom.empty": 1}
    }
    assert sorted(calls[9:])[0] == f"{source}/4.dcm", "the first page is not read again"
    with database.read() as connection:
        rows = connection.execute(select(instances)).all()
    assert len(rows) == 10
    assert {row.header_only for row in rows} == {True}
    assert {row.patient_name for row in rows} == {None}
    # A finished run begins anew; nothing is entered twice, and a replaced object takes its place.
    store.write(f"s3://{bucket}/a/0.dcm", film(0, rows=50))
    _index(database, store, decoders, source)
    with database.read() as connection:
        again = connection.execute(select(instances.c.rows).where(instances.c.uri.like("%/0.dcm")))
        assert again.scalars().all() == [50]


@pytest.mark.parametrize("kind", ["uri", "named", "inventory", "gzip"])
def test_inventories(
    store: ObjectStore,
    bucket: str,
    decoders: Decoders,
    database: Database,
    tmp_path: Path,
    kind: str,
) -> None:
    store.write(f"s3://{bucket}/a b/1.dcm", film(1))
    lines = {
        "uri": f"note,uri\nx,s3://{bucket}/a b/1.dcm\n",
        "named": f"Bucket,Size,Key\n{bucket},1,a b/1.dcm\n",
        "inventory": f'"{bucket}","a+b%2F1.dcm","4711"\n',
        "gzip": f"{bucket},a+b/1.dcm\n",
    }
    path = tmp_path / ("list.csv.gz" if kind == "gzip" else "list.csv")
    data = lines[kind].encode()
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    counts = _index(database, store, decoders, str(path))
    assert (counts["seen"], counts["entered"]) == (1, 1)


def test_a_table_that_is_no_inventory(
    store: ObjectStore, decoders: Decoders, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    path.write_text("/data/film.dcm\n")
    with pytest.raises(ConfigurationError):
        _index(database, store, decoders, str(path))


def test_a_deflated_header_too() -> None:
    data = film(3, rows=300, columns=300)
    from io import BytesIO

    from pydicom import dcmread

    dataset = dcmread(BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    whole = out.getvalue()
    found = open_head(whole[:20_000], Limits(), complete=False)
    assert found == open_object(whole, Limits()).header
