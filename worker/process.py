"""What one pool process holds: the model, loaded once, and whether it is asked to stop."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hilum.db.connection import Database
from hilum.engines.loading import open_engine
from hilum.errors import PackageDigestError
from hilum.packages.load import verify
from hilum.pipeline.cache import open_cache
from hilum.pipeline.load import Fetcher
from hilum.pipeline.score import Scorer
from hilum.sandbox import Decoders
from hilum.settings import Settings
from hilum.storage import open_store
from hilum.tuning import apply_tuning
from worker import metrics
from worker.model import ServedModel
from worker.process_signals import STOP_SIGNAL
from worker.run import Ending, Tools, run_job


class Process:
    """The state of one pool process."""

    def __init__(self, settings: Settings, model: ServedModel) -> None:
        """Load the model and let the engine prove itself (see ``open_engine`` for errors)."""
        threads = settings.worker.decode_threads
        decoders = Decoders(threads, settings.limits)
        decoders.warm()  # while the engine loads
        package = verify(Path(model.folder))
        if package.digest != model.digest:
            raise PackageDigestError(
                "The package folder holds another model than the worker was started with.",
                next_step="Start the worker again; publish new versions in folders of their own.",
            )
        engine = open_engine(package, settings)
        settings = apply_tuning(package, settings, engine.name)
        store = open_store(settings.s3, settings.limits)
        cache = open_cache(store, settings.prepared)
        scorer = Scorer(
            package,
            engine,
            settings.limits,
            decoders=decoders,
            keep=cache is not None,
        )
        self._stop = threading.Event()
        self._broken = False
        self._tools = Tools(
            database=Database(settings.database_url),
            films=Fetcher(scorer, store, cache),
            scorer=scorer,
            model_id=model.model_id,
            fetchers=ThreadPoolExecutor(threads, thread_name_prefix="hilum-fetch"),
            settings=settings.worker,
        )
        metrics.engine_ready(engine.name, engine.reason)
        signal.signal(STOP_SIGNAL, lambda *_: self._stop.set())

    @property
    def stopping(self) -> bool:
        """Whether this process takes no more jobs."""
        return self._stop.is_set()

    @property
    def broken(self) -> bool:
        """Whether the GPU is lost to this process for good. Only a new process has one again."""
        return self._broken

    def run(self, job_id: str) -> Ending:
        """See :func:`worker.run.run_job`."""
        ending = run_job(self._tools, job_id, stop=self._stop)
        self._broken = ending is Ending.DEVICE_LOST
        return ending
