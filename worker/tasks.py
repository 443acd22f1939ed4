"""The task, and the set-up of pool processes. The work itself is in :mod:`worker.run`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from celery import current_app, shared_task
from celery.exceptions import Reject
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown

from hilum import logs, settings, tracing
from hilum.errors import HilumError
from hilum.queue import SCORE_TASK, Queue
from worker.process_signals import GIVE_UP_SIGNAL

if TYPE_CHECKING:
    from worker.process import Process

log = logging.getLogger(__name__)
_process: Process | None = None


def start_process(**_: Any) -> None:
    """Load the model, once in each pool process.

    A process that fails ends the worker, because its successor would fail too. Celery would log
    the exception and continue.
    """
    global _process  # noqa: PLW0603 - a pool process is one, and Celery hands tasks no state
    # Only pool processes load the engine; the parent imports this module for the name of the task.
    from worker.model import ServedModel  # noqa: PLC0415
    from worker.process import Process  # noqa: PLC0415

    try:
        conf = current_app.conf
        queues = [Queue(name) for name in conf.hilum_queues]
        _process = Process(settings.load(), ServedModel(**conf.hilum_model), queues)
    except HilumError as error:
        logs.event(log, logging.CRITICAL, "worker.cannot_serve", **error.body())
    except Exception:
        log.critical("worker.cannot_serve", exc_info=True)
    else:
        logs.event(log, logging.INFO, "worker.process_ready", pid=os.getpid())
        return
    os.kill(os.getppid(), GIVE_UP_SIGNAL)


def end_process(**_: Any) -> None:
    """Send the last spans."""
    tracing.close()


def configure_logs(**_: Any) -> None:
    """Replaces the set-up of Celery, in the parent and in each pool process."""
    loaded = settings.load()
    logs.configure(loaded.log_level, style=loaded.service_log_style)


def _score_job(job_id: str) -> None:
    """Work on the jobs that come next in SQL, until none is left.

    The message is a wake-up: its job may have been scored already, or come later. Failures are
    recorded in SQL or, here, in the log.
    """
    if _process is None or _process.stopping:
        raise Reject(requeue=True)  # for another worker
    try:
        _process.run()
    except HilumError as error:
        logs.event(log, logging.ERROR, "worker.broken_off", code=error.code)
    except Exception:
        # Not raised again: Celery would log its text, which may contain data.
        log.error("worker.broken_off", exc_info=True)
    if _process.broken:
        # The pool starts another process. The jobs have been given back in SQL.
        logs.event(log, logging.CRITICAL, "worker.device_lost", pid=os.getpid())
        raise SystemExit(1)


score_job = shared_task(name=SCORE_TASK, Request="worker.delivery:Request")(_score_job)
worker_process_init.connect(start_process, weak=False)
worker_process_shutdown.connect(end_process, weak=False)
setup_logging.connect(configure_logs, weak=False)
