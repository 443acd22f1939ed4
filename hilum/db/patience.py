"""Write to a database that may be away for a while."""

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
) -> T:
    """What ``step`` returns in a transaction of its own; run again while the database is away.

    A commit whose answer was lost is run again too, so ``step`` must be idempotent, or fenced.

    Args:
        patience_s: how long to try. At least one try is made.
        stop: when set, no further try is made.
        longest_wait_s: between two tries; the first wait is half a second and they double.

    Raises:
        DatabaseUnavailableError: it did not come back in time.
    """
    deadline = time.monotonic() + patience_s
    wait = 0.5
    while True:
        try:
            with database.write() as connection:
                return step(connection)
        except DatabaseUnavailableError as error:
            if time.monotonic() + wait > deadline or stop.wait(wait):
                raise
            log.warning("%s Trying again.", error.detail)
            wait = min(2 * wait, longest_wait_s)
