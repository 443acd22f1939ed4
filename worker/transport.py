"""Reads the messages of the broker before Celery does, and trusts only the job id in them.

Anyone who can write to the broker can put anything on a queue. Celery 5.7 and kombu end the worker
for a message that is not JSON, is ``null`` or has a malformed header, and follow links to other
tasks that a message names. Here each task of hilum is written anew from its job id; any other
message is logged and dropped. SQL still has every job.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from queue import Empty
from typing import Any, Final
from uuid import uuid4

from kombu.transport import redis
from redis.exceptions import ResponseError

from hilum import tracing
from hilum.logs import event
from hilum.queue import SCORE_TASK

log = logging.getLogger(__name__)

_JOB_ID: Final = re.compile(r"jb_[0-9a-f]{32}")
_NO_LINKS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class NotOursError(Exception):
    """The gateway and the sweeper do not send this message. Never leaves this module."""


class Channel(redis.Channel):
    """Drops messages that are not JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError):
            _drop("it is not JSON")
        raise Empty


class Transport(redis.Transport):
    """Passes on tasks of hilum, written anew."""

    Channel = Channel
    # A broker that is full, read-only or still loading answers with an error. Celery connects anew
    # until it does not; an error of another kind would end the worker.
    connection_errors = (*redis.Transport.connection_errors, ResponseError)

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            ours = rewrite(message)
        except NotOursError as error:
            _drop(str(error))
            return
        super()._deliver(ours, queue)  # type: ignore[no-untyped-call]


def rewrite(message: Any) -> dict[str, Any]:
    """Write a message anew from the job id and the queue of ``message``.

    Raises:
        NotOursError: ``message`` is not a task of hilum. The text says why and quotes nothing.
    """
    try:
        properties, task = message["properties"], message["headers"]["task"]
        tag, place = properties["delivery_tag"], properties["delivery_info"]
        encoded = properties.get("body_encoding")
        body = message["body"]
        if encoded == "base64":
            body = base64.b64decode(body, validate=True)
        arguments, named, _ = json.loads(body)
        (job_id,) = arguments
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise NotOursError("it does not have the form of a task with one argument") from None
    if task != SCORE_TASK:
        raise NotOursError("it is another task")
    if named or not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise NotOursError("its argument is not the id of a job")
    where = ("exchange", "routing_key")
    if not (isinstance(tag, str) and isinstance(place, dict)):
        raise NotOursError("it has no delivery tag or delivery information")
    if not all(isinstance(place.get(name), str) for name in where):
        raise NotOursError("its delivery information names no queue")
    task_id = properties.get("correlation_id")
    task_id = task_id if isinstance(task_id, str) else str(uuid4())
    parent = tracing.checked(message["headers"].get(tracing.TRACEPARENT))
    written = json.dumps([[job_id], {}, _NO_LINKS]).encode()
    return {
        "body": base64.b64encode(written).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            **{"lang": "py", "task": task, "id": task_id, "root_id": task_id},
            **({tracing.TRACEPARENT: parent} if parent else {}),
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {name: place[name] for name in where}
            | {"redelivered": place.get("redelivered") is True},
            "delivery_tag": tag,
            "body_encoding": "base64",
            "priority": 0,
        },
    }


def _drop(why: str) -> None:
    event(log, logging.WARNING, "broker.message_dropped", because=why)
