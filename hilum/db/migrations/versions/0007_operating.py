"""Readers' feedback; indexes by which operators list jobs; the trace context of a job.

Expands only: a new table, a nullable column, and indexes.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hilum.db.migrations.frozen import ID, SERIAL, SHA256, TENANT, TIME, UID, Metadata, required

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
oldest_code = "0002"

_SCHEMA = Metadata()
sa.Table("studies", _SCHEMA, sa.Column("id", ID, primary_key=True))
sa.Table("images", _SCHEMA, sa.Column("id", ID, primary_key=True))
sa.Table("models", _SCHEMA, sa.Column("id", sa.Integer(), primary_key=True))
_FEEDBACK = sa.Table(
    "feedback",
    _SCHEMA,
    sa.Column("id", SERIAL, primary_key=True),
    required("tenant", TENANT),
    required("study_id", sa.ForeignKey("studies.id")),
    required("image_id", sa.ForeignKey("images.id")),
    required("result_id", sa.BigInteger()),
    required("model_id", sa.ForeignKey("models.id")),
    required("sop_instance_uid", UID),
    required("content_sha256", SHA256),
    required("label", sa.String(64)),
    required("verdict", sa.String(16)),
    required("found", sa.Boolean()),
    required("present", sa.Boolean()),
    required("key_id", ID),
    sa.Column("reader", sa.String(64)),
    required("created_at", TIME),
    sa.Index("ix_feedback_tenant_study_id", "tenant", "study_id", "id"),
    sa.Index("ix_feedback_tenant_model_label", "tenant", "model_id", "label", "id"),
    sa.Index("ix_feedback_tenant_content_sha256", "tenant", "content_sha256"),
)
# Name: table, columns, condition.
_INDEXES: dict[str, tuple[str, list[str], str | None]] = {
    "ix_jobs_tenant_id": ("jobs", ["tenant", "id"], None),
    "ix_jobs_failed": ("jobs", ["id"], "status = 'failed'"),
    "ix_items_error_code_job_id": ("items", ["error_code", "job_id"], "error_code IS NOT NULL"),
}


def prepare(connection: sa.Connection) -> None:
    """On PostgreSQL, before the transaction: build the indexes while jobs are written."""
    if not sa.inspect(connection).has_table("jobs"):
        return
    connection.execute(sa.text("SET lock_timeout = 0"))
    state = sa.text(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE relname = :name AND pg_table_is_visible(pg_class.oid)"
    )
    for name, (table, columns, which) in _INDEXES.items():
        if connection.execute(state, {"name": name}).scalar_one_or_none() is False:
            # Left by a build that was broken off.
            connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {name}"))
        where = f" WHERE {which}" if which else ""
        connection.execute(
            sa.text(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} "
                f"({', '.join(columns)}){where}"
            )
        )


def upgrade() -> None:
    _FEEDBACK.create(op.get_bind(), checkfirst=False)
    op.add_column("jobs", sa.Column("traceparent", sa.String(55)))
    for name, (table, columns, which) in _INDEXES.items():
        where = sa.text(which) if which else None
        op.create_index(
            name, table, columns, if_not_exists=True, postgresql_where=where, sqlite_where=where
        )


def downgrade() -> None:
    for name, (table, _, _) in _INDEXES.items():
        op.drop_index(name, table)
    op.drop_column("jobs", "traceparent")
    op.drop_table("feedback")
