"""Numbers for Prometheus: how images ended, by code, which engine runs and why, and what it did.

Pool processes count, the main process answers: prometheus_client keeps the counts of each process
in files of one folder, which goes away with the worker. Labels are codes and engine names alone.
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

_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported

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


def ended(outcomes: Sequence[Scored | NotScored]) -> None:
    """Count images whose end was recorded."""
    for outcome in outcomes:
        code = "scored" if isinstance(outcome, Scored) else outcome.error.code
        _IMAGES.labels(code).inc()


def engine_ready(engine: str, reason: str) -> None:
    """This process has that engine, for that reason, and takes jobs."""
    _ENGINE.labels(engine, reason).set(1)


def engine_ran(engine: str, *, images: int, seconds: float) -> None:
    """Count a batch."""
    _ENGINE_IMAGES.labels(engine).inc(images)
    _ENGINE_SECONDS.labels(engine).inc(seconds)


class _Collector(MultiProcessCollector):
    """Without the processes that are gone, however they went; their counts stay."""

    def collect(self) -> Iterator[Metric]:
        for file in Path(self._path).glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not _alive(pid):
                with suppress(FileNotFoundError):  # two ask at once
                    mark_process_dead(pid, self._path)  # type: ignore[no-untyped-call]
        yield from super().collect()  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
