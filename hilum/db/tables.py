"""The tables. SQL is the truth about every study, job and result.

A *study* is what a client registered: *images* by URI. A *job* asks for all images of a study
to be scored once; its *items* carry the state of each image within that job. A *result* belongs
to an instance and a model, not to a job, and exists once: redelivery cannot double it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python; ``timestamptz`` on PostgreSQL, naive UTC on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, which mean something else on every server."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Always aware."""
        if value is None:
            return None
        aware: datetime = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return aware.astimezone(UTC)


# Named constraints, so that migrations can find them on every database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(36)
_TENANT = String(64)
_UID = String(64)  # DICOM PS3.5 section 9.1: at most 64 characters
_SHA256 = LargeBinary(32)
_JSON = JSON(none_as_null=True)
# What results were made with before they said so, and what the release before writes still.
FIRST_PIPELINE: Final = "0002-ada4d86b8a98039b"
# SQLite grows only INTEGER keys by itself.
_SERIAL = BigInteger().with_variant(Integer, "sqlite")

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("name", String(100), nullable=False),
    Column("key_sha256", _SHA256, nullable=False, unique=True),
    Column("scopes", _JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

models = Table(
    "models",
    metadata,
    # Small, because every result repeats it: 8 bytes instead of two digests of 64.
    Column("id", Integer, primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("preprocess_digest", String(64), nullable=False),
    Column("manifest", _JSON, nullable=False),
    Column("registered_at", UtcDateTime, nullable=False),
    UniqueConstraint("digest", "preprocess_digest"),
)

# What a tenant's studies show: the results of this model, wherever it has any.
serving = Table(
    "serving",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    # A share of the studies, from 0 to 1, shows the results of this model instead.
    Column("canary_model_id", ForeignKey("models.id")),
    Column("canary_share", Float, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

studies = Table(
    "studies",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_studies_tenant_id", "tenant", "id"),
)

images = Table(
    "images",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("uri", Text, nullable=False),
    UniqueConstraint("study_id", "position"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False, index=True),
    Column("tenant", _TENANT, nullable=False),
    # The priority. A bound job's task travels on a queue of its own (hilum.queue.route).
    Column("queue", String(16), nullable=False),
    # The job is bound: only workers that serve this model take it. Null: any worker does.
    Column("model_id", ForeignKey("models.id")),
    # The campaign that asked for it. Null: the job is live, and decides what its study shows.
    Column("campaign_id", _ID),
    Column("status", String(16), nullable=False),
    # Every claim adds one. It is also the fence: a worker that lost its lease cannot write.
    Column("attempts", Integer, nullable=False, default=0),
    # Claims in a row that never reported back (killed, out of memory): the poison counter.
    Column("unreported", Integer, nullable=False, default=0),
    # Transient errors in a row, with no image ended in between: what the back-off grows with.
    Column("deferrals", Integer, nullable=False, default=0),
    # When the first of them was. What gives up is the length of the trouble, not the job's age:
    # a job may wait for days in a backlog before its first attempt.
    Column("failing_since", UtcDateTime),
    # Six columns for three times; only hilum.db.schedule reads and writes them.
    Column("lease_until", UtcDateTime),
    Column("available_at", UtcDateTime, nullable=False),
    Column("published_at", UtcDateTime),
    Column("bound_lease_until", UtcDateTime),
    Column("bound_available_at", UtcDateTime),
    Column("bound_published_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("error_code", String(64)),
    Column("error", _JSON),
    Index("ix_jobs_status_available_at", "status", "available_at"),
)

results = Table(
    "results",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),
    # A corrected image may come again under its old UID: the bytes are part of the identity.
    Column("content_sha256", _SHA256, nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    # Version of the pixel code and of the film check (hilum.pipeline.version): a corrected decoder
    # makes another result of the same bytes.
    Column("pipeline", String(32), nullable=False, server_default=FIRST_PIPELINE),
    Column("series_instance_uid", _UID, nullable=False),
    Column("study_instance_uid", _UID, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
    # float32 little endian in the order of the model's label schema.
    Column("raw", LargeBinary, nullable=False),
    Column("probability", LargeBinary, nullable=False),
    # float16 little endian [len(cam_labels), h, w]; cam_labels: uint8 label indices.
    Column("cam", LargeBinary, nullable=False),
    Column("cam_labels", LargeBinary, nullable=False),
    Column("engine", String(64), nullable=False),
    # `configured`, `auto`, or `auto:<error code>` of what kept the preferred engine from it.
    Column("engine_reason", String(64)),
    Column("flags", _JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The name is given: the convention's has 69 characters, and PostgreSQL keeps 63.
    UniqueConstraint(
        "tenant",
        "sop_instance_uid",
        "content_sha256",
        "model_id",
        "pipeline",
        name="uq_results_identity",
    ),
)

findings = Table(
    "findings",
    metadata,
    Column("result_id", ForeignKey("results.id"), primary_key=True),
    Column("label", String(64), primary_key=True),
    Column("probability", Float, nullable=False),
    Column("threshold", Float, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("image_id", ForeignKey("images.id"), primary_key=True, index=True),
    Column("status", String(16), nullable=False),
    # Starts that never reported back: an image that kills its worker is found by this.
    Column("unreported", Integer, nullable=False, default=0),
    Column("result_id", ForeignKey("results.id")),
    # Of a pending item: the transient error it last met.
    Column("error_code", String(64)),
    Column("error", _JSON),
    Column("finished_at", UtcDateTime),
)

# One row a report owed, written in the transaction that makes it due. Deliveries read it.
outbox = Table(
    "outbox",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    UniqueConstraint("job_id", "kind"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_sha256", _SHA256, nullable=False),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
