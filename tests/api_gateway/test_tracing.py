"""Traces: from a request to the message of its job, sent to a collector; nothing while off."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
from pydantic import HttpUrl
from sqlalchemy import select
from support.collector import Collector, attributes, collecting

from hilum import tracing
from hilum.db import traces
from hilum.db.tables import jobs
from hilum.embedded.valkey import Valkey
from hilum.errors import StorageUnavailableError
from hilum.settings import TracingSettings
from worker.transport import rewrite

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any

CLIENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def test_a_request_its_message_and_nothing_else(
    make_gateway: Callable[..., Gateway], valkey: Valkey, collector: Collector
) -> None:
    gateway = make_gateway(tracing=collector.settings)
    sent = {"images": [{"uri": "s3://secret-bucket/miller.dcm"}]}
    answer = gateway.post(sent, traceparent=CLIENT)
    study = answer.json()["id"]
    with redis.from_url(valkey.url) as broker:
        (message,) = map(json.loads, broker.lrange("routine", 0, -1))
    tracing.close()
    spans = collector.by_name()
    assert set(spans) == {"request", "publish"}
    request, publish = spans["request"], spans["publish"]
    assert request.trace_id.hex() == publish.trace_id.hex() == "a" * 32
    assert request.parent_span_id.hex() == "b" * 16
    assert publish.parent_span_id == request.span_id
    assert message["headers"]["traceparent"] == f"00-{'a' * 32}-{publish.span_id.hex()}-01"
    with gateway.database.read() as connection:
        (job_id,) = connection.execute(select(jobs.c.id)).scalars()
        known = traces.find(connection, [job_id, "jb_none"])
    assert known == {job_id: message["headers"]["traceparent"]}
    said = attributes(request)
    job = said.pop("hilum.job")
    assert said == {
        "hilum.method": "POST",
        "hilum.route": "/v1/studies",
        "hilum.status": 202,
        "hilum.study": study,
    }
    assert attributes(publish) == {"hilum.job": job, "hilum.queue": "routine"}
    for hidden in (b"secret-bucket", b"miller", b"north", gateway.secret.encode()):
        assert not any(hidden in body for body in collector.bodies)
    # The worker believes the context, if it has the form of one, and nothing else.
    taken = rewrite(_delivered(message))
    with_span = taken["headers"]
    assert with_span["traceparent"] == message["headers"]["traceparent"]
    for wrong in ("x", 7, None, f"00-{'0' * 32}-{'b' * 16}-01", CLIENT + "\n"):
        message["headers"]["traceparent"] = wrong
        assert "traceparent" not in rewrite(_delivered(message))["headers"]


def _delivered(message: dict[str, Any]) -> dict[str, Any]:
    properties = {**message["properties"], "delivery_tag": "t-1"}
    return {**message, "properties": properties}


def test_a_job_goes_on_with_the_trace_in_any_thread(collector: Collector) -> None:
    from hilum.logs import carry

    tracing.configure(collector.settings, service="test")
    error = StorageUnavailableError("No answer of the store with miller.dcm.")

    def fetch() -> None:
        with pytest.raises(StorageUnavailableError), tracing.span("fetch", image=3):
            raise error

    with tracing.span("job", parent=CLIENT, job="jb_1"):
        thread = threading.Thread(target=carry(fetch))
        thread.start()
        thread.join()
        tracing.add(images=2)
    assert tracing.headers() == {}, "outside of every span"
    tracing.close()
    spans = collector.by_name()
    job, fetched = spans["job"], spans["fetch"]
    assert job.trace_id.hex() == fetched.trace_id.hex() == "a" * 32
    assert fetched.parent_span_id == job.span_id
    assert attributes(job) == {"hilum.job": "jb_1", "hilum.images": 2}
    assert attributes(fetched) == {"hilum.image": 3, "hilum.code": "storage.unavailable"}
    assert fetched.status.code == 2
    assert not fetched.events
    assert not any(b"miller" in body for body in collector.bodies)


def test_a_span_that_threads_share(collector: Collector) -> None:
    tracing.configure(collector.settings, service="test")
    opened = tracing.start("job", parent=CLIENT, job="jb_1", study="st_1")
    with tracing.span("commit", parent=opened.header, images=4):
        pass
    opened.end(code="completed")
    tracing.close()
    spans = collector.by_name()
    assert spans["commit"].parent_span_id == spans["job"].span_id
    assert spans["job"].trace_id.hex() == "a" * 32
    assert attributes(spans["job"])["hilum.code"] == "completed"


def test_off_is_free_and_changes_no_message(shared_gateway: Gateway, valkey: Valkey) -> None:
    assert not tracing.is_on()
    assert tracing.span("job", job="jb_1") is tracing.span("fetch", parent=CLIENT)
    tracing.add(images=2)
    tracing.start("job").end()
    with redis.from_url(valkey.url) as broker:
        broker.flushall()
        sent = {"images": [{"uri": "s3://b/k"}]}
        assert shared_gateway.post(sent, traceparent=CLIENT).status_code == 202
        (message,) = map(json.loads, broker.lrange("routine", 0, -1))
    assert "traceparent" not in message["headers"]
    with shared_gateway.database.read() as connection:
        assert set(connection.execute(select(jobs.c.traceparent)).scalars()) == {None}


def test_a_collector_that_is_away_harms_nobody(
    make_gateway: Callable[..., Gateway],
) -> None:
    nobody = TracingSettings(endpoint=HttpUrl("http://127.0.0.1:9/v1/traces"), timeout_s=0.2)
    gateway = make_gateway(tracing=nobody)
    assert gateway.post({"images": [{"uri": "s3://b/k"}]}).status_code == 202
    tracing.close()
