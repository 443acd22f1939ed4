"""Campaigns run: their planner's state, live workers, promotions, runs of the indexer.

Expands only: new tables, and columns that are null or have a constant default. The release before
neither reads nor writes any of them.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from hilum.db.migrations.frozen import ID, SERIAL, SHA256, TENANT, TIME, Metadata, required

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
oldest_code = "0002"

_INDEX = "ix_images_uri"
_SCHEMA = Metadata()
sa.Table("models", _SCHEMA, sa.Column("id", sa.Integer(), primary_key=True))
sa.Table("campaigns", _SCHEMA, sa.Column("id", ID, primary_key=True))
_WORKERS = sa.Table(
    "workers",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("model_id", sa.ForeignKey("models.id")),
    required("queues", sa.JSON()),
    required("processes", sa.Integer()),
    required("started_at", TIME),
    required("seen_at", TIME),
    required("alive_until", TIME, index=True),
)
_PROMOTIONS = sa.Table(
    "promotions",
    _SCHEMA,
    sa.Column("tenant", TENANT, primary_key=True),
    sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id")),
    sa.Column("before", sa.JSON()),
    required("actor", sa.String(100)),
    required("at", TIME),
    sa.Column("rolled_back_at", TIME),
    sa.Column("notify", sa.JSON()),
    sa.Column("notified_at", TIME, index=True),
)
_INDEX_RUNS = sa.Table(
    "index_runs",
    _SCHEMA,
    sa.Column("id", SERIAL, primary_key=True),
    required("tenant", TENANT),
    required("source", sa.Text()),
    required("source_sha256", SHA256),
    sa.Column("cursor", sa.Text()),
    required("counts", sa.JSON()),
    required("started_at", TIME),
    required("updated_at", TIME),
    sa.Column("finished_at", TIME),
    sa.UniqueConstraint("tenant", "source_sha256"),
)
_OF_CAMPAIGNS: dict[str, tuple[Any, str | None]] = {
    "last_instance_id": (sa.BigInteger(), "0"),
    "repeat": (sa.JSON(), None),
    "cursor": (sa.JSON(), None),
    "frozen_at": (TIME, None),
    "next_position": (sa.BigInteger(), "1"),
    "next_cut": (sa.BigInteger(), "0"),
    "max_in_flight": (sa.Integer(), "2000"),
    "codes": (sa.JSON(), None),
    "mark": (sa.JSON(), None),
    "spent_until": (TIME, None),
    "stepped_at": (TIME, None),
    "progress_at": (TIME, None),
    "missed_windows": (sa.Integer(), "0"),
    "missed_at": (TIME, None),
}
_OF_SERVING = ("pipeline", "canary_pipeline")


def prepare(connection: sa.Connection) -> None:
    """On PostgreSQL, before the transaction: index the addresses while studies are accepted."""
    if not sa.inspect(connection).has_table("images"):
        return
    connection.execute(sa.text("SET lock_timeout = 0"))
    state = sa.text(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE relname = :name AND pg_table_is_visible(pg_class.oid)"
    )
    valid = connection.execute(state, {"name": _INDEX}).scalar_one_or_none()
    if valid is False:  # left by a build that was broken off
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {_INDEX}"))
    if not valid:
        connection.execute(
            sa.text(f"CREATE INDEX CONCURRENTLY {_INDEX} ON images USING hash (uri)")
        )


def upgrade() -> None:
    connection = op.get_bind()
    for table in (_WORKERS, _PROMOTIONS, _INDEX_RUNS):
        table.create(connection, checkfirst=False)
    for name, (kind, default) in _OF_CAMPAIGNS.items():
        column: sa.Column[Any] = sa.Column(
            name, kind, nullable=default is None, server_default=default
        )
        op.add_column("campaigns", column)
    op.add_column("campaign_items", sa.Column("result_id", sa.BigInteger()))
    op.add_column("instances", sa.Column("header_only", sa.Boolean()))
    for name in _OF_SERVING:
        op.add_column("serving", sa.Column(name, sa.String(32)))
    if connection.dialect.name == "postgresql":  # `prepare` has made it, unless all is new
        op.execute(f"CREATE INDEX IF NOT EXISTS {_INDEX} ON images USING hash (uri)")
    else:
        op.create_index(_INDEX, "images", ["uri"])


def downgrade() -> None:
    """Instances of which only the header was read are removed with the items of campaigns that
    name them: the release before would take their digest for that of an object."""
    unread = "SELECT id FROM instances WHERE header_only"
    op.execute(f"DELETE FROM campaign_items WHERE instance_id IN ({unread})")
    op.execute("DELETE FROM instances WHERE header_only")
    op.drop_index(_INDEX, "images")
    for name in _OF_SERVING:
        op.drop_column("serving", name)
    op.drop_column("instances", "header_only")
    op.drop_column("campaign_items", "result_id")
    for name in _OF_CAMPAIGNS:
        op.drop_column("campaigns", name)
    for table in ("index_runs", "promotions", "workers"):
        op.drop_table(table)
