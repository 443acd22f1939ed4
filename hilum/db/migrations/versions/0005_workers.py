"""Claims by order of urgency, tenants and age; objects that arrive after their study.

Expands only: a new table, one nullable column, two indexes.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hilum.db.migrations.frozen import TENANT, TIME, Metadata, required

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
# The release before claims each job that a message names, and ignores what is new here.
oldest_code = "0002"

_SCHEMA = Metadata()
_TENANTS = sa.Table(
    "tenants",
    _SCHEMA,
    sa.Column("tenant", TENANT, primary_key=True),
    required("weight", sa.Float()),
    sa.Column("max_running_jobs", sa.Integer()),
    required("changed_at", TIME),
)
_INDEXES = {
    "ix_jobs_queued": (["queue", "tenant", "available_at"], "model_id IS NULL"),
    "ix_jobs_queued_bound": (
        ["queue", "model_id", "tenant", "bound_available_at"],
        "model_id IS NOT NULL",
    ),
}


def prepare(connection: sa.Connection) -> None:
    """On PostgreSQL, before the transaction: build the indexes while jobs are written."""
    if not sa.inspect(connection).has_table("jobs"):
        return
    if "model_id" not in {column["name"] for column in sa.inspect(connection).get_columns("jobs")}:
        return  # `upgrade` makes them: the column is added in the same transaction
    connection.execute(sa.text("SET lock_timeout = 0"))
    for name, (columns, which) in _INDEXES.items():
        invalid = connection.execute(
            sa.text(
                "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
                "WHERE relname = :name AND NOT indisvalid AND pg_table_is_visible(pg_class.oid)"
            ),
            {"name": name},
        ).first()
        if invalid:  # left by a build that was broken off
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        connection.execute(
            sa.text(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON jobs ({', '.join(columns)}) "
                f"WHERE status = 'queued' AND {which}"
            )
        )


def upgrade() -> None:
    connection = op.get_bind()
    _TENANTS.create(connection, checkfirst=False)
    op.add_column("jobs", sa.Column("objects_due_at", TIME))
    for name, (columns, which) in _INDEXES.items():
        where = sa.text(f"status = 'queued' AND {which}")
        op.create_index(
            name,
            "jobs",
            columns,
            if_not_exists=True,
            postgresql_where=where,
            sqlite_where=where,
        )


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "objects_due_at")
    op.drop_table("tenants")
