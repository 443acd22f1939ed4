"""Instances: one row for every object whose header was read. Campaigns select from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time
from typing import Any, Final

from sqlalchemy import Connection, func

from hilum.db.connection import insert_into
from hilum.db.identity import Sealed
from hilum.db.tables import instances

_KEY: Final = ("tenant", "sop_instance_uid", "content_sha256")
# Where the object was seen last.
_PLACE: Final = ("uri", "etag", "source")
_SEALED: Final = ("accession_number", "patient_id", "patient_name")


@dataclass(frozen=True, kw_only=True)
class NewInstance:
    """An object that was just read. ``None``: the header has no such value, or was not read."""

    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    content_sha256: bytes
    uri: str = field(repr=False)
    etag: str | None = field(repr=False)
    source: str | None = field(repr=False)  # the bucket, or the sender's AE title
    rows: int
    columns: int
    modality: str | None = field(default=None, repr=False)
    view: str | None = field(default=None, repr=False)
    acquisition_date: date | None = field(default=None, repr=False)  # of the device's clock
    acquisition_time: time | None = field(default=None, repr=False)
    institution: str | None = field(default=None, repr=False)
    manufacturer: str | None = field(default=None, repr=False)
    manufacturer_model: str | None = field(default=None, repr=False)
    age_years: float | None = field(default=None, repr=False)
    sex: str | None = field(default=None, repr=False)
    accession_number: Sealed | None = field(default=None, repr=False)
    patient_id: Sealed | None = field(default=None, repr=False)
    patient_name: Sealed | None = field(default=None, repr=False)
    # True: ``content_sha256`` is no digest of the object, of which only the header was read.
    header_only: bool | None = None


def record(connection: Connection, *, tenant: str, seen: Sequence[NewInstance]) -> None:
    """Add these instances, or update those that exist.

    A value that is ``None`` now does not replace a known one: a film that comes from the
    prepared-image cache may bring fewer facts than its object.
    """
    if not seen:
        return
    rows = {(one.sop_instance_uid, one.content_sha256): _row(tenant, one) for one in seen}
    # Always in the same order: two transactions then wait for each other and do not deadlock.
    new = insert_into(connection, instances)
    again = {
        column.name: new.excluded[column.name]
        if column.name in {*_PLACE, "last_seen_at"}
        else func.coalesce(new.excluded[column.name], column)
        for column in instances.c
        if column.name not in {"id", *_KEY, "first_seen_at"}
    }
    change = new.on_conflict_do_update(index_elements=_KEY, set_=again)
    connection.execute(change, [rows[key] for key in sorted(rows)])


def _row(tenant: str, one: NewInstance) -> dict[str, Any]:
    now = datetime.now(UTC)
    row = {item.name: getattr(one, item.name) for item in fields(one) if item.name not in _SEALED}
    for name in _SEALED:
        sealed: Sealed | None = getattr(one, name)
        row[name] = None if sealed is None else sealed.data
        row[f"{name}_hash"] = None if sealed is None else sealed.hash
    return {**row, "tenant": tenant, "first_seen_at": now, "last_seen_at": now}
