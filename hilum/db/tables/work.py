"""Studies, their images, and the jobs that score them; events and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa

from hilum.db.tables.columns import DOCUMENT, ID, SERIAL, SHA256, TENANT, UtcDateTime, metadata


def _queued(name: str, which: str, *columns: str) -> sa.Index:
    where = sa.text(f"status = 'queued' AND {which}")
    return sa.Index(name, *columns, postgresql_where=where, sqlite_where=where)


studies = sa.Table(
    "studies",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_studies_tenant_id", "tenant", "id"),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("study_id", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("uri", sa.Text, nullable=False),
    sa.UniqueConstraint("study_id", "position"),
    # Finds how an instance ended in live jobs. A hash, because an address may be too long for a
    # B-tree of PostgreSQL.
    sa.Index("ix_images_uri", "uri", postgresql_using="hash"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("study_id", sa.ForeignKey("studies.id"), nullable=False, index=True),
    sa.Column("tenant", TENANT, nullable=False),
    # The priority. A bound job's task travels on a queue of its own (hilum.queue.route).
    sa.Column("queue", sa.String(16), nullable=False),
    # The job is bound: only workers that serve this model claim it. Null: any worker does.
    sa.Column("model_id", sa.ForeignKey("models.id")),
    # The campaign of the job. Null: the job is live and decides what its study shows.
    sa.Column("campaign_id", ID),
    sa.Column("status", sa.String(16), nullable=False),
    # Every claim adds one. This is also the fence: a worker that lost its lease cannot write.
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # Claims in a row whose worker did not report back, for example because it was killed.
    sa.Column("unreported", sa.Integer, nullable=False, default=0),
    # Transient errors in a row, with no outcome in between: the back-off grows with them.
    sa.Column("deferrals", sa.Integer, nullable=False, default=0),
    # When the first of them occurred. A job is quarantined after so long in trouble, not at an
    # age: it may wait for days in a backlog before its first attempt.
    sa.Column("failing_since", UtcDateTime),
    # Six columns for three times; only hilum.db.schedule reads and writes them.
    sa.Column("lease_until", UtcDateTime),
    sa.Column("available_at", UtcDateTime, nullable=False),
    sa.Column("published_at", UtcDateTime),
    sa.Column("bound_lease_until", UtcDateTime),
    sa.Column("bound_available_at", UtcDateTime),
    sa.Column("bound_published_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    # Until then an object that does not exist may still arrive. Null: the setting decides.
    sa.Column("objects_due_at", UtcDateTime),
    # W3C trace context of the span that published it; null while tracing is off.
    sa.Column("traceparent", sa.String(55)),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", DOCUMENT),
    sa.Index("ix_jobs_status_available_at", "status", "available_at"),
    # Operators list by these.
    sa.Index("ix_jobs_tenant_id", "tenant", "id"),
    sa.Index(
        "ix_jobs_failed",
        "id",
        postgresql_where=sa.text("status = 'failed'"),
        sqlite_where=sa.text("status = 'failed'"),
    ),
    # Workers claim by these.
    _queued("ix_jobs_queued", "model_id IS NULL", "queue", "tenant", "available_at"),
    _queued(
        "ix_jobs_queued_bound",
        "model_id IS NOT NULL",
        *("queue", "model_id", "tenant", "bound_available_at"),
    ),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("job_id", sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("image_id", sa.ForeignKey("images.id"), primary_key=True, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    # Starts whose worker did not report back: finds the image that kills its worker.
    sa.Column("unreported", sa.Integer, nullable=False, default=0),
    sa.Column("result_id", sa.ForeignKey("results.id")),
    # Of a pending item: its last transient error.
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", DOCUMENT),
    sa.Column("finished_at", UtcDateTime),
    sa.Index(
        "ix_items_error_code_job_id",
        "error_code",
        "job_id",
        postgresql_where=sa.text("error_code IS NOT NULL"),
        sqlite_where=sa.text("error_code IS NOT NULL"),
    ),
)

# One row an event, written in the transaction that causes it. Deliveries read it.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("delivered_at", UtcDateTime),
    sa.UniqueConstraint("job_id", "kind"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant", TENANT, primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request_sha256", SHA256, nullable=False),
    sa.Column("study_id", sa.ForeignKey("studies.id"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

# The order to send one event to one destination; the sender claims it under a lease.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("event_id", sa.ForeignKey("outbox.id"), nullable=False),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), nullable=False, index=True),
    sa.Column("destination", sa.String(100), nullable=False),
    # Every claim adds one. This is also the fence, as that of a job.
    sa.Column("attempts", sa.Integer, nullable=False),
    # When to try next. Null: the delivery has ended.
    sa.Column("due_at", UtcDateTime, index=True),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", DOCUMENT),
    sa.Column("delivered_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("event_id", "destination"),
)

# How a tenant shares the workers with the others. A tenant without a row has weight 1.
tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant", TENANT, primary_key=True),
    # Relative to other tenants that have work of the same priority.
    sa.Column("weight", sa.Float, nullable=False),
    # At most so many jobs of the tenant are in hand at a time; null: the setting decides.
    sa.Column("max_running_jobs", sa.Integer),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)
