"""Metrics for Prometheus: the outcomes of images by code, the engine, its reason and its work.

Pool processes count and the main process answers. prometheus_client keeps the counts of each
process in files of one folder, which the worker removes at its end. Labels are codes and engine
names only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from hilum.db.claims import NotScored, Scored
from hilum.errors import ConfigurationError

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported

_IMAGES: Final = Counter(
    "hilum_images", "Images that ended, by `scored` or the code of their error.", ["code"]
)
_ENGINE_IMAGES: Final = Counter("hilum_engine_images", "Images an engine has scored.", ["engine"])
_ENGINE_SECONDS: Final = Counter("hilum_engine_seconds", "Time spent in an engine.", ["engine"])
_ENGINE: Final = Gauge(
    "hilum_engine_info",
    "Processes that run an engine; `reason` is `configured`, `auto`, or `auto:` and the code of "
    "what kept TensorRT from being used.",
    ["engine", "reason"],
    multiprocess_mode="livesum",
)


def count_outcomes(outcomes: Sequence[Scored | NotScored]) -> None:
    """Count images whose outcome was recorded."""
    for outcome in outcomes:
        code = "scored" if isinstance(outcome, Scored) else outcome.error.code
        _IMAGES.labels(code).inc()


def show_engine(engine: str, reason: str) -> None:
    """Show that this process runs this engine, and why."""
    _ENGINE.labels(engine, reason).set(1)


def count_batch(engine: str, *, images: int, seconds: float) -> None:
    """Count one batch of the engine."""
    _ENGINE_IMAGES.labels(engine).inc(images)
    _ENGINE_SECONDS.labels(engine).inc(seconds)


class _Collector(MultiProcessCollector):
    """Leaves out processes that have ended or died; their counts stay."""

    def collect(self) -> Iterator[Metric]:
        for file in Path(self._path).glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not _alive(pid):
                with suppress(FileNotFoundError):  # two requests at once
                    mark_process_dead(pid, self._path)  # type: ignore[no-untyped-call]
        yield from super().collect()  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def serve(address: str | None) -> Iterator[None]:
    """Answer ``GET /metrics`` at ``address`` (host:port) until the block ends, for this process and
    all that it starts; ``None``: nowhere.

    Raises:
        ConfigurationError: the address is not valid or already in use.
    """
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="hilum-metrics-") as folder:
        os.environ[_FOLDER] = folder  # pool processes inherit it
        registry = CollectorRegistry()
        _Collector(registry, path=folder)  # type: ignore[no-untyped-call]
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
