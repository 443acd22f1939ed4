"""How Celery is set up."""

from __future__ import annotations

import pytest

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
