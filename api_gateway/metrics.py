"""Metrics for Prometheus, on a listener of their own: the queues, campaigns and requests.

What waits and runs comes from SQL, so it is there while a pool of workers is at zero. Labels are
classes, the first 16 digits of model digests, codes, route templates and campaign ids: never a
patient, a tenant or an address.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hilum.db import backlog
from hilum.db.backlog import QueueState
from hilum.db.connection import Database
from hilum.errors import ConfigurationError, HilumError
from hilum.queue import Queue, route

ANY_MODEL: Final = "any"
_FRESH_S: Final = 5.0  # several Prometheus servers ask SQL no more often
_DATABASE_WAIT_S: Final = 2.0

_REGISTRY: Final = CollectorRegistry()
_REQUESTS: Final = Counter(
    "hilum_gateway_requests",
    "Requests answered, by method, route template and status.",
    ["method", "route", "status"],
    registry=_REGISTRY,
)
_SECONDS: Final = Histogram(
    "hilum_gateway_request_seconds",
    "Time to answer a request.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=_REGISTRY,
)


def count_request(*, method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request."""
    _REQUESTS.labels(method, route, str(status)).inc()
    _SECONDS.labels(route).observe(seconds)


class QueueCollector(Collector):
    """Reads the queues and campaigns from SQL when Prometheus asks, at most every few seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._found: list[Metric] = []
        self._until = 0.0

    def describe(self) -> list[Metric]:
        """Nothing: registration must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics; of a database that does not answer only ``hilum_database_up`` 0."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._look()
                self._until = time.monotonic() + _FRESH_S
            yield from self._found

    def _look(self) -> list[Metric]:
        up = GaugeMetricFamily("hilum_database_up", "1: the database answers the gateway.")
        try:
            with self._database.read() as connection:
                queues = backlog.queues(connection)
                failed = backlog.quarantined(connection)
                campaigns = backlog.campaign_states(connection)
        except HilumError:
            # No queue metrics at all: a pool must not be scaled to zero because of this.
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        quarantined = GaugeMetricFamily(
            "hilum_jobs_quarantined", "Jobs that failed, counted up to 100,000.", value=failed
        )
        progress = GaugeMetricFamily(
            "hilum_campaign_images",
            "Images of a campaign that has not finished, by state.",
            labels=["campaign", "state"],
        )
        for campaign in campaigns:
            for state, images in campaign.images.items():
                progress.add_metric([campaign.campaign_id, state], images)
        return [up, *_of_queues(queues), quarantined, progress]


def _of_queues(states: list[QueueState]) -> list[Metric]:
    labels = ["class", "model"]
    depth = GaugeMetricFamily("hilum_queue_depth", "Jobs that wait for a worker.", labels=labels)
    deferred = GaugeMetricFamily(
        "hilum_queue_deferred", "Jobs that are tried again later.", labels=labels
    )
    in_flight = GaugeMetricFamily(
        "hilum_queue_in_flight", "Jobs that workers have claimed.", labels=labels
    )
    age = GaugeMetricFamily(
        "hilum_queue_age_seconds", "How long the oldest waiting job has waited.", labels=labels
    )
    # A class without jobs is 0, not absent.
    found: dict[tuple[str, str], QueueState | None] = {
        (each.value, ANY_MODEL): None for each in Queue
    }
    for state in states:
        model = (
            ANY_MODEL if state.digest is None else route(state.queue, state.digest).split(".")[1]
        )
        found[state.queue.value, model] = state
    for key, each in found.items():
        depth.add_metric(key, each.waiting if each else 0)
        deferred.add_metric(key, each.deferred if each else 0)
        in_flight.add_metric(key, each.in_flight if each else 0)
        age.add_metric(key, each.age_s if each else 0.0)
    return [depth, deferred, in_flight, age]


@contextmanager
def serve(address: str | None, database_url: str) -> Iterator[None]:
    """Answer ``GET /metrics`` at ``address`` (host:port) until the block ends; ``None``: nowhere.

    Raises:
        ConfigurationError: the address is not valid or already in use.
    """
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    with Database(database_url, pool_size=1, wait_s=_DATABASE_WAIT_S) as database:
        collector = QueueCollector(database)
        _REGISTRY.register(collector)
        try:
            server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=_REGISTRY)
        except (OSError, ValueError, OverflowError) as error:
            _REGISTRY.unregister(collector)
            raise ConfigurationError(
                f"HILUM_GATEWAY__METRICS_ADDRESS: cannot listen there ({type(error).__name__})."
            ) from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            _REGISTRY.unregister(collector)
