"""Numbers for Prometheus: how images ended, by code, and what the engine did.

Pool processes count, the main process answers: prometheus_client keeps the counts of each process
in files of one folder, which goes away with the worker. Labels are codes and engine names alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from hilum.db.claims import NotScored, Scored
from hilum.errors import ConfigurationError

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported

_IMAGES: Final = Counter(
    "hilum_images", "Images that ended, by `scored` or the code of their error.", ["code"]
)
_ENGINE_IMAGES: Final = Counter("hilum_engine_images", "Images an engine has scored.", ["engine"])
_ENGINE_SECONDS: Final = Counter("hilum_engine_seconds", "Time spent in an engine.", ["engine"])


def ended(outcomes: Sequence[Scored | NotScored]) -> None:
    """Count images whose end was recorded."""
    for outcome in outcomes:
        code = "scored" if isinstance(outcome, Scored) else outcome.error.code
        _IMAGES.labels(code).inc()


def engine_ran(engine: str, *, images: int, seconds: float) -> None:
    """Count a batch."""
    _ENGINE_IMAGES.labels(engine).inc(images)
    _ENGINE_SECONDS.labels(engine).inc(seconds)


@contextmanager
def served(address: str | None) -> Iterator[None]:
    """Answer ``GET /metrics`` at ``address`` (host:port) until the block ends, for this process and
    all that it starts; ``None``: nowhere.

    Raises:
        ConfigurationError: it is no address, or somebody else listens there.
    """
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="hilum-metrics-") as folder:
        os.environ[_FOLDER] = folder  # pool processes inherit it
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        try:
            server, _thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"HILUM_WORKER__METRICS_ADDRESS: cannot listen there ({type(error).__name__})."
            ) from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            del os.environ[_FOLDER]
