"""The tables. SQL is the truth about every study, job and result.

A *study* is what a client registered: *images* by URI. A *job* asks for all images of a study
to be scored once; its *items* carry the state of each image within that job. A *result* belongs
to an instance and a model, not to a job, and exists once: redelivery cannot double it.

An *instance* is a DICOM object as its header describes it. A *campaign* scores a frozen selection
of instances again. A *delivery* carries one event of the outbox to one destination. The *audit*
rows say who did what, and cannot be changed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
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
    Time,
    TypeDecorator,
    UniqueConstraint,
    text,
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
        aware: datetime = (
            value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        )
        return aware


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
    # The scopes in force. `scopes` above repeats what the release before can read of them, which
    # knows only the old names and fails on others; it is also all there is of a key made by it.
    Column("granted", _JSON),
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

# One event of the outbox on its way to one destination; the sender takes it under a lease.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("event_id", ForeignKey("outbox.id"), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("destination", String(100), nullable=False),
    # Every taking adds one. It is also the fence, as that of a job.
    Column("attempts", Integer, nullable=False),
    # When to try next; null: there is nothing more to do, it was delivered or given up.
    Column("due_at", UtcDateTime, index=True),
    Column("lease_until", UtcDateTime),
    Column("error_code", String(64)),
    Column("error", _JSON),
    Column("delivered_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("event_id", "destination"),
)

# One row for each content that was seen under a SOP Instance UID, as results have it. The texts
# may name a patient: they stay in SQL.
instances = Table(
    "instances",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("sop_instance_uid", _UID, nullable=False),  # empty: a PNG or JPEG file
    Column("content_sha256", _SHA256, nullable=False),
    Column("series_instance_uid", _UID, nullable=False),
    Column("study_instance_uid", _UID, nullable=False),
    Column("uri", Text),  # where it was seen last; null: not known of an old result
    Column("etag", String(128)),
    Column("source", String(64)),  # the bucket, or the sender's AE title
    Column("rows", Integer, nullable=False),
    Column("columns", Integer, nullable=False),
    Column("modality", String(16)),
    Column("view", String(32)),
    # As the header has them, in the local time of the device.
    Column("acquisition_date", Date),
    Column("acquisition_time", Time),
    Column("institution", String(64)),
    Column("manufacturer", String(64)),
    Column("manufacturer_model", String(64)),
    Column("age_years", Float),
    Column("sex", String(1)),
    # Only where HILUM_IDENTITY__STORE is on: AES-256-GCM, and a keyed hash to search by.
    Column("accession_number", LargeBinary),
    Column("accession_number_hash", _SHA256),
    Column("patient_id", LargeBinary),
    Column("patient_id_hash", _SHA256),
    Column("patient_name", LargeBinary),
    Column("patient_name_hash", _SHA256),
    Column("first_seen_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    UniqueConstraint("tenant", "sop_instance_uid", "content_sha256"),
    Index("ix_instances_tenant_study_instance_uid", "tenant", "study_instance_uid"),
    Index("ix_instances_tenant_series_instance_uid", "tenant", "series_instance_uid"),
    # Campaigns select by these, newest first.
    Index("ix_instances_tenant_acquisition_date", "tenant", "acquisition_date"),
    Index("ix_instances_tenant_view_date", "tenant", "view", "acquisition_date"),
    Index("ix_instances_tenant_institution_date", "tenant", "institution", "acquisition_date"),
    Index("ix_instances_tenant_device_date", "tenant", "manufacturer_model", "acquisition_date"),
    *(
        Index(
            f"ix_instances_tenant_{column}",
            "tenant",
            column,
            postgresql_where=text(f"{column} IS NOT NULL"),
            sqlite_where=text(f"{column} IS NOT NULL"),
        )
        for column in ("accession_number_hash", "patient_id_hash", "patient_name_hash")
    ),
)

# A frozen selection of instances to be scored by one model; its results are shadow results until
# the model is promoted.
campaigns = Table(
    "campaigns",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("name", String(100), nullable=False),
    # Frozen at creation: which instances (date, site, view, device, label), and with what.
    Column("selection", _JSON, nullable=False),
    Column("modes", _JSON, nullable=False),  # of missing, failed, refused, stale, all
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("preprocess_digest", String(64), nullable=False),
    Column("pipeline", String(100), nullable=False),  # as results.pipeline has it
    Column("status", String(16), nullable=False),
    # When it may run: start, end, weekdays, time zone (IANA), overlap policy; null: always.
    Column("window", _JSON),
    Column("images_per_s", Float),  # the throttle; null: none
    Column("max_failure_rate", Float),  # above it, the campaign pauses by itself; null: never
    # Kept up by who changes an item, so that progress is read from this row alone.
    Column("selected", BigInteger, nullable=False, default=0),
    Column("queued", BigInteger, nullable=False, default=0),
    Column("scored", BigInteger, nullable=False, default=0),
    Column("refused", BigInteger, nullable=False, default=0),
    Column("failed", BigInteger, nullable=False, default=0),
    Column("error_code", String(64)),  # why it paused by itself
    Column("error", _JSON),
    Column("created_by", String(100), nullable=False),  # an actor, as audit has it
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Index("ix_campaigns_tenant_id", "tenant", "id"),
    Index("ix_campaigns_status", "status"),
)

# One instance of a campaign. `position` counts in the campaign's own order, newest first by
# default: the keyset by which slices are cut and a run resumes.
campaign_items = Table(
    "campaign_items",
    metadata,
    Column("campaign_id", ForeignKey("campaigns.id"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("instance_id", ForeignKey("instances.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), index=True),
    Column("error_code", String(64)),
    UniqueConstraint("campaign_id", "instance_id"),
    Index("ix_campaign_items_campaign_id_state_position", "campaign_id", "state", "position"),
)

# Who did what, in one chain (:mod:`hilum.db.audit`). Triggers refuse to change or remove a row.
audit = Table(
    "audit",
    metadata,
    # Without a gap: each is one more than the one before.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("tenant", _TENANT),  # null: of the whole installation
    Column("actor", String(100), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(100), nullable=False),  # an opaque id, such as `jb_…`
    Column("detail", _JSON, nullable=False),
    Column("previous_hash", _SHA256, nullable=False, unique=True),
    Column("hash", _SHA256, nullable=False),
    Index("ix_audit_tenant_id", "tenant", "id"),
    Index("ix_audit_object", "object"),
)
