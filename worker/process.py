"""One pool process: its model, loaded once, and whether it has been asked to stop."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path

from hilum.db.connection import Database
from hilum.db.identity import open_vault
from hilum.engines.loading import reason_of
from hilum.errors import PackageDigestError
from hilum.packages.load import verify
from hilum.session import open_session
from hilum.settings import Settings
from worker import metrics
from worker.model import ServedModel
from worker.process_signals import STOP_SIGNAL
from worker.run import Ending, Tools, run_job


class Process:
    """The state of one pool process."""

    def __init__(self, settings: Settings, model: ServedModel) -> None:
        """Load the model and pass the golden check (see ``open_session`` for errors)."""
        package = verify(Path(model.folder))
        if package.digest != model.digest:
            raise PackageDigestError(
                "The package folder contains another model than at the start of the worker.",
                next_step="Restart the worker. Publish each new version in a folder of its own.",
            )
        threads = settings.worker.decode_threads
        self._resources = ExitStack()  # held until this process ends
        session = self._resources.enter_context(
            open_session(settings, package=package, decode_processes=threads)
        )
        self._stop = threading.Event()
        self._broken = False
        self._tools = Tools(
            database=Database(settings.database_url),
            loader=session.loader,
            scorer=session.scorer,
            model_id=model.model_id,
            threads=session.threads,
            settings=session.settings.worker,
            vault=open_vault(settings.identity),
        )
        engine = session.scorer.engine
        metrics.show_engine(engine.name, reason_of(engine))
        signal.signal(STOP_SIGNAL, lambda *_: self._stop.set())

    @property
    def stopping(self) -> bool:
        """Whether this process claims no more jobs."""
        return self._stop.is_set()

    @property
    def broken(self) -> bool:
        """Whether this process has lost its GPU for good. Only a new process can use it again."""
        return self._broken

    def run(self, job_id: str) -> Ending:
        """See :func:`worker.run.run_job`."""
        ending = run_job(self._tools, job_id, stop=self._stop)
        self._broken = ending is Ending.DEVICE_LOST
        return ending
