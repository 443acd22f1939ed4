"""One pool process: its model, loaded once, and whether it has been asked to stop."""

from __future__ import annotations

import faulthandler
import gc
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hilum import tracing
from hilum.db.connection import Database
from hilum.db.identity import open_vault
from hilum.engines.loading import reason_of
from hilum.errors import PackageDigestError
from hilum.packages.load import verify
from hilum.queue import Queue
from hilum.session import open_session
from hilum.settings import Settings
from worker import lease, metrics
from worker.model import ServedModel
from worker.process_signals import STOP_SIGNAL
from worker.run import work
from worker.tools import Tools


class Process:
    """The state of one pool process."""

    def __init__(self, settings: Settings, model: ServedModel, queues: Sequence[Queue]) -> None:
        """Load the model and pass the golden check (see ``open_session`` for errors)."""
        package = verify(Path(model.folder))
        if package.digest != model.digest:
            raise PackageDigestError(
                "The package folder contains another model than at the start of the worker.",
                next_step="Restart the worker. Publish each new version in a folder of its own.",
            )
        tracing.configure(settings.tracing, service="hilum-worker")
        options = settings.worker
        self._resources = ExitStack()  # held until this process ends
        session = self._resources.enter_context(
            open_session(
                settings,
                package=package,
                decode_processes=options.decode_threads,
                reserved=options.stat_threads,
            )
        )
        self._stop = threading.Event()
        self._broken = False
        self._no_progress_s = options.no_progress_s
        database = Database(settings.database_url)
        leases = lease.keep(database, lease_s=options.lease_s)
        self._tools = Tools(
            database=database,
            loader=session.loader,
            scorer=session.scorer,
            model_id=model.model_id,
            threads=session.threads,
            leases=self._resources.enter_context(leases),
            settings=session.settings.worker,
            queues=tuple(queues),
            vault=open_vault(settings.identity),
            on_progress=self._watch,
        )
        engine = session.scorer.engine
        metrics.show_engine(engine.name, reason_of(engine))
        # What was loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        signal.signal(STOP_SIGNAL, lambda *_: self._stop.set())

    @property
    def stopping(self) -> bool:
        """Whether this process claims no more jobs."""
        return self._stop.is_set()

    @property
    def broken(self) -> bool:
        """Whether this process has lost its GPU for good. Only a new process can use it again."""
        return self._broken

    def run(self) -> None:
        """See :func:`worker.run.work`."""
        self._watch()
        try:
            self._broken = work(self._tools, stop=self._stop).device_lost
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        """End this process unless it is called again in time.

        The timer is a thread of C that needs no interpreter lock, so that an engine that hangs
        with the lock is ended too. The dump names functions and lines, no values.
        """
        faulthandler.dump_traceback_later(self._no_progress_s, exit=True, file=2)
