"""The broker's messages as this worker takes them: nothing but the job's id is believed.

Whoever can write to the broker can put anything on a queue. Celery 5.7 and kombu end the worker
over a message that is not JSON, is ``null`` or has a malformed header, and would follow the links
to other tasks that a message can name. Here a message is read before they see it: one of ours is
written anew from its job id, any other is logged and dropped. SQL still knows each job.
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

from hilum.logs import event
from hilum.queue import SCORE_TASK

log = logging.getLogger(__name__)

_JOB_ID: Final = re.compile(r"jb_[0-9a-f]{32}")
_NO_LINKS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class NotOursError(Exception):
    """A message is not one that hilum's gateway or sweeper sends. Never leaves this module."""


class Channel(redis.Channel):
    """Drops what is not JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError):
            _drop("it is not JSON")
        raise Empty


class Transport(redis.Transport):
    """Hands on messages of ours, written anew."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            ours = rewritten(message)
        except NotOursError as error:
            _drop(str(error))
            return
        super()._deliver(ours, queue)  # type: ignore[no-untyped-call]


def rewritten(message: Any) -> dict[str, Any]:
    """A message that says what ``message`` says of its job, and nothing else.

    Raises:
        NotOursError: it is no order to score a job; the text says why and quotes nothing of it.
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
        raise NotOursError("it has not the form of a task with one argument") from None
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
    written = json.dumps([[job_id], {}, _NO_LINKS]).encode()
    return {
        "body": base64.b64encode(written).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id},
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
