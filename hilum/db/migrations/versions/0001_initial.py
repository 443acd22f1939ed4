"""The first schema.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hilum.db.migrations.frozen import ID, SERIAL, SHA256, TENANT, TIME, UID, Metadata, required

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SCHEMA = Metadata()
sa.Table(
    "api_keys",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("tenant", TENANT),
    required("name", sa.String(100)),
    required("key_sha256", SHA256, unique=True),
    required("scopes", sa.JSON()),
    required("created_at", TIME),
    sa.Column("revoked_at", TIME),
)
sa.Table(
    "models",
    _SCHEMA,
    sa.Column("id", sa.Integer(), primary_key=True),
    required("digest", sa.String(71)),
    required("preprocess_digest", sa.String(64)),
    required("manifest", sa.JSON()),
    required("registered_at", TIME),
    sa.UniqueConstraint("digest", "preprocess_digest"),
)
sa.Table(
    "studies",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("tenant", TENANT),
    required("created_at", TIME),
    sa.Index("ix_studies_tenant_id", "tenant", "id"),
)
sa.Table(
    "images",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("study_id", sa.ForeignKey("studies.id")),
    required("position", sa.Integer()),
    required("uri", sa.Text()),
    sa.UniqueConstraint("study_id", "position"),
)
sa.Table(
    "jobs",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("study_id", sa.ForeignKey("studies.id"), index=True),
    required("tenant", TENANT),
    required("queue", sa.String(16)),
    required("status", sa.String(16)),
    required("attempts", sa.Integer()),
    required("unreported", sa.Integer()),
    required("deferrals", sa.Integer()),
    sa.Column("failing_since", TIME),
    sa.Column("lease_until", TIME),
    required("available_at", TIME),
    sa.Column("published_at", TIME),
    required("created_at", TIME),
    sa.Column("finished_at", TIME),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.JSON()),
    sa.Index("ix_jobs_status_available_at", "status", "available_at"),
)
sa.Table(
    "results",
    _SCHEMA,
    sa.Column("id", SERIAL, primary_key=True),
    required("tenant", TENANT),
    required("sop_instance_uid", UID),
    required("content_sha256", SHA256),
    required("model_id", sa.ForeignKey("models.id")),
    required("series_instance_uid", UID),
    required("study_instance_uid", UID),
    required("rows", sa.Integer()),
    required("columns", sa.Integer()),
    required("raw", sa.LargeBinary()),
    required("probability", sa.LargeBinary()),
    required("cam", sa.LargeBinary()),
    required("cam_labels", sa.LargeBinary()),
    required("engine", sa.String(64)),
    required("flags", sa.JSON()),
    required("created_at", TIME),
    sa.UniqueConstraint("tenant", "sop_instance_uid", "content_sha256", "model_id"),
)
sa.Table(
    "findings",
    _SCHEMA,
    sa.Column("result_id", sa.ForeignKey("results.id"), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    required("probability", sa.Float()),
    required("threshold", sa.Float()),
)
sa.Table(
    "items",
    _SCHEMA,
    sa.Column("job_id", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id"), primary_key=True, index=True),
    required("status", sa.String(16)),
    required("unreported", sa.Integer()),
    sa.Column("result_id", sa.ForeignKey("results.id")),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.JSON()),
    sa.Column("finished_at", TIME),
)
sa.Table(
    "outbox",
    _SCHEMA,
    sa.Column("id", SERIAL, primary_key=True),
    required("tenant", TENANT),
    required("kind", sa.String(32)),
    required("job_id", sa.ForeignKey("jobs.id")),
    required("created_at", TIME),
    sa.Column("delivered_at", TIME),
    sa.UniqueConstraint("job_id", "kind"),
)
sa.Table(
    "idempotency_keys",
    _SCHEMA,
    sa.Column("tenant", TENANT, primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    required("request_sha256", SHA256),
    required("study_id", sa.ForeignKey("studies.id")),
    required("created_at", TIME),
)


def upgrade() -> None:
    _SCHEMA.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    _SCHEMA.drop_all(op.get_bind(), checkfirst=False)
