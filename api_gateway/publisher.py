"""Publishes jobs. Only this module of the gateway uses Celery."""

from __future__ import annotations

import logging

from celery import Celery

from hilum import tracing
from hilum.db import jobs, traces
from hilum.db.connection import Database
from hilum.errors import HilumError
from hilum.logs import event
from hilum.queue import BROKER_CONFIG, SCORE_TASK, transport_options

log = logging.getLogger(__name__)

_TIMEOUT_S = 1.0  # an unavailable broker must not delay a study that SQL has accepted


class Publisher:
    """Publishes jobs. The sweeper of the workers publishes a job for which this fails."""

    def __init__(
        self, broker_url: str, database: Database, *, visibility_timeout_s: int = 1800
    ) -> None:
        self._database = database
        self._app = Celery("hilum-gateway", broker=broker_url, set_as_current=False)
        self._app.conf.update(
            **BROKER_CONFIG,
            broker_transport_options={
                **transport_options(
                    visibility_timeout_s=visibility_timeout_s, socket_timeout_s=_TIMEOUT_S
                ),
                "max_retries": 0,
            },
        )

    def publish(self, job_id: str, route: str) -> bool:
        """Publish the job on this queue of the broker. Returns whether the broker accepted it."""
        try:
            with tracing.span("publish", job=job_id, queue=route):
                headers = self._trace(job_id)
                self._app.send_task(
                    SCORE_TASK, args=[job_id], queue=str(route), retry=False, headers=headers
                )
            with self._database.write() as connection:
                jobs.mark_published(connection, job_id)
        except HilumError as error:
            event(log, logging.WARNING, "job.not_marked", job=job_id, code=error.code)
            return False
        except Exception as error:  # kombu passes on the exceptions of each transport
            # Without its text, which may contain the broker's address with its password.
            name = type(error).__name__
            event(log, logging.WARNING, "job.not_published", job=job_id, error=name)
            return False
        return True

    def _trace(self, job_id: str) -> dict[str, str] | None:
        """The headers that carry the current span, which is also kept for the worker that claims
        the job."""
        if not (headers := tracing.headers()):
            return None
        with self._database.write() as connection:
            traces.remember(connection, job_id, headers[tracing.TRACEPARENT])
        return headers

    def ping(self) -> bool:
        """Whether the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_S)
        except Exception:  # see above
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
