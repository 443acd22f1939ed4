"""Campaigns over instances, the workers that serve models, promotions, and runs of the indexer."""

from __future__ import annotations

import sqlalchemy as sa

from hilum.db.tables.columns import DOCUMENT, ID, SERIAL, TENANT, UtcDateTime, metadata

# A frozen selection of instances to score with one model. Its results are not shown before the
# model is promoted.
campaigns = sa.Table(
    "campaigns",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("name", sa.String(100), nullable=False),
    # Frozen at creation: which instances (date, site, view, device, label), and with what.
    sa.Column("selection", DOCUMENT, nullable=False),
    sa.Column("modes", DOCUMENT, nullable=False),  # of missing, failed, refused, stale, all
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    sa.Column("preprocess_digest", sa.String(64), nullable=False),
    sa.Column("pipeline", sa.String(100), nullable=False),  # as results.pipeline has it
    sa.Column("status", sa.String(16), nullable=False),
    # When it may run: start, end, weekdays, time zone (IANA), overlap policy; null: always.
    sa.Column("window", DOCUMENT),
    # What is asked for again at each opening of the window; null: nothing.
    sa.Column("repeat", DOCUMENT),
    sa.Column("images_per_s", sa.Float),  # the throttle; null: none
    sa.Column("max_failure_rate", sa.Float),  # above it, the campaign pauses; null: never
    # Updated with each change of an item, so that progress is read from this row alone.
    sa.Column("selected", sa.BigInteger, nullable=False, default=0),
    sa.Column("queued", sa.BigInteger, nullable=False, default=0),
    sa.Column("scored", sa.BigInteger, nullable=False, default=0),
    sa.Column("refused", sa.BigInteger, nullable=False, default=0),
    sa.Column("failed", sa.BigInteger, nullable=False, default=0),
    sa.Column("error_code", sa.String(64)),  # why it paused
    sa.Column("error", DOCUMENT),
    sa.Column("created_by", sa.String(100), nullable=False),  # an actor, as audit has it
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    # Instances that are newer than this one are no part of the selection.
    sa.Column("last_instance_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cursor", DOCUMENT),  # how far the selection has been written to campaign_items
    sa.Column("frozen_at", UtcDateTime),  # when it was written completely
    sa.Column("next_position", sa.BigInteger, nullable=False, server_default="1"),
    # No image before this position waits: a slice is found without stepping over those that ended.
    sa.Column("next_cut", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("max_in_flight", sa.Integer, nullable=False, server_default="2000"),
    sa.Column("codes", DOCUMENT),  # images that were refused or failed, by code
    sa.Column("mark", DOCUMENT),  # counts at the last mark, for failure rate and speed
    sa.Column("spent_until", UtcDateTime),  # the time whose share of images_per_s is used up
    sa.Column("stepped_at", UtcDateTime),  # when a planner last looked
    sa.Column("progress_at", UtcDateTime),  # when an image last ended
    sa.Column("missed_windows", sa.Integer, nullable=False, server_default="0"),
    sa.Column("missed_at", UtcDateTime),  # the start of the last window without progress
    sa.Index("ix_campaigns_tenant_id", "tenant", "id"),
    sa.Index("ix_campaigns_status", "status"),
)

# One instance of a campaign. `position` counts in the order of the campaign, newest first by
# default; slices are cut, and a campaign resumes, by it.
campaign_items = sa.Table(
    "campaign_items",
    metadata,
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("instance_id", sa.ForeignKey("instances.id"), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("job_id", sa.ForeignKey("jobs.id"), index=True),
    sa.Column("error_code", sa.String(64)),
    sa.Column("result_id", sa.BigInteger),  # of results, once scored
    sa.UniqueConstraint("campaign_id", "instance_id"),
    sa.Index("ix_campaign_items_campaign_id_state_position", "campaign_id", "state", "position"),
)

# The workers that are ready, and what they serve. Each renews its row.
workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("model_id", sa.ForeignKey("models.id"), nullable=False),
    sa.Column("queues", DOCUMENT, nullable=False),
    sa.Column("processes", sa.Integer, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
    sa.Column("alive_until", UtcDateTime, nullable=False, index=True),
)

# Each change of a tenant's model in force, with what was in force before.
promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("tenant", TENANT, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("campaign_id", sa.ForeignKey("campaigns.id")),
    sa.Column("before", DOCUMENT),  # the row of `serving`; null: there was none
    sa.Column("actor", sa.String(100), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("rolled_back_at", UtcDateTime),
    # Destinations and rate of the deliveries it asked for, and the last study that has its own.
    sa.Column("notify", DOCUMENT),
    sa.Column("notified_at", UtcDateTime),  # when all deliveries were created
    sa.Index("ix_promotions_notified_at", "notified_at"),
)

# How far `hilum index` has come with one source.
index_runs = sa.Table(
    "index_runs",
    metadata,
    sa.Column("id", SERIAL, primary_key=True),
    sa.Column("tenant", TENANT, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("cursor", sa.Text),  # the last address, or the number of rows of an inventory
    sa.Column("counts", DOCUMENT, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("tenant", "source_sha256"),
)
