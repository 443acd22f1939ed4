"""The contract between gateway and worker: queues, the name of the task, its content.

SQL is the truth and the broker is transport: a task carries one opaque job id and nothing else.
The sweeper publishes a lost task again; a duplicate task finds its job already claimed.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final


class Queue(StrEnum):
    """One queue a priority, because priorities within a Redis list are approximate.

    From most to least urgent; workers read them in this order.
    """

    STAT = "stat"
    ROUTINE = "routine"
    BULK = "bulk"


def route(queue: Queue, digest: str | None = None) -> str:
    """The name of the broker's queue that a job travels on.

    Args:
        queue: the job's priority.
        digest: of the model package that the job is bound to, ``sha256:`` and 64 hexadecimal
            digits; ``None``: any worker may score the job.

    Returns:
        ``bulk``, or for a bound job such as ``bulk.0123456789abcdef``, which only workers that
        serve this model read.
    """
    return queue.value if digest is None else f"{queue.value}.{digest.removeprefix('sha256:')[:16]}"


def routes(queues: Iterable[Queue], digest: str | None) -> list[str]:
    """The broker's queues that a worker reads, from most to least urgent.

    Args:
        queues: the priorities that it serves, in any order.
        digest: of the model package that it serves; ``None``: it takes no bound jobs.
    """
    served = set(queues)
    digests = (None,) if digest is None else (None, digest)
    return [route(queue, each) for queue in Queue if queue in served for each in digests]


SCORE_TASK: Final = "hilum.score_job"

# Shared by the worker's Celery app and the gateway's producer.
# JSON only: someone who can write to the broker must not be able to run code here.
BROKER_CONFIG: Final[dict[str, Any]] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "result_backend": None,
    "task_default_queue": Queue.ROUTINE.value,
    "task_create_missing_queues": True,
    "enable_utc": True,
}


def transport_options(*, visibility_timeout_s: int, socket_timeout_s: float) -> dict[str, Any]:
    """The options of kombu's Redis transport that all who share a broker must set alike.

    Args:
        visibility_timeout_s: after this time a message that is not acknowledged is delivered again.
            Of several applications on one broker, the shortest wins.
        socket_timeout_s: of each answer. Without one, kombu waits for ever for a broker that has
            vanished.
    """
    return {
        "visibility_timeout": visibility_timeout_s,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": min(5.0, socket_timeout_s),
        "socket_keepalive": True,
    }
