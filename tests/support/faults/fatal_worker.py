"""``python -m support.faults.fatal_worker worker``: the real worker, whose pool processes kill
themselves with SIGKILL at ``$FATAL_POINT``: ``$FATAL_DEATHS`` of them, one after the other, each
when it passes that point for the first to ``$FATAL_WITHIN``-th time. Each leaves a file in
``$FATAL_MARKS``."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hilum.db import jobs
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.sandbox.process import DecodeProcess
from hilum.storage import ObjectStore

POINTS = ("fetch", "decode", "inference", "before commit", "after commit", "before ack")
_passed: dict[str, int] = {}
_lock = threading.Lock()


def pass_point(point: str, *, later_s: float = 0) -> None:
    """Die here, if this is the point and it is time."""
    tasks = sys.modules.get("worker.tasks")
    if point != os.environ["FATAL_POINT"] or tasks is None or tasks._process is None:
        return
    marks = Path(os.environ["FATAL_MARKS"])
    with _lock:
        died = len([*marks.iterdir()])
        passes = _passed[point] = _passed.get(point, 0) + 1
        often = random.Random(f"{point} {died}").randint(1, int(os.environ["FATAL_WITHIN"]))
        if died >= int(os.environ["FATAL_DEATHS"]) or passes != often:
            return
        (marks / str(died)).touch()
    if later_s:
        threading.Timer(later_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, name: str, point: str, *, after: bool, later_s: float = 0) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not after:
            pass_point(point, later_s=later_s)
        result = real(*arguments, **named)
        if after:
            pass_point(point)
        return result

    setattr(owner, name, wrapped)


def _arm() -> None:
    # Not imported by the test, which only reads the names of the points.
    from worker.process import Process
    from worker.run import _Run

    _wrap(ObjectStore, "read_into", "fetch", after=False, later_s=0.002)
    _wrap(DecodeProcess, "ask", "decode", after=False, later_s=0.001)
    _wrap(OnnxRuntimeEngine, "run", "inference", after=False)
    _wrap(jobs, "record_many", "before commit", after=True)
    _wrap(_Run, "_write_outcomes", "after commit", after=True)
    _wrap(Process, "run", "before ack", after=True)


# At import: pool processes are spawned and import the main module anew.
if "FATAL_POINT" in os.environ:
    _arm()

if __name__ == "__main__":
    from hilum.cli import main

    main()
