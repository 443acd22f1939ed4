"""Advance campaigns. Any process may do so at any time: workers do it beside the sweeper.

A step holds the campaign's row, and commits everything that it does at once: collect what has
ended, look at the window and the failure rate, and cut the next slice. It is idempotent, because
each step starts from what the one before has committed.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hilum.campaigns.windows import Window
from hilum.db import workers
from hilum.db.campaigns import collecting, notifying, rows, slices
from hilum.db.campaigns.rows import Campaign
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.connection import Connection, Database
from hilum.errors import (
    FailureRateError,
    HilumError,
    NothingSelectedError,
    PreprocessingChangedError,
)
from hilum.logs import event

log = logging.getLogger(__name__)

PLANNER: Final = "system:planner"  # the actor of what a campaign does by itself
_ENOUGH: Final = 50  # images that must have ended before their failures count as a rate
_MARK_EVERY: Final = 1000  # images after which a rate starts anew
_REFUSALS: Final = "policy."  # codes of films that the model rightly does not score
_BURST_S: Final = 5.0  # of a throttled campaign, when nobody looked for a while


def advance(database: Database) -> int:
    """Step each campaign that has something to do. Returns how many have.

    Raises:
        DatabaseUnavailableError: the next step finds the same.
    """
    with database.read() as connection:
        found = rows.active(connection)
        due = notifying.due(connection)
    for campaign_id in found:
        step(database, campaign_id, at_once=False)
    for tenant, number in due:
        with database.write() as connection:
            notifying.notify_some(connection, tenant, number)
    with database.read() as connection:
        bound = workers.jobs_of_changed_models(connection)
    for job_id, model_id in bound:
        with database.write() as connection:
            workers.end_job_of_changed_model(connection, job_id, model_id)
    if bound:
        event(log, logging.WARNING, "sweep.preprocessing_changed", jobs=len(bound))
    return len(found)


def step(database: Database, campaign_id: str, *, at_once: bool = True) -> Campaign | None:
    """Advance one campaign once; returns it as it is then.

    Args:
        database: the SQL database.
        campaign_id: the campaign.
        at_once: wait for other planners. Otherwise ``None`` is returned if another one has the
            campaign, or has just had it.
    """
    with database.write() as connection:
        campaign = rows.lock(connection, campaign_id, at_once=at_once)
        if campaign is None:
            return None
        now = datetime.now(UTC)
        values = collecting.collect(connection, campaign)
        if values:
            rows.change(connection, campaign.id, **values)
            campaign = rows.get(connection, campaign.id)
        values = _decide(connection, campaign, now)
        rows.change(connection, campaign.id, **{"stepped_at": now, **values})
        return rows.get(connection, campaign.id)


def _decide(connection: Connection, campaign: Campaign, now: datetime) -> dict[str, Any]:
    if campaign.status not in (CampaignStatus.CREATED, CampaignStatus.RUNNING):
        return collecting.withdraw(connection, campaign)
    if campaign.frozen_at is None:
        return slices.freeze_page(connection, campaign)
    if campaign.status is CampaignStatus.CREATED:
        return {}
    if campaign.ended >= campaign.selected:
        return _completed(campaign, now)
    if (error := _trouble(connection, campaign)) is not None:
        return _pause(connection, campaign, error)
    return _mark(campaign, now) | _go_on(connection, campaign, now)


def _go_on(connection: Connection, campaign: Campaign, now: datetime) -> dict[str, Any]:
    missed: dict[str, Any] = {}
    if campaign.window is not None:
        window = Window.checked(campaign.window)
        missed = _missed(campaign, window, now)
        if window.opening(now) is None:
            return missed | collecting.withdraw(connection, campaign)
    count, spent = _allowance(campaign, now)
    return missed | spent | (slices.cut(connection, campaign, count) if count > 0 else {})


def _trouble(connection: Connection, campaign: Campaign) -> HilumError | None:
    if workers.changed(connection, campaign.model_id):
        return PreprocessingChangedError(
            "Workers serve the package with another preprocessing than the campaign was created "
            "with."
        )
    return _failing(campaign)


def _completed(campaign: Campaign, now: datetime) -> dict[str, Any]:
    event(log, logging.INFO, "campaign.completed", campaign=campaign.id)
    values: dict[str, Any] = {"status": CampaignStatus.COMPLETED, "finished_at": now}
    if campaign.selected == 0:
        body = NothingSelectedError("The selection is empty.").body()
        values |= {"error_code": body["code"], "error": body}
    return values


def _pause(connection: Connection, campaign: Campaign, error: HilumError) -> dict[str, Any]:
    event(log, logging.WARNING, "campaign.paused", campaign=campaign.id, code=error.code)
    values = collecting.withdraw(connection, campaign)
    body = error.body()
    rows.note(connection, campaign, PLANNER, "paused", code=error.code)
    return values | {"status": CampaignStatus.PAUSED, "error_code": error.code, "error": body}


def _mark(campaign: Campaign, now: datetime) -> dict[str, Any]:
    """Start the rate of failures anew from time to time, so that it is that of now."""
    mark = campaign.mark
    if mark is not None and campaign.ended - mark["ended"] < _MARK_EVERY:
        return {}
    return {"mark": {"ended": campaign.ended, "bad": _bad(campaign), "at": now.isoformat()}}


def _failing(campaign: Campaign) -> HilumError | None:
    mark, most = campaign.mark, campaign.max_failure_rate
    if mark is None or most is None:
        return None
    ended, bad = campaign.ended - mark["ended"], _bad(campaign) - mark["bad"]
    if ended < _ENOUGH or bad <= most * ended:
        return None
    return FailureRateError(
        f"{bad} of the last {ended} images failed or were refused by other codes than "
        f"{_REFUSALS}…; the limit is {most:g}."
    )


def _bad(campaign: Campaign) -> int:
    return sum(n for code, n in campaign.codes.items() if not code.startswith(_REFUSALS))


def _missed(campaign: Campaign, window: Window, now: datetime) -> dict[str, Any]:
    """Note a window that has closed and in which no image ended."""
    last = window.previous(now)
    if last is None or campaign.started_at is None or campaign.started_at > last[0]:
        return {}
    seen = [at for at in (campaign.progress_at, campaign.missed_at) if at is not None]
    if any(at >= last[0] for at in seen):
        return {}
    event(log, logging.WARNING, "campaign.window_missed", campaign=campaign.id)
    return {"missed_at": last[0], "missed_windows": campaign.missed_windows + 1}


def _allowance(campaign: Campaign, now: datetime) -> tuple[int, dict[str, Any]]:
    """How many images may be queued now, by the throttle and by what is in flight."""
    room = campaign.max_in_flight - campaign.queued
    if campaign.images_per_s is None:
        return room, {}
    earliest = now - timedelta(seconds=_BURST_S)
    spent = max(campaign.spent_until or now - timedelta(seconds=1), earliest)
    count = min(room, int((now - spent).total_seconds() * campaign.images_per_s))
    if count <= 0:
        return 0, {}
    return count, {"spent_until": spent + timedelta(seconds=count / campaign.images_per_s)}
