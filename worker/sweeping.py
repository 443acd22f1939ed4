"""The sweeper publishes jobs that are due, whose task is lost, or whose worker has died.

It runs in every worker; any one of them is enough."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from hilum.db import sweeper
from hilum.db.connection import Database
from hilum.db.sweeper import Backlog, Due
from hilum.errors import BrokerUnavailableError, HilumError
from hilum.logs import event
from hilum.queue import Queue
from hilum.settings import WorkerSettings

log = logging.getLogger(__name__)

_PAGE: Final = 1000  # jobs published between two queries
_SPARE: Final = 1000  # messages that a queue may have beyond its jobs


class Broker(Protocol):
    """What the sweeper uses of the broker. Methods raise ``BrokerUnavailableError``."""

    def publish(self, job_id: str, route: str) -> None:
        """Publish the job on this queue (see :func:`hilum.queue.route`)."""
        ...

    def length(self, route: str) -> int:
        """The number of messages in the queue, without those that workers hold."""
        ...

    def trim(self, route: str, keep: int) -> None:
        """Remove the oldest messages of the queue, so that ``keep`` are left."""
        ...


def sweep(database: Database, broker: Broker, settings: WorkerSettings) -> int:
    """Sweep once. Returns the number of published tasks.

    Raises:
        DatabaseUnavailableError, BrokerUnavailableError: the next sweep finds the same jobs.
    """
    with database.write() as connection:
        expired = sweeper.expire_leases(connection)
    if expired:
        event(log, logging.WARNING, "sweep.leases_expired", jobs=expired)
    published = 0
    while True:
        with database.write() as connection:
            due = sweeper.take_due(connection, grace_s=settings.sweep_interval_s, limit=_PAGE)
        _publish(database, broker, due)
        published += len(due)
        if len(due) < _PAGE:
            break
    with database.read() as connection:
        backlogs = sweeper.backlogs(connection)
    known = {backlog.route for backlog in backlogs}
    others = (Backlog(queue=queue, digest=None, jobs=0) for queue in Queue)
    for backlog in [*backlogs, *(other for other in others if other.route not in known)]:
        length = broker.length(backlog.route)
        if length > backlog.jobs + _SPARE:
            # Busy workers claim jobs from SQL and leave their messages, which only wake the idle.
            broker.trim(backlog.route, backlog.jobs + _SPARE)
        missing = backlog.jobs - length
        if missing <= 0:
            continue
        with database.write() as connection:
            lost = sweeper.take_lost(
                connection,
                backlog,
                republish_after_s=settings.republish_after_s,
                limit=min(missing, _PAGE),
            )
        _publish(database, broker, lost)
        published += len(lost)
        if lost:
            event(log, logging.WARNING, "sweep.lost_tasks", queue=backlog.route, jobs=len(lost))
    return published


def _publish(database: Database, broker: Broker, taken: Sequence[Due]) -> None:
    for done, due in enumerate(taken):
        try:
            broker.publish(due.job_id, due.route)
        except BrokerUnavailableError:
            with database.write() as connection:
                sweeper.unpublish(connection, [left.job_id for left in taken[done:]])
            raise


class Sweeper:
    """A thread that sweeps at an interval until it is stopped; ``beat`` is called before."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        settings: WorkerSettings,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._beat = beat
        self._arguments = (database, broker, settings)
        self._interval_s = settings.sweep_interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="hilum-sweeper", daemon=True)

    def start(self) -> None:
        """Start to sweep, now and at the interval."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Waits at most one interval for a running sweep."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._interval_s)

    def _loop(self) -> None:
        while not self._stop.is_set():
            for step in (self._beat, partial(sweep, *self._arguments)):
                try:
                    step()
                except HilumError as error:
                    event(log, logging.WARNING, "sweep.failed", code=error.code)
                except Exception:  # a failed sweep must not be the last
                    log.exception("sweep.failed")
            self._stop.wait(self._interval_s)
