"""Models, the model in force, and results."""

from __future__ import annotations

import sqlalchemy as sa

from hilum.db.tables.columns import (
    DOCUMENT,
    FIRST_PIPELINE,
    SERIAL,
    SHA256,
    TENANT,
    UID,
    UtcDateTime,
    metadata,
)

models = sa.Table(
    "models",
    metadata,
    # Small, because every result repeats it: 4 bytes instead of two digests of 64.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(71), nullable=False),
    sa.Column("preprocess_digest", sa.String(64), nullable=False),
    sa.Column("manifest", DOCUMENT, nullable=False),
    sa.Column("registered_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("digest", "preprocess_digest"),
)

# The model in force for a tenant: its studies show the results of this model where they exist.
serving = sa.Table(
    "serving",
    metadata,
    sa.Column("tenant", TENANT, primary_key=True),
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    # A share of the studies, from 0 to 1, shows the results of this model first.
    sa.Column("canary_model_id", sa.ForeignKey("models.id")),
    sa.Column("canary_share", sa.Float, nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    # Results of a newer pipeline are not shown before they are promoted, unless a live job of the
    # image made them. Null: no limit.
    sa.Column("pipeline", sa.String(32)),
    sa.Column("canary_pipeline", sa.String(32)),
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("sop_instance_uid", UID, nullable=False),
    # A corrected image may come again under its old UID: the bytes are part of the identity.
    sa.Column("content_sha256", SHA256, nullable=False),
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    # Version of the pixel code and of the film check (hilum.pipeline.version): a corrected decoder
    # makes another result of the same bytes.
    sa.Column("pipeline", sa.String(32), nullable=False, server_default=FIRST_PIPELINE),
    sa.Column("series_instance_uid", UID, nullable=False),
    sa.Column("study_instance_uid", UID, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("columns", sa.Integer, nullable=False),
    # float32 little endian in the order of the model's label schema.
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("probability", sa.LargeBinary, nullable=False),
    # float16 little endian [len(cam_labels), h, w]; cam_labels: uint8 label indices.
    sa.Column("cam", sa.LargeBinary, nullable=False),
    sa.Column("cam_labels", sa.LargeBinary, nullable=False),
    sa.Column("engine", sa.String(64), nullable=False),
    # `configured`, `auto`, or `auto:` and the code of the error of the preferred engine.
    sa.Column("engine_reason", sa.String(64)),
    sa.Column("flags", DOCUMENT, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # The name by the convention would have 69 characters; PostgreSQL keeps 63.
    sa.UniqueConstraint(
        "tenant",
        "sop_instance_uid",
        "content_sha256",
        "model_id",
        "pipeline",
        name="uq_results_identity",
    ),
)

findings = sa.Table(
    "findings",
    metadata,
    sa.Column("result_id", sa.ForeignKey("results.id"), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("threshold", sa.Float, nullable=False),
)
