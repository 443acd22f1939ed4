"""The vocabulary of the migrations. Frozen: a change here would change what old migrations made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

ID = sa.String(36)
TENANT = sa.String(64)
UID = sa.String(64)
SHA256 = sa.LargeBinary(32)
TIME = sa.DateTime(timezone=True)
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Metadata(sa.MetaData):
    """Tables whose constraints and indexes are named by hilum's convention."""

    def __init__(self) -> None:
        super().__init__(
            naming_convention={
                "ix": "ix_%(column_0_label)s",
                "uq": "uq_%(table_name)s_%(column_0_N_name)s",
                "fk": "fk_%(table_name)s_%(column_0_name)s",
                "pk": "pk_%(table_name)s",
            }
        )


def required(name: str, *type_and_keys: Any, **options: Any) -> sa.Column[Any]:
    """A column that is not null."""
    return sa.Column(name, *type_and_keys, nullable=False, **options)
