"""Jobs bound to a model, the model in force, results by pipeline.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hilum.db.migrations.frozen import TENANT, TIME, Metadata, required

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
# The release before inserts results without a pipeline, and gets the default below.
oldest_code = "0002"

_PIPELINE = "0002-ada4d86b8a98039b"  # of all results so far
_KEY = ["tenant", "sop_instance_uid", "content_sha256", "model_id"]
_OLD = "uq_results_tenant_sop_instance_uid_content_sha256_model_id"
_NEW = "uq_results_identity"
_SCHEMA = Metadata()
sa.Table("models", _SCHEMA, sa.Column("id", sa.Integer(), primary_key=True))
_SERVING = sa.Table(
    "serving",
    _SCHEMA,
    sa.Column("tenant", TENANT, primary_key=True),
    required("model_id", sa.ForeignKey("models.id")),
    sa.Column("canary_model_id", sa.ForeignKey("models.id")),
    required("canary_share", sa.Float()),
    required("changed_at", TIME),
)
_BOUND = ("bound_lease_until", "bound_available_at", "bound_published_at")


def prepare(connection: sa.Connection) -> None:
    """On PostgreSQL, before the transaction: build the new index while results are written.

    At 10^8 rows that takes minutes, in which a lock on the table would stop every worker. The
    column has a constant default, so that adding it rewrites nothing.
    """
    if not sa.inspect(connection).has_table("results"):
        return
    connection.execute(
        sa.text(
            "ALTER TABLE results ADD COLUMN IF NOT EXISTS pipeline "
            f"VARCHAR(32) DEFAULT '{_PIPELINE}' NOT NULL"
        )
    )
    # From here on, waiting for others makes nobody wait, and may take as long as it takes.
    connection.execute(sa.text("SET lock_timeout = 0"))
    state = sa.text(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE relname = :name AND pg_table_is_visible(pg_class.oid)"
    )
    valid = connection.execute(state, {"name": _NEW}).scalar_one_or_none()
    if valid is False:  # left by a build that was broken off
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY {_NEW}"))
    if not valid:
        columns = ", ".join([*_KEY, "pipeline"])
        connection.execute(
            sa.text(f"CREATE UNIQUE INDEX CONCURRENTLY {_NEW} ON results ({columns})")
        )


def upgrade() -> None:
    _SERVING.create(op.get_bind(), checkfirst=False)
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("model_id", sa.Integer()))
        batch.create_foreign_key("fk_jobs_model_id", "models", ["model_id"], ["id"])
        batch.add_column(sa.Column("campaign_id", sa.String(36)))
        for name in _BOUND:
            batch.add_column(sa.Column(name, TIME))
    if op.get_bind().dialect.name == "postgresql":
        # `prepare` has made the index, unless the table is as new as this transaction.
        op.execute(
            "ALTER TABLE results ADD COLUMN IF NOT EXISTS pipeline "
            f"VARCHAR(32) DEFAULT '{_PIPELINE}' NOT NULL"
        )
        columns = ", ".join([*_KEY, "pipeline"])
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {_NEW} ON results ({columns})")
        op.execute(f"ALTER TABLE results ADD CONSTRAINT {_NEW} UNIQUE USING INDEX {_NEW}")
        op.drop_constraint(_OLD, "results", type_="unique")
        return
    pipeline = sa.Column("pipeline", sa.String(32), nullable=False, server_default=_PIPELINE)
    with op.batch_alter_table("results") as batch:
        batch.add_column(pipeline)
        batch.drop_constraint(_OLD, type_="unique")
        batch.create_unique_constraint(_NEW, [*_KEY, "pipeline"])


def downgrade() -> None:
    """Bound jobs become jobs for any worker, and the jobs of campaigns are removed: the release
    before would show their results. Of results that differ by their pipeline alone, the newest
    stays."""
    for table in ("items", "outbox"):
        op.execute(
            f"DELETE FROM {table} WHERE job_id IN "
            "(SELECT id FROM jobs WHERE campaign_id IS NOT NULL)"
        )
    op.execute("DELETE FROM jobs WHERE campaign_id IS NOT NULL")
    op.execute(
        "UPDATE jobs SET lease_until = bound_lease_until, published_at = bound_published_at, "
        "available_at = bound_available_at WHERE model_id IS NOT NULL"
    )
    same = " AND ".join(f"newer.{name} = results.{name}" for name in _KEY)
    newest = f"SELECT max(newer.id) FROM results AS newer WHERE {same}"
    older = f"SELECT results.id FROM results WHERE results.id < ({newest})"
    op.execute(
        "UPDATE items SET result_id = "
        f"(SELECT ({newest}) FROM results WHERE results.id = items.result_id) "
        f"WHERE result_id IN ({older})"
    )
    op.execute(f"DELETE FROM findings WHERE result_id IN ({older})")
    op.execute(f"DELETE FROM results WHERE id IN ({older})")
    with op.batch_alter_table("results") as batch:
        batch.drop_constraint(_NEW, type_="unique")
        batch.drop_column("pipeline")
        batch.create_unique_constraint(_OLD, _KEY)
    with op.batch_alter_table("jobs") as batch:
        batch.drop_constraint("fk_jobs_model_id", type_="foreignkey")
        for name in ("model_id", "campaign_id", *_BOUND):
            batch.drop_column(name)
    op.drop_table("serving")
