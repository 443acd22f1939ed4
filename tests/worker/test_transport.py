"""What a worker takes from the broker, and what it drops."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from hilum.ids import new_id
from hilum.queue import SCORE_TASK
from worker.transport import NotOursError, Transport, rewrite

JOB = new_id("jb")


def message(*arguments: Any, task: Any = SCORE_TASK, **named: Any) -> dict[str, Any]:
    """As Celery sends it."""
    body = json.dumps([list(arguments), named, {"callbacks": None}]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": "i-1", "retries": 0},
        "properties": {
            "correlation_id": "i-1",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "stat"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "t-1",
        },
    }


def test_of_a_message_of_ours_the_job_id_is_kept_and_nothing_to_follow() -> None:
    sent = message(JOB)
    hostile = copy.deepcopy(sent)
    links = [[JOB], {}, {"callbacks": [{"task": "os.system", "args": ["id"]}], "chain": [1]}]
    hostile["body"] = base64.b64encode(json.dumps(links).encode()).decode()
    hostile["headers"] |= {"eta": "never", "timelimit": 7, "retries": "x", "shadow": "\n"}
    taken = rewrite(sent)
    assert taken == rewrite(hostile)
    assert json.loads(base64.b64decode(taken["body"]))[0] == [JOB]
    assert taken["properties"]["delivery_tag"] == "t-1"
    assert taken["properties"]["delivery_info"]["routing_key"] == "stat"
    assert set(json.loads(base64.b64decode(taken["body"]))[2].values()) == {None}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        [],
        "text",
        {},
        {"body": None},
        message(JOB, task="celery.ping"),
        message(JOB, task=None),
        message(JOB, task=["x"]),
        message(),
        message(JOB, JOB),
        message(7),
        message(None),
        message("st_1"),
        message(f"{JOB}\n"),
        message(JOB, extra=1),
        {**message(JOB), "body": "%%%"},
        {**message(JOB), "body": 7},
        {**message(JOB), "body": base64.b64encode(b"null").decode()},
        {**message(JOB), "headers": None},
        {**message(JOB), "properties": []},
        {**message(JOB), "properties": {"body_encoding": "base64"}},
    ],
)
def test_what_is_not_ours_is_refused_in_words_that_quote_nothing(bad: Any) -> None:
    with pytest.raises(NotOursError) as caught:
        rewrite(bad)
    assert JOB not in str(caught.value)


def test_a_broker_that_is_full_is_connected_to_anew() -> None:
    assert issubclass(OutOfMemoryError, Transport.connection_errors)
    assert issubclass(ReadOnlyError, Transport.connection_errors)
