"""What the tables of campaigns hold and refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select

from hilum.db import instances
from hilum.db.connection import Database
from hilum.db.instances import NewInstance
from hilum.db.tables import campaign_items, campaigns
from hilum.errors import UnexpectedError

WINDOW = {"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin", "overlap": "skip"}


@pytest.fixture
def campaign(database: Database, model_id: int) -> str:
    """A campaign over two instances, none of them queued yet."""
    now = datetime.now(UTC)
    with database.write() as connection:
        for n in range(2):
            seen = NewInstance(
                sop_instance_uid=f"1.2.{n}",
                series_instance_uid="1.3",
                study_instance_uid="1.4",
                content_sha256=bytes([n]) * 32,
                uri=f"s3://films/{n}.dcm",
                etag=None,
                source="films",
                rows=100,
                columns=80,
            )
            instances.record(connection, tenant="north", seen=[seen])
        connection.execute(
            insert(campaigns).values(
                id="cp_1",
                tenant="north",
                name="night",
                selection={"from": "2024-01-01", "view": "PA"},
                modes=["missing", "failed"],
                model_id=model_id,
                preprocess_digest="p" * 64,
                pipeline="1",
                status="created",
                window=WINDOW,
                images_per_s=5.0,
                created_by="cli:root",
                created_at=now,
                updated_at=now,
            )
        )
        connection.execute(insert(campaign_items), [_item(position=n) for n in (1, 2)])
    return "cp_1"


def _item(*, position: int, **values: Any) -> dict[str, Any]:
    item = {"campaign_id": "cp_1", "position": position, "instance_id": position}
    return {**item, "state": "selected", **values}


def test_a_campaign_keeps_what_it_was_made_with(database: Database, campaign: str) -> None:
    with database.read() as connection:
        row = connection.execute(select(campaigns)).one()
        after = select(campaign_items.c.instance_id).where(
            campaign_items.c.campaign_id == campaign, campaign_items.c.position > 1
        )
        assert connection.execute(after).scalars().all() == [2]
    assert (row.modes, row.window, row.images_per_s) == (["missing", "failed"], WINDOW, 5.0)
    assert (row.selected, row.queued, row.scored, row.refused, row.failed) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        _item(position=1, instance_id=2),
        _item(position=3, instance_id=1),
        _item(position=3, instance_id=4711),
        _item(position=3, campaign_id="cp_none"),
        _item(position=2, instance_id=2, campaign_id="cp_1", job_id="jb_none"),
    ],
    ids=["position twice", "instance twice", "no instance", "no campaign", "no job"],
)
@pytest.mark.usefixtures("campaign")
def test_items_that_fit_nowhere(database: Database, wrong: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedError), database.write() as connection:
        connection.execute(insert(campaign_items).values(**wrong))
