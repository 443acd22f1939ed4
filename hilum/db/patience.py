"""Write to a database that may be unavailable for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from sqlalchemy import Connection

from hilum.db.connection import Database
from hilum.errors import DatabaseUnavailableError

log = logging.getLogger(__name__)
T = TypeVar("T")
Step: TypeAlias = Callable[[Connection], T]


def persist(
    database: Database,
    step: Step[T],
    *,
    patience_s: float,
    stop: threading.Event,
    longest_wait_s: float = 10.0,
    on_wait: Callable[[], None] = lambda: None,
) -> T:
    """Run ``step`` in a transaction of its own, again and again while the database is unavailable.

    A commit whose answer was lost is repeated too, so ``step`` must be idempotent or fenced.

    Args:
        patience_s: how long to try. ``step`` is run at least once.
        stop: once it is set, ``step`` is not run again.
        on_wait: called before each wait.
        longest_wait_s: between two tries. The first wait is half a second; each is twice as long.

    Raises:
        DatabaseUnavailableError: the database stayed unavailable for too long.
    """
    deadline = time.monotonic() + patience_s
    wait = 0.5
    while True:
        try:
            with database.write() as connection:
                return step(connection)
        except DatabaseUnavailableError as error:
            on_wait()
            if time.monotonic() + wait > deadline or stop.wait(wait):
                raise
            log.warning("%s Trying again.", error.detail)
            wait = min(2 * wait, longest_wait_s)
