"""The contract between gateway and worker: queues, task names, payloads.

The broker is transport, SQL is the truth: a task carries one opaque job id and nothing else.
A lost task is published again by the sweeper; a doubled one finds its job already taken.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final


class Queue(StrEnum):
    """One queue a priority, because priorities within a Redis list are approximate.

    Declared from most to least urgent; workers take them in this order.
    """

    STAT = "stat"
    ROUTINE = "routine"
    BULK = "bulk"


SCORE_TASK: Final = "hilum.score_job"

# Shared by the worker's Celery app and the gateway's producer.
# JSON only: a broker that someone else can write to must not be able to run code here.
BROKER_CONFIG: Final[dict[str, Any]] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "result_backend": None,
    "task_default_queue": Queue.ROUTINE.value,
    "task_create_missing_queues": True,
    "enable_utc": True,
}
