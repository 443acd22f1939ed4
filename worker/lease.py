"""A thread that renews the leases of all jobs that a process has in hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hilum.db import jobs
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.errors import HilumError
from hilum.logs import event

log = logging.getLogger(__name__)


class Leases:
    """The jobs whose leases are renewed; for the thread that works on them and the one that renews.

    An unavailable database does not end a lease: no other worker can claim the job meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}
        self._lost: set[str] = set()

    def hold(self, claims: list[Claim]) -> None:
        """Renew these from now on."""
        with self._lock:
            self._held |= {claim.job_id: claim for claim in claims}
            self._lost -= {*self._held}  # claimed anew

    def drop(self, job_ids: set[str]) -> None:
        """Renew these no longer."""
        with self._lock:
            for job_id in job_ids:
                self._held.pop(job_id, None)

    def take_lost(self) -> set[str]:
        """The jobs that have passed to other workers since the last call."""
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def renew(self, database: Database, *, lease_s: float) -> None:
        """Renew all in one statement.

        Raises:
            DatabaseUnavailableError: none was renewed.
        """
        with self._lock:
            held = list(self._held.values())
        if not held:
            return
        with database.write() as connection:
            kept = jobs.renew_many(connection, held, lease_s=lease_s)
        with self._lock:
            # One that was dropped meanwhile has ended, was given back, or was claimed anew.
            for claim in held:
                if claim.job_id not in kept and self._held.get(claim.job_id) is claim:
                    del self._held[claim.job_id]
                    self._lost.add(claim.job_id)


@contextmanager
def keep(database: Database, *, lease_s: float) -> Iterator[Leases]:
    """Renew the leases that the block holds three times during their length."""
    done, leases = threading.Event(), Leases()

    def renew() -> None:
        while True:
            try:
                leases.renew(database, lease_s=lease_s)
            except HilumError as error:
                event(log, logging.WARNING, "worker.leases_not_renewed", code=error.code)
            except Exception:  # a failure must not be the end of all leases
                log.exception("worker.leases_not_renewed")
            if done.wait(lease_s / 3):
                return

    thread = threading.Thread(target=renew, name="hilum-lease", daemon=True)
    thread.start()
    try:
        yield leases
    finally:
        done.set()
        thread.join()
