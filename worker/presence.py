"""What a worker does beside its jobs: say that it is ready, and advance campaigns."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from hilum.campaigns import steps
from hilum.db import workers
from hilum.db.connection import Database
from hilum.errors import HilumError
from hilum.ids import new_id
from hilum.logs import event
from hilum.queue import Queue

log = logging.getLogger(__name__)

_MORE_S = 30.0  # a worker whose main process is busy for so long is still alive


class Presence:
    """The row of one worker. The sweeper calls :meth:`beat` each time.

    Args:
        database: the SQL database.
        model_id: what the worker serves.
        queues: the priorities that it reads.
        processes: how many it has.
        interval_s: between two calls of :meth:`beat`.
    """

    def __init__(
        self,
        database: Database,
        *,
        model_id: int,
        queues: Iterable[Queue],
        processes: int,
        interval_s: float,
    ) -> None:
        self._database = database
        self._id = new_id("wk")
        self._model_id = model_id
        self._queues = [queue.value for queue in queues]
        self._processes = processes
        self._alive_s = 3 * interval_s + _MORE_S

    def beat(self) -> None:
        """Say that the worker is ready, and advance campaigns.

        Raises:
            DatabaseUnavailableError: the next call repeats both.
        """
        with self._database.write() as connection:
            workers.beat(
                connection,
                self._id,
                model_id=self._model_id,
                queues=self._queues,
                processes=self._processes,
                alive_s=self._alive_s,
            )
        steps.advance(self._database)

    def leave(self) -> None:
        """Say that the worker has stopped."""
        try:
            with self._database.write() as connection:
                workers.leave(connection, self._id)
        except HilumError as error:  # the row runs out by itself
            event(log, logging.WARNING, "worker.not_deregistered", code=error.code)
