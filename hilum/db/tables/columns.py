"""What all tables share: the types of columns and the names of constraints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware UTC in Python; ``timestamptz`` on PostgreSQL, naive UTC on SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a time without a time zone: servers disagree on its meaning."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("A time must have a time zone.")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        """Return an aware time."""
        if value is None:
            return None
        aware: datetime = (
            value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        )
        return aware


# Constraints have names, so that migrations find them on every database.
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ID = sa.String(36)
TENANT = sa.String(64)
UID = sa.String(64)  # DICOM PS3.5 section 9.1: at most 64 characters
SHA256 = sa.LargeBinary(32)
DOCUMENT = sa.JSON(none_as_null=True)
# The pipeline of results from before the column existed, and of the release before.
FIRST_PIPELINE: Final = "0002-ada4d86b8a98039b"
# SQLite assigns only INTEGER keys by itself.
SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
