"""The states of campaigns and their items, as SQL and the API spell them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class CampaignStatus(StrEnum):
    """A campaign is ``created``, then alternates between ``running`` and ``paused``, and ends."""

    CREATED = "created"  # its selection is frozen or being frozen; nothing is scored
    RUNNING = "running"  # whether its window is open or not
    PAUSED = "paused"  # by somebody, or by itself; then it has an error
    COMPLETED = "completed"
    CANCELLED = "cancelled"


ACTIVE: Final = (CampaignStatus.CREATED, CampaignStatus.RUNNING, CampaignStatus.PAUSED)


class ItemState(StrEnum):
    """One instance within one campaign. The last three are those of an image in a job."""

    SELECTED = "selected"  # waits
    QUEUED = "queued"  # an image of a job
    SCORED = "scored"
    REFUSED = "refused"
    FAILED = "failed"
