"""Closes the connection when an acknowledgement fails.

Celery 5.7 logs the failure and continues (kombu, ``Message.ack_log_error``). With Redis such a
message counts as held from then on, and a worker that holds its maximum never asks for another: a
broker that restarts while a job ends would leave a worker alive and idle for ever. A new connection
counts from zero. The message itself is delivered again and finds its job ended.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.request import Request as CeleryRequest

from hilum import logs

log = logging.getLogger(__name__)

# Errors that are logged only. Any other ends the event loop, which Celery then starts anew.
_HARMLESS: tuple[type[Exception], ...] = ()


class Request(CeleryRequest):  # type: ignore[misc] # Celery has no types
    """A delivery of a task, in the worker's main process."""

    acknowledged: bool

    def acknowledge(self) -> None:
        """The task has ended; the broker may remove it."""
        if not self.acknowledged:
            self._on_ack(log, _HARMLESS)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """The task is for another worker, or for nobody."""
        if not self.acknowledged:
            self._on_reject(log, _HARMLESS, requeue)
            self.acknowledged = True

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The process took too long and is killed."""
        with logs.bind(job=self.args[0]):
            super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, *arguments: Any, **named: Any) -> None:
        """The process died while it ran the task."""
        with logs.bind(job=self.args[0]):
            super().on_failure(exc_info, *arguments, **named)
