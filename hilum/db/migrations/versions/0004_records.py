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

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
# The release before neither reads nor writes anything that is new here.
oldest_code = "0002"

_ID = sa.String(36)
_TENANT = sa.String(64)
_UID = sa.String(64)
_SHA256 = sa.LargeBinary(32)
_TIME = sa.DateTime(timezone=True)
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INSTANCES = sa.Table(
    "instances",
    sa.MetaData(),
    sa.Column("id", _SERIAL, nullable=False),
    sa.Column("tenant", _TENANT, nullable=False),
    sa.Column("sop_instance_uid", _UID, nullable=False),
    sa.Column("content_sha256", _SHA256, nullable=False),
    sa.Column("series_instance_uid", _UID, nullable=False),
    sa.Column("study_instance_uid", _UID, nullable=False),
    sa.Column("uri", sa.Text()),
    sa.Column("etag", sa.String(128)),
    sa.Column("source", sa.String(64)),
    sa.Column("rows", sa.Integer(), nullable=False),
    sa.Column("columns", sa.Integer(), nullable=False),
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
    sa.Column("accession_number_hash", _SHA256),
    sa.Column("patient_id", sa.LargeBinary()),
    sa.Column("patient_id_hash", _SHA256),
    sa.Column("patient_name", sa.LargeBinary()),
    sa.Column("patient_name_hash", _SHA256),
    sa.Column("first_seen_at", _TIME, nullable=False),
    sa.Column("last_seen_at", _TIME, nullable=False),
    sa.PrimaryKeyConstraint("id", name="pk_instances"),
    sa.UniqueConstraint(
        "tenant",
        "sop_instance_uid",
        "content_sha256",
        name="uq_instances_tenant_sop_instance_uid_content_sha256",
    ),
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
    _deliveries()
    _instances()
    _campaigns()
    _audit()


def downgrade() -> None:
    for table in ("audit", "campaign_items", "campaigns", "instances", "deliveries"):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_is_append_only()")
    op.drop_column("api_keys", "granted")


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("event_id", _SERIAL, nullable=False),
        sa.Column("job_id", _ID, nullable=False),
        sa.Column("destination", sa.String(100), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", _TIME),
        sa.Column("lease_until", _TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error", sa.JSON()),
        sa.Column("delivered_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["event_id"], ["outbox.id"], name="fk_deliveries_event_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_deliveries_job_id"),
        sa.UniqueConstraint("event_id", "destination", name="uq_deliveries_event_id_destination"),
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
    op.create_index("ix_deliveries_due_at", "deliveries", ["due_at"])


def _instances() -> None:
    connection = op.get_bind()
    prepared = sa.inspect(connection).has_table("instances")
    connection.execute(CreateTable(_INSTANCES, if_not_exists=True))
    if not prepared:
        connection.execute(_fill(connection))
    for index in _INSTANCES.indexes:
        index.create(connection, checkfirst=True)


def _campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", _ID, nullable=False),
        sa.Column("tenant", _TENANT, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("modes", sa.JSON(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("preprocess_digest", sa.String(64), nullable=False),
        sa.Column("pipeline", sa.String(100), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("window", sa.JSON()),
        sa.Column("images_per_s", sa.Float()),
        sa.Column("max_failure_rate", sa.Float()),
        sa.Column("selected", sa.BigInteger(), nullable=False),
        sa.Column("queued", sa.BigInteger(), nullable=False),
        sa.Column("scored", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error", sa.JSON()),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_campaigns"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_campaigns_model_id"),
    )
    op.create_index("ix_campaigns_tenant_id", "campaigns", ["tenant", "id"])
    op.create_index("ix_campaigns_status", "campaigns", ["status"])
    op.create_table(
        "campaign_items",
        sa.Column("campaign_id", _ID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("instance_id", _SERIAL, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("job_id", _ID),
        sa.Column("error_code", sa.String(64)),
        sa.PrimaryKeyConstraint("campaign_id", "position", name="pk_campaign_items"),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name="fk_campaign_items_campaign_id"
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name="fk_campaign_items_instance_id"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_campaign_items_job_id"),
        sa.UniqueConstraint(
            "campaign_id", "instance_id", name="uq_campaign_items_campaign_id_instance_id"
        ),
    )
    op.create_index("ix_campaign_items_instance_id", "campaign_items", ["instance_id"])
    op.create_index("ix_campaign_items_job_id", "campaign_items", ["job_id"])
    op.create_index(
        "ix_campaign_items_campaign_id_state_position",
        "campaign_items",
        ["campaign_id", "state", "position"],
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("tenant", _TENANT),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("object", sa.String(100), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous_hash", _SHA256, nullable=False),
        sa.Column("hash", _SHA256, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sa.UniqueConstraint("previous_hash", name="uq_audit_previous_hash"),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"])
    op.create_index("ix_audit_object", "audit", ["object"])
    if op.get_context().dialect.name == "postgresql":
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
