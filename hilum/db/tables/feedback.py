"""What readers said of findings."""

from __future__ import annotations

import sqlalchemy as sa

from hilum.db.tables.columns import ID, SERIAL, SHA256, TENANT, UID, UtcDateTime, metadata

# Rows are only added; of a reader, the newest row on a film and label is in force. Nothing here
# names a person: `reader` is an opaque id.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("study_id", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("image_id", sa.ForeignKey("images.id"), nullable=False),
    # The result that the reader saw. No foreign key: feedback outlives results.
    sa.Column("result_id", sa.BigInteger, nullable=False),
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    # The film, as results and instances have it.
    sa.Column("sop_instance_uid", UID, nullable=False),
    sa.Column("content_sha256", SHA256, nullable=False),
    sa.Column("label", sa.String(64), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("found", sa.Boolean, nullable=False),  # what the model said, at its operating point
    sa.Column("present", sa.Boolean, nullable=False),  # what the reader says
    sa.Column("key_id", ID, nullable=False),
    sa.Column("reader", sa.String(64)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_feedback_tenant_study_id", "tenant", "study_id", "id"),
    sa.Index("ix_feedback_tenant_model_label", "tenant", "model_id", "label", "id"),
    sa.Index("ix_feedback_tenant_content_sha256", "tenant", "content_sha256"),
)
