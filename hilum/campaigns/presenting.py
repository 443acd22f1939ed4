"""A campaign as JSON and as lines, the same for the command line and the gateway."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hilum.campaigns.windows import Window
from hilum.db import workers
from hilum.db.campaigns.rows import Campaign
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.connection import Connection
from hilum.db.serving import Serving
from hilum.errors import HilumError, ModelUnservedError
from hilum.queue import Queue


def status(connection: Connection, campaign: Campaign) -> dict[str, Any]:
    """How the campaign stands, from its row and the few rows of workers: nothing is counted."""
    now = datetime.now(UTC)
    serving = [
        one
        for one in workers.live(connection)
        if one.model_id == campaign.model_id and Queue.BULK in one.queues
    ]
    window = None if campaign.window is None else Window.checked(campaign.window)
    opening = None if window is None else window.opening(now)
    following = None if window is None else window.following(now)
    is_open = window is None or opening is not None
    return {
        "id": campaign.id,
        "tenant": campaign.tenant,
        "name": campaign.name,
        "status": campaign.status.value,
        "waits_for": _waits_for(campaign, is_open=is_open, served=bool(serving)),
        "model": campaign.digest,
        "pipeline": campaign.pipeline,
        "selection": campaign.selection.model_dump(mode="json"),
        "modes": [mode.value for mode in campaign.modes],
        "frozen": campaign.frozen_at is not None,
        "counts": {
            "selected": campaign.selected,
            "waiting": campaign.waiting,
            "queued": campaign.queued,
            "scored": campaign.scored,
            "refused": campaign.refused,
            "failed": campaign.failed,
        },
        "codes": campaign.codes,
        "nightly": campaign.repeat is not None,
        "images_per_s": campaign.images_per_s,
        "max_failure_rate": campaign.max_failure_rate,
        "workers": sum(one.workers for one in serving),
        "hours_left": _hours_left(campaign, now),
        "window": None
        if window is None
        else {
            **window.document(),
            "open": opening is not None,
            "closes_at": _iso(opening and opening[1]),
            "opens_at": _iso(following and following[0]),
            "missed": campaign.missed_windows,
            "missed_at": _iso(campaign.missed_at),
        },
        "error": campaign.error,
        "problem": _problem(campaign, served=bool(serving)),
        "created_by": campaign.created_by,
        "created_at": _iso(campaign.created_at),
        "started_at": _iso(campaign.started_at),
        "finished_at": _iso(campaign.finished_at),
        "progress_at": _iso(campaign.progress_at),
    }


def lines(document: dict[str, Any]) -> list[str]:
    """The document of :func:`status` for people."""
    counts = document["counts"]
    found = [
        f"{document['id']}  {document['name']}  {document['status']}"
        + (f", waits for {document['waits_for']}" if document["waits_for"] else ""),
        "  "
        + ", ".join(
            f"{counts[name]} {name}"
            for name in ("selected", "scored", "refused", "failed", "queued", "waiting")
        ),
    ]
    found += [f"  {n} ended as {code}" for code, n in sorted(document["codes"].items())]
    if document["hours_left"] is not None:
        found.append(f"  about {document['hours_left']:.1f} hours of work left")
    window = document["window"]
    if window is not None:
        when = (
            f"closes at {window['closes_at']}"
            if window["open"]
            else f"opens at {window['opens_at']}"
        )
        found.append(f"  window {when}; {window['missed']} missed")
    for error in (document["error"], document["problem"]):
        if error is not None:
            found.append(f"  [{error['code']}] {error['detail']} {error['next_step']}")
    return found


def in_force(serving: Serving | None, digests: dict[int, str]) -> dict[str, Any]:
    """What is in force for a tenant."""
    if serving is None:
        return {"model": None, "canary": None}
    canary = serving.canary
    return {
        "model": digests[serving.model_id],
        "pipeline": serving.pipeline,
        "canary": None
        if canary is None
        else {
            "model": digests[canary.model_id],
            "pipeline": canary.pipeline,
            "share": canary.share,
        },
        "changed_at": _iso(serving.changed_at),
    }


def _waits_for(campaign: Campaign, *, is_open: bool, served: bool) -> str | None:
    if campaign.status is CampaignStatus.CREATED:
        return "its selection" if campaign.frozen_at is None else "`hilum rescore run`"
    if campaign.status is not CampaignStatus.RUNNING:
        return None
    if not is_open:
        return "its window"
    return None if served else "workers of its model"


def _problem(campaign: Campaign, *, served: bool) -> Any:
    """What keeps a running campaign from going on, though nobody has stopped it."""
    error: HilumError | None = None
    if campaign.status is CampaignStatus.RUNNING and not served:
        error = ModelUnservedError("No live worker serves the model of the campaign.")
    return None if error is None else error.body()


def _hours_left(campaign: Campaign, now: datetime) -> float | None:
    """At the speed since the last mark."""
    mark = campaign.mark
    if campaign.status is not CampaignStatus.RUNNING or mark is None:
        return None
    done = campaign.ended - int(mark["ended"])
    seconds = (now - datetime.fromisoformat(mark["at"])).total_seconds()
    if done <= 0 or seconds <= 0:
        return None
    return (campaign.selected - campaign.ended) * seconds / done / 3600


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
