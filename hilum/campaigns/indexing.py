"""Enter an archive that was never scored: the headers of its objects, nothing else."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import unquote_plus

from hilum.db import index_runs
from hilum.db.connection import Database
from hilum.db.identity import IdentityVault
from hilum.db.instances import NewInstance
from hilum.errors import ConfigurationError, HilumError, TransientError
from hilum.pipeline import head
from hilum.pipeline.instances import new_instance
from hilum.pipeline.load import Seen
from hilum.sandbox import Decoders
from hilum.storage import ObjectStore

_PAGE: Final = 200  # objects between two commits
_INVENTORY: Final = (".csv", ".csv.gz")
_ADDRESSES: Final = ("uri", "address", "url")
_MAX_INVENTORY: Final = 2**36  # bytes

Entry = tuple[str, str]  # address, and the cursor behind it


def index(
    database: Database,
    store: ObjectStore,
    decoders: Decoders,
    *,
    tenant: str,
    source: str,
    vault: IdentityVault | None,
    threads: int,
    anew: bool = False,
    progress: Callable[[dict[str, int]], None] = lambda counts: None,
) -> dict[str, int]:
    """Enter every DICOM image of ``source`` into the instances of the tenant.

    A run that was broken off goes on behind the last page that it has committed.

    Args:
        database: the SQL database.
        store: of the objects; with local files, if ``source`` is a local inventory.
        decoders: headers are read in them.
        tenant: the owner.
        source: a folder in S3, or an inventory in CSV (``.csv``, ``.csv.gz``): with a header line
            that names a column ``uri`` or the columns ``bucket`` and ``key``, or without one as
            S3 Inventory writes it (bucket and key first, the key URL-encoded).
        vault: seals who the films are of; ``None``: nobody is named.
        threads: requests to the store at the same time.
        anew: begin from the start.
        progress: is told the counts after each page.

    Returns:
        How many objects were ``seen``, ``entered``, ``known`` before, and left out by the code of
        their error.

    Raises:
        TransientError: the store or the database is unavailable. The same command goes on.
        ConfigurationError: the inventory does not name its columns.
        HilumError: the source cannot be read.
    """
    with database.write() as connection:
        run = index_runs.begin(connection, tenant=tenant, source=source, anew=anew)
    counts = dict(run.counts)
    entries = _entries(store, source, run.cursor)

    def examine(entry: Entry) -> NewInstance | str:
        uri, _ = entry
        try:
            header, etag = head.read(store, uri, decoders, identity=vault is not None)
        except TransientError:
            raise
        except HilumError as error:
            return error.code
        digest = hashlib.sha256(f"hilum index\0{uri}\0{etag}".encode()).digest()
        seen = Seen(header=header, content_sha256=digest, etag=etag)
        return replace(new_instance(seen, uri, tenant=tenant, vault=vault), header_only=True)

    with ThreadPoolExecutor(threads) as pool:
        while page := [*islice(entries, _PAGE)]:
            found = [*pool.map(examine, page)]
            seen = [one for one in found if isinstance(one, NewInstance)]
            codes = [one for one in found if isinstance(one, str)]
            with database.write() as connection:
                known = index_runs.enter(connection, run, seen)
                for name, more in (
                    ("seen", len(page)),
                    ("entered", len(seen) - known),
                    ("known", known),
                    *((code, codes.count(code)) for code in {*codes}),
                ):
                    counts[name] = counts.get(name, 0) + more
                index_runs.note(connection, run, cursor=page[-1][1], counts=counts)
            progress(counts)
    with database.write() as connection:
        index_runs.note(connection, run, cursor=None, counts=counts)
    return counts


def _entries(store: ObjectStore, source: str, cursor: str | None) -> Iterator[Entry]:
    if source.endswith(_INVENTORY):
        done = int(cursor or 0)
        for number, uri in enumerate(_inventory(store, source), 1):
            if number > done:
                yield uri, str(number)
        return
    for listed in store.listed(source, after=cursor):
        yield listed.uri, listed.uri


def _inventory(store: ObjectStore, source: str) -> Iterator[str]:
    with TemporaryDirectory(prefix="hilum-inventory-") as folder:
        path = Path(folder) / "inventory"
        store.download(source, path, max_bytes=_MAX_INVENTORY)
        with (gzip.open if source.endswith(".gz") else open)(
            path, "rt", encoding="utf-8", newline=""
        ) as file:
            yield from _addresses(csv.reader(file))


def _addresses(lines: Iterator[list[str]]) -> Iterator[str]:
    first = next(lines, None)
    if first is None:
        return
    names = [name.strip().lower() for name in first]
    address = next((names.index(name) for name in _ADDRESSES if name in names), None)
    if address is not None:
        yield from (row[address] for row in lines if row)
    elif {"bucket", "key"} <= {*names}:
        bucket, key = names.index("bucket"), names.index("key")
        yield from (f"s3://{row[bucket]}/{row[key]}" for row in lines if row)
    elif len(first) < 2 or "/" in first[0]:
        raise ConfigurationError(
            "The inventory has neither a column `uri` nor the columns `bucket` and `key`.",
            next_step="Add a header line, or use the CSV of S3 Inventory.",
        )
    else:
        for row in itertools.chain([first], lines):
            if row:
                yield f"s3://{row[0]}/{unquote_plus(row[1])}"
