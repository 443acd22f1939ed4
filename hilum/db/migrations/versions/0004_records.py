"""Deliveries, instances, campaigns, audit; scopes of keys that the release before does not know.

Expands only: new tables, and one nullable column. The release before neither reads nor writes any
of them, and goes on as it was.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateTable

from hilum.db.migrations.frozen import ID, SERIAL, SHA256, TENANT, TIME, UID, Metadata, required

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
# The release before neither reads nor writes anything that is new here.
oldest_code = "0002"

_SCHEMA = Metadata()
# Of the schema before: what the tables below refer to.
sa.Table("outbox", _SCHEMA, sa.Column("id", SERIAL, primary_key=True))
sa.Table("jobs", _SCHEMA, sa.Column("id", ID, primary_key=True))
sa.Table("models", _SCHEMA, sa.Column("id", sa.Integer(), primary_key=True))
_DELIVERIES = sa.Table(
    "deliveries",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("tenant", TENANT),
    required("event_id", sa.ForeignKey("outbox.id")),
    required("job_id", sa.ForeignKey("jobs.id"), index=True),
    required("destination", sa.String(100)),
    required("attempts", sa.Integer()),
    sa.Column("due_at", TIME, index=True),
    sa.Column("lease_until", TIME),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.JSON()),
    sa.Column("delivered_at", TIME),
    required("created_at", TIME),
    sa.UniqueConstraint("event_id", "destination"),
)
_INSTANCES = sa.Table(
    "instances",
    _SCHEMA,
    sa.Column("id", SERIAL, primary_key=True),
    required("tenant", TENANT),
    required("sop_instance_uid", UID),
    required("content_sha256", SHA256),
    required("series_instance_uid", UID),
    required("study_instance_uid", UID),
    sa.Column("uri", sa.Text()),
    sa.Column("etag", sa.String(128)),
    sa.Column("source", sa.String(64)),
    required("rows", sa.Integer()),
    required("columns", sa.Integer()),
    sa.Column("modality", sa.String(16)),
    sa.Column("view", sa.String(32)),
    sa.Column("acquisition_date", sa.Date()),
    sa.Column("acquisition_time", sa.Time()),
    sa.Column("institution", sa.String(64)),
    sa.Column("manufacturer", sa.String(64)),
    sa.Column("manufacturer_model", sa.String(64)),
    sa.Column("age_years", sa.Float()),
    sa.Column("sex", sa.String(1)),
    sa.Column("accession_number", sa.LargeBinary()),
    sa.Column("accession_number_hash", SHA256),
    sa.Column("patient_id", sa.LargeBinary()),
    sa.Column("patient_id_hash", SHA256),
    sa.Column("patient_name", sa.LargeBinary()),
    sa.Column("patient_name_hash", SHA256),
    required("first_seen_at", TIME),
    required("last_seen_at", TIME),
    sa.UniqueConstraint("tenant", "sop_instance_uid", "content_sha256"),
    *(
        sa.Index(f"ix_instances_tenant_{name}", "tenant", *columns)
        for name, columns in {
            "study_instance_uid": ["study_instance_uid"],
            "series_instance_uid": ["series_instance_uid"],
            "acquisition_date": ["acquisition_date"],
            "view_date": ["view", "acquisition_date"],
            "institution_date": ["institution", "acquisition_date"],
            "device_date": ["manufacturer_model", "acquisition_date"],
        }.items()
    ),
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
_CAMPAIGNS = sa.Table(
    "campaigns",
    _SCHEMA,
    sa.Column("id", ID, primary_key=True),
    required("tenant", TENANT),
    required("name", sa.String(100)),
    required("selection", sa.JSON()),
    required("modes", sa.JSON()),
    required("model_id", sa.ForeignKey("models.id")),
    required("preprocess_digest", sa.String(64)),
    required("pipeline", sa.String(100)),
    required("status", sa.String(16), index=True),
    sa.Column("window", sa.JSON()),
    sa.Column("images_per_s", sa.Float()),
    sa.Column("max_failure_rate", sa.Float()),
    *(
        required(name, sa.BigInteger())
        for name in ("selected", "queued", "scored", "refused", "failed")
    ),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error", sa.JSON()),
    required("created_by", sa.String(100)),
    required("created_at", TIME),
    sa.Column("started_at", TIME),
    required("updated_at", TIME),
    sa.Column("finished_at", TIME),
    sa.Index("ix_campaigns_tenant_id", "tenant", "id"),
)
_ITEMS = sa.Table(
    "campaign_items",
    _SCHEMA,
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), primary_key=True),
    sa.Column("position", sa.BigInteger(), primary_key=True, autoincrement=False),
    required("instance_id", sa.ForeignKey("instances.id"), index=True),
    required("state", sa.String(16)),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), index=True),
    sa.Column("error_code", sa.String(64)),
    sa.UniqueConstraint("campaign_id", "instance_id"),
    sa.Index("ix_campaign_items_campaign_id_state_position", "campaign_id", "state", "position"),
)
_AUDIT = sa.Table(
    "audit",
    _SCHEMA,
    sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=False),
    required("at", TIME),
    sa.Column("tenant", TENANT),
    required("actor", sa.String(100)),
    required("action", sa.String(64)),
    required("object", sa.String(100), index=True),
    required("detail", sa.JSON()),
    required("previous_hash", SHA256, unique=True),
    required("hash", SHA256),
    sa.Index("ix_audit_tenant_id", "tenant", "id"),
)


def prepare(connection: sa.Connection) -> None:
    """On PostgreSQL, before the transaction: make and fill the table of instances while results
    are written.

    At 10^8 rows that takes minutes, in which the transaction would lock other tables.
    """
    if not sa.inspect(connection).has_table("results"):
        return
    connection.execute(CreateTable(_INSTANCES, if_not_exists=True))
    connection.execute(_fill(connection))
    for index in _INSTANCES.indexes:
        index.create(connection, checkfirst=True)


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("granted", sa.JSON()))
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("instances"):  # otherwise `prepare` has filled it
        _INSTANCES.create(connection)
        connection.execute(_fill(connection))
    for table in (_DELIVERIES, _CAMPAIGNS, _ITEMS, _AUDIT):
        table.create(connection, checkfirst=False)
    if connection.dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'audit is append-only'; END$$"
        )
        for when, each in {"UPDATE OR DELETE": "ROW", "TRUNCATE": "STATEMENT"}.items():
            op.execute(
                f"CREATE TRIGGER audit_no_{when.split()[0].lower()} BEFORE {when} ON audit "
                f"FOR EACH {each} EXECUTE FUNCTION audit_is_append_only()"
            )
        return
    for when in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{when.lower()} BEFORE {when} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END"
        )


def downgrade() -> None:
    for table in ("audit", "campaign_items", "campaigns", "instances", "deliveries"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_is_append_only()")
    op.drop_column("api_keys", "granted")


def _fill(connection: sa.Connection) -> sa.TextClause:
    """What results know. The address is that of the newest image that shows the result.

    Results that workers of the release before write after this are not found; the statement may be
    run again at any time, and a later migration does so, when no such worker is left.
    """
    if connection.dialect.name == "postgresql":
        bucket = "split_part(im.uri, '/', 3)"
    else:
        bucket = "substr(substr(im.uri, 6), 1, instr(substr(im.uri, 6), '/') - 1)"
    return sa.text(
        f"""
        INSERT INTO instances (tenant, sop_instance_uid, content_sha256, series_instance_uid,
            study_instance_uid, rows, columns, uri, source, first_seen_at, last_seen_at)
        SELECT known.tenant, known.sop_instance_uid, known.content_sha256, known.series,
            known.study, known.rows_, known.columns_, im.uri,
            CASE WHEN im.uri LIKE 's3://%/%' THEN substr({bucket}, 1, 64) END,
            known.first_seen, known.last_seen
        FROM (
            SELECT r.tenant, r.sop_instance_uid, r.content_sha256,
                max(r.series_instance_uid) AS series, max(r.study_instance_uid) AS study,
                max(r.rows) AS rows_, max(r.columns) AS columns_,
                min(r.created_at) AS first_seen, max(r.created_at) AS last_seen,
                max(it.image_id) AS image_id
            FROM results AS r LEFT JOIN items AS it ON it.result_id = r.id
            GROUP BY r.tenant, r.sop_instance_uid, r.content_sha256
        ) AS known
        LEFT JOIN images AS im ON im.id = known.image_id
        WHERE 1 = 1
        ON CONFLICT DO NOTHING
        """
    )
