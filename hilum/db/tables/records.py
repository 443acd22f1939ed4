"""Instances, API keys, and the audit."""

from __future__ import annotations

import sqlalchemy as sa

from hilum.db.tables.columns import DOCUMENT, ID, SERIAL, SHA256, TENANT, UID, UtcDateTime, metadata

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("key_sha256", SHA256, nullable=False, unique=True),
    sa.Column("scopes", DOCUMENT, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    # The scopes in force. `scopes` has what the release before can read of them: it knows only the
    # old names and fails on others. A key that it created has `scopes` only.
    sa.Column("granted", DOCUMENT),
)

# One row for each content that was seen under a SOP Instance UID, as results have it. Its texts
# may name a patient: they must not leave SQL.
instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("sop_instance_uid", UID, nullable=False),  # empty: a PNG or JPEG file
    sa.Column("content_sha256", SHA256, nullable=False),
    sa.Column("series_instance_uid", UID, nullable=False),
    sa.Column("study_instance_uid", UID, nullable=False),
    sa.Column("uri", sa.Text),  # where the object was seen last; null: unknown for an old result
    sa.Column("etag", sa.String(128)),
    sa.Column("source", sa.String(64)),  # the bucket, or the sender's AE title
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("columns", sa.Integer, nullable=False),
    sa.Column("modality", sa.String(16)),
    sa.Column("view", sa.String(32)),
    # From the header, in the local time of the device.
    sa.Column("acquisition_date", sa.Date),
    sa.Column("acquisition_time", sa.Time),
    sa.Column("institution", sa.String(64)),
    sa.Column("manufacturer", sa.String(64)),
    sa.Column("manufacturer_model", sa.String(64)),
    sa.Column("age_years", sa.Float),
    sa.Column("sex", sa.String(1)),
    # Only if HILUM_IDENTITY__STORE is on: AES-256-GCM, and a keyed hash to search by.
    sa.Column("accession_number", sa.LargeBinary),
    sa.Column("accession_number_hash", SHA256),
    sa.Column("patient_id", sa.LargeBinary),
    sa.Column("patient_id_hash", SHA256),
    sa.Column("patient_name", sa.LargeBinary),
    sa.Column("patient_name_hash", SHA256),
    sa.Column("first_seen_at", UtcDateTime, nullable=False),
    sa.Column("last_seen_at", UtcDateTime, nullable=False),
    # True: only the header was read (`hilum index`). `content_sha256` is then a digest of address
    # and ETag, until the film is scored. Null: the whole object was read.
    sa.Column("header_only", sa.Boolean),
    sa.UniqueConstraint("tenant", "sop_instance_uid", "content_sha256"),
    sa.Index("ix_instances_tenant_study_instance_uid", "tenant", "study_instance_uid"),
    sa.Index("ix_instances_tenant_series_instance_uid", "tenant", "series_instance_uid"),
    # Campaigns select by these, newest first.
    sa.Index("ix_instances_tenant_acquisition_date", "tenant", "acquisition_date"),
    sa.Index("ix_instances_tenant_view_date", "tenant", "view", "acquisition_date"),
    sa.Index("ix_instances_tenant_institution_date", "tenant", "institution", "acquisition_date"),
    sa.Index("ix_instances_tenant_device_date", "tenant", "manufacturer_model", "acquisition_date"),
    *(
        sa.Index(
            f"ix_instances_tenant_{column}",
            "tenant",
            column,
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
            sqlite_where=sa.text(f"{column} IS NOT NULL"),
        )
        for column in ("accession_number_hash", "patient_id_hash", "patient_name_hash")
    ),
)

# Who did what, in one chain (:mod:`hilum.db.audit`). Triggers refuse changes and removals.
audit = sa.Table(
    "audit",
    metadata,
    # Each is one more than the one before, without a gap.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("tenant", TENANT),  # null: of the whole installation
    sa.Column("actor", sa.String(100), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("object", sa.String(100), nullable=False),  # an opaque id, such as `jb_…`
    sa.Column("detail", DOCUMENT, nullable=False),
    sa.Column("previous_hash", SHA256, nullable=False, unique=True),
    sa.Column("hash", SHA256, nullable=False),
    sa.Index("ix_audit_tenant_id", "tenant", "id"),
    sa.Index("ix_audit_object", "object"),
)
