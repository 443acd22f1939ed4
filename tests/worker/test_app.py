"""How Celery is set up."""

from __future__ import annotations

from pathlib import Path

import pytest

from api_gateway.publisher import Publisher
from hilum.db.connection import Database
from hilum.settings import EngineChoice, Settings, TensorRTSettings
from worker.app import create_app


@pytest.mark.parametrize(
    ("engine", "on_missing", "limit_s"),
    [
        ("auto", "error", 600),
        ("auto", "build", 3600),
        ("tensorrt", "build", 3600),
        ("onnxruntime", "build", 600),
    ],
)
def test_a_process_that_builds_a_plan_may_take_longer_to_start(
    engine: EngineChoice, on_missing: str, limit_s: float
) -> None:
    """Celery kills one that is not up by then, and starts the next, which would begin anew."""
    section = TensorRTSettings(on_missing=on_missing)  # type: ignore[arg-type]
    app = create_app(Settings(engine=engine, tensorrt=section))
    assert app.conf.worker_proc_alive_timeout == limit_s


def test_what_kombu_must_be_told_of_a_redis_broker(tmp_path: Path) -> None:
    """See ``hilum.queue.transport_options``; a queue that is named directly survives FLUSHALL, an
    exchange's bindings do not."""
    worker = create_app(Settings()).conf
    with Database(f"sqlite:///{tmp_path / 'hilum.db'}") as database:
        publisher = Publisher("redis://127.0.0.1:9/0", database)
        gateway = publisher._app.conf
        publisher.close()
    assert worker.worker_disable_prefetch
    for options in (worker.broker_transport_options, gateway.broker_transport_options):
        assert options["unacked_restore_throttle"] == 1
        assert options["socket_timeout"] > 0
    assert (
        worker.broker_transport_options["visibility_timeout"]
        == gateway.broker_transport_options["visibility_timeout"]
    )
    assert not any("exchange" in queue for queue in worker.task_queues.values())
