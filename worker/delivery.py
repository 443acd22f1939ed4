"""An acknowledgement that fails takes its connection down with it.

Celery 5.7 logs it and goes on (kombu, ``Message.ack_log_error``). With Redis such a message counts
as in hand from then on, and a worker that holds as many as it may never asks for another: a broker
restarted while a job ended would leave a worker alive and idle for ever. Connecting anew counts
from nothing. The message itself comes back, and finds its job done.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.request import Request as CeleryRequest

from hilum import logs

log = logging.getLogger(__name__)

# Of those to be logged only. Any other ends the event loop, which Celery then starts anew.
_HARMLESS: tuple[type[Exception], ...] = ()


class Request(CeleryRequest):  # type: ignore[misc] # Celery has no types
    """A delivery of a task, in the worker's main process."""

    acknowledged: bool

    def acknowledge(self) -> None:
        """The task is over; the broker may forget it."""
        if not self.acknowledged:
            self._on_ack(log, _HARMLESS)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """The task is for another worker, or for nobody."""
        if not self.acknowledged:
            self._on_reject(log, _HARMLESS, requeue)
            self.acknowledged = True

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The process took too long, and is killed."""
        with logs.bind(job=self.args[0]):
            super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, *arguments: Any, **named: Any) -> None:
        """The process died over it."""
        with logs.bind(job=self.args[0]):
            super().on_failure(exc_info, *arguments, **named)
