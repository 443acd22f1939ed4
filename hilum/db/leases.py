"""Leases and fences: how a row of work is claimed, renewed, given back and taken over.

A worker claims a row for a limited time, its lease. Each claim adds one to the row's ``attempts``,
and that number is the fence: every change by a worker names the attempt of its claim. Once another
worker has claimed the row, the change matches no row and :class:`LeaseLostError` is raised.

Jobs (:mod:`hilum.db.jobs`) and deliveries (:mod:`hilum.db.deliveries`) are such rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CTE, ColumnElement, Connection, Row, Table, select, tuple_, update

from hilum.errors import HilumError, LeaseLostError


@dataclass(frozen=True, kw_only=True)
class LeasedTable:
    """A table of work, with the columns ``id``, ``attempts`` and ``lease_until``."""

    table: Table
    noun: str  # the name of a row in errors
    # Rows that may be claimed at the given time: due and not held, or with an expired lease.
    free: Callable[[datetime], ColumnElement[bool]]
    held: ColumnElement[bool]  # rows that a worker has claimed, also after their lease has expired
    on_take: Mapping[str, Any] = field(default_factory=dict)  # set by a claim, besides the lease
    # For a table that keeps its lease in several columns: the rows whose lease has expired at the
    # given time (None: by `lease_until`), and the values of an UPDATE by those columns.
    expired: Callable[[datetime], ColumnElement[bool]] | None = None
    place: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def take(
        self,
        connection: Connection,
        row_id: str,
        *which: ColumnElement[bool],
        lease_s: float,
        returning: Sequence[ColumnElement[Any]],
    ) -> Row[Any] | None:
        """Claim one row; ``None`` if it is not free or does not match ``which``. Waits for a
        transaction that is changing the row."""
        now = datetime.now(UTC)
        change = (
            update(self.table)
            .where(self.table.c.id == row_id, self.free(now), *which)
            .values(**self._values_of_claim(now, lease_s))
            .returning(*returning)
        )
        return connection.execute(change).one_or_none()

    def take_many(
        self,
        connection: Connection,
        row_ids: Collection[str],
        *,
        lease_s: float,
        returning: Sequence[ColumnElement[Any]],
    ) -> Sequence[Row[Any]]:
        """Claim these rows, which this transaction has locked and found free; returned in any
        order. (To ask again whether they are free would make SQLite look through all that are.)"""
        change = (
            update(self.table)
            .where(self.table.c.id.in_(row_ids))
            .values(**self._values_of_claim(datetime.now(UTC), lease_s))
            .returning(*returning)
        )
        return connection.execute(change).all()

    def take_due(
        self,
        connection: Connection,
        *,
        limit: int,
        lease_s: float,
        order_by: Sequence[ColumnElement[Any]],
        returning: Sequence[ColumnElement[Any]],
    ) -> Sequence[Row[Any]]:
        """Claim at most ``limit`` free rows, the first by ``order_by``; returned in any order. Rows
        that another transaction has locked are skipped."""
        now = datetime.now(UTC)
        chosen = choose_unlocked(self.table, self.free(now), order_by=order_by, limit=limit)
        change = (
            update(self.table)
            .where(self.table.c.id.in_(select(chosen.c.id)))
            .values(**self._values_of_claim(now, lease_s))
            .returning(*returning)
        )
        return connection.execute(change).all()

    def update_if_held(
        self, connection: Connection, row_id: str, attempt: int, values: Mapping[str, Any]
    ) -> None:
        """Change a row that was claimed as ``attempt``. The row stays locked until the transaction
        ends: make this the first statement of the transaction.

        Raises:
            LeaseLostError: the row has ended, or another worker has claimed it. Nothing is changed.
        """
        if not self.update_held(connection, {row_id: attempt}, values):
            raise LeaseLostError(f"The {self.noun} was claimed by another worker or has ended.")

    def update_held(
        self, connection: Connection, held: Mapping[str, int], values: Mapping[str, Any]
    ) -> set[str]:
        """Like :meth:`update_if_held` for several rows, each by its id with its attempt. Returns
        the ids of those that are still held; the others are not changed."""
        if not held:
            return set()
        change = (
            update(self.table)
            .where(tuple_(self.table.c.id, self.table.c.attempts).in_([*held.items()]), self.held)
            .values(**self.place({**values}))
            .returning(self.table.c.id)
        )
        return set(connection.execute(change).scalars())

    def renew(self, connection: Connection, row_id: str, attempt: int, *, lease_s: float) -> None:
        """Hold the row for another ``lease_s`` seconds from now.

        Raises:
            LeaseLostError: see :meth:`update_if_held`.
        """
        lease = {"lease_until": datetime.now(UTC) + timedelta(seconds=lease_s)}
        self.update_if_held(connection, row_id, attempt, lease)

    def renew_many(
        self, connection: Connection, held: Mapping[str, int], *, lease_s: float
    ) -> set[str]:
        """Like :meth:`renew`, as :meth:`update_held`."""
        lease = {"lease_until": datetime.now(UTC) + timedelta(seconds=lease_s)}
        return self.update_held(connection, held, lease)

    def give_back(
        self, connection: Connection, row_id: str, attempt: int, values: Mapping[str, Any]
    ) -> None:
        """End the lease and set ``values``, which say whether and when the row is due again.

        Raises:
            LeaseLostError: see :meth:`update_if_held`.
        """
        self.update_if_held(connection, row_id, attempt, {"lease_until": None, **values})

    def expire(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """End the lease of every row whose worker has not renewed it, and set ``values``.

        Returns:
            The number of these rows.
        """
        now = datetime.now(UTC)
        expired = self.expired(now) if self.expired else self.table.c.lease_until < now
        chosen = choose_unlocked(self.table, self.held, expired, order_by=(), limit=None)
        change = (
            update(self.table)
            .where(self.table.c.id.in_(select(chosen.c.id)))
            .values(**self.place({"lease_until": None, **values}))
            .returning(self.table.c.id)  # rowcount is -1 on SQLite for an update with a CTE
        )
        return len(connection.execute(change).all())

    def _values_of_claim(self, now: datetime, lease_s: float) -> dict[str, Any]:
        lease = {
            "attempts": self.table.c.attempts + 1,
            "lease_until": now + timedelta(seconds=lease_s),
        }
        return self.place({**lease, **self.on_take})


def choose_unlocked(
    table: Table,
    *which: ColumnElement[bool],
    order_by: Sequence[ColumnElement[Any]],
    limit: int | None,
) -> CTE:
    """Ids of the rows that match ``which``, without those that another transaction has locked.

    It is a CTE because PostgreSQL evaluates a CTE once, but may evaluate a sub-select with a limit
    repeatedly. PostgreSQL locks the rows (SKIP LOCKED); SQLite has one writer only.
    """
    return (
        select(table.c.id)
        .where(*which)
        .order_by(*order_by)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )


def error_columns(error: HilumError) -> dict[str, Any]:
    """The values of the columns ``error_code`` and ``error``."""
    body = error.body()
    return {"error_code": body["code"], "error": body}
