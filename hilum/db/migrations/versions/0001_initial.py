"""The first schema.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out here, not imported: a migration must not change with the code around it.
_ID = sa.String(36)
_TENANT = sa.String(64)
_UID = sa.String(64)
_SHA256 = sa.LargeBinary(32)
_TIME = sa.DateTime(timezone=True)
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("key_sha256", _SHA256, nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("revoked_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_sha256", name="uq_api_keys_key_sha256"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("preprocess_digest", sa.String(64), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("registered_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint(
            "digest", "preprocess_digest", name="uq_models_digest_preprocess_digest"
        ),
    )
    op.create_table(
        "studies",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
    )
    op.create_index("ix_studies_tenant_id", "studies", ["tenant", "id"])
    op.create_table(
        "images",
        sa.Column("id", _ID, nullable=False),
        sa.Column("study_id", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_images_study_id"),
        sa.UniqueConstraint("study_id", "position", name="uq_images_study_id_position"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("study_id", _ID, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("unreported", sa.Integer(), nullable=False),
        sa.Column("deferrals", sa.Integer(), nullable=False),
        sa.Column("failing_since", _TIME),
        sa.Column("lease_until", _TIME),
        sa.Column("available_at", _TIME, nullable=False),
        sa.Column("published_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_jobs_study_id"),
    )
    op.create_index("ix_jobs_study_id", "jobs", ["study_id"])
    op.create_index("ix_jobs_status_available_at", "jobs", ["status", "available_at"])
    op.create_table(
        "results",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("sop_instance_uid", _UID, nullable=False),
        sa.Column("content_sha256", _SHA256, nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", _UID, nullable=False),
        sa.Column("study_instance_uid", _UID, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", sa.Integer(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("probability", sa.LargeBinary(), nullable=False),
        sa.Column("cam", sa.LargeBinary(), nullable=False),
        sa.Column("cam_labels", sa.LargeBinary(), nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_results"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_results_model_id"),
        sa.UniqueConstraint(
            "tenant",
            "sop_instance_uid",
            "content_sha256",
            "model_id",
            name="uq_results_tenant_sop_instance_uid_content_sha256_model_id",
        ),
    )
    op.create_table(
        "findings",
        sa.Column("result_id", _SERIAL, nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("result_id", "label", name="pk_findings"),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], name="fk_findings_result_id"),
    )
    op.create_table(
        "items",
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("image_id", _ID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("unreported", sa.Integer(), nullable=False),
        sa.Column("result_id", _SERIAL),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error", sa.JSON()),
        sa.Column("finished_at", _TIME),
        sa.PrimaryKeyConstraint("job_id", "image_id", name="pk_items"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_items_job_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_items_image_id"),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], name="fk_items_result_id"),
    )
    op.create_index("ix_items_image_id", "items", ["image_id"])
    op.create_table(
        "outbox",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("delivered_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outbox_job_id"),
        sa.UniqueConstraint("job_id", "kind", name="uq_outbox_job_id_kind"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_sha256", _SHA256, nullable=False),
        sa.Column("study_id", _ID, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_idempotency_keys_study_id"),
    )


def downgrade() -> None:
    for table in (
        "idempotency_keys",
        "outbox",
        "items",
        "findings",
        "results",
        "jobs",
        "images",
        "studies",
        "models",
        "api_keys",
    ):
        op.drop_table(table)
