"""A thread that renews the lease of a job while a worker scores it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hilum.db import jobs
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.errors import HilumError, LeaseLostError
from hilum.logs import carry, event

log = logging.getLogger(__name__)


@contextmanager
def keep(database: Database, claim: Claim, *, lease_s: float) -> Iterator[threading.Event]:
    """Renew the lease three times during its length. Yields an event that is set if it is lost.

    An unavailable database does not end a lease: no other worker can claim the job meanwhile.
    """
    done, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(lease_s / 3):
            try:
                with database.write() as connection:
                    jobs.renew(connection, claim, lease_s=lease_s)
            except LeaseLostError:
                lost.set()
                return
            except HilumError as error:
                event(log, logging.WARNING, "lease.not_renewed", code=error.code)

    thread = threading.Thread(target=carry(renew), name="hilum-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()
