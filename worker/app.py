"""The Celery application, the broker as the sweeper uses it, and the main process of a worker.

The broker carries job ids only. It keeps a task until the task has ended, since a task that runs
twice costs nothing here. Tasks that it loses are found in SQL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from celery import Celery
from celery.apps import worker as celery_worker
from celery.exceptions import OperationalError
from celery.signals import worker_ready, worker_shutting_down
from celery.worker import state

from hilum.db.connection import Database
from hilum.errors import BrokerUnavailableError
from hilum.queue import BROKER_CONFIG, SCORE_TASK, Queue, routes, transport_options
from hilum.settings import Settings
from worker.model import ServedModel
from worker.presence import Presence
from worker.process_signals import GIVE_UP_SIGNAL, STOP_SIGNAL
from worker.sweeping import Sweeper

EXIT_CANNOT_SERVE: Final = 2
_REDIS: Final = ("redis", "rediss")

# Loading a large model and its golden check may take minutes; Celery allows 4 s by default.
_PROCESS_START_LIMIT_S: Final = 600.0
# For a process that builds a missing plan, or waits for another process to build it.
_BUILD_LIMIT_S: Final = 3600.0
# After SIGQUIT only; after SIGTERM the current batches are finished, see `serve`.
_SOFT_SHUTDOWN_S: Final = 10.0
# For a synchronous command, so that a broker that has vanished is noticed.
_SOCKET_TIMEOUT_S: Final = 10.0


def create_app(
    settings: Settings, model: ServedModel | None = None, queues: Sequence[Queue] = tuple(Queue)
) -> Celery:
    """Create the Celery application. Its configuration passes ``model`` and ``queues`` to the pool
    processes."""
    worker = settings.worker
    digest = model.digest if model else None
    app = Celery("hilum", set_as_current=False, include=["worker.tasks"])
    app.conf.update(
        BROKER_CONFIG,
        broker_url=(url := settings.broker_url.get_secret_value()),
        **_transport(url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            **transport_options(
                visibility_timeout_s=worker.visibility_timeout_s, socket_timeout_s=_SOCKET_TIMEOUT_S
            ),
            "queue_order_strategy": "priority",
            # For publishing and counting; the consumer still retries for ever.
            "max_retries": 1,
        },
        # From most to least urgent: the worker reads the first queue that has a message.
        task_queues={name: {"routing_key": name} for name in routes(Queue, digest)},
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=worker.task_time_limit_s,
        worker_prefetch_multiplier=1,
        # A busy process leaves messages to idle workers. With late acknowledgement, Celery would
        # hold more and more of them.
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_pool_start_method="spawn",  # fork and the threads of an engine do not mix
        worker_proc_alive_timeout=_start_limit_s(settings),
        worker_soft_shutdown_timeout=_SOFT_SHUTDOWN_S,
        # A job that outlives its connection is finished; its second delivery finds it ended.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        hilum_model=asdict(model) if model else None,
        hilum_queues=[queue.value for queue in queues],
    )
    return app


class CeleryBroker:
    """:class:`worker.sweeping.Broker` by Celery."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def publish(self, job_id: str, route: str) -> None:
        """See the protocol."""
        try:
            self._app.send_task(SCORE_TASK, args=[job_id], queue=route, retry=False)
        except (OperationalError, OSError) as error:
            raise _unavailable(error) from None

    def length(self, route: str) -> int:
        """See the protocol."""
        with self._app.pool.acquire(block=True) as connection:
            try:
                declared = connection.default_channel.queue_declare(queue=route)
            except (*connection.connection_errors, OperationalError) as error:
                raise _unavailable(error) from None
            return int(declared.message_count)

    def trim(self, route: str, keep: int) -> None:
        """See the protocol."""
        with self._app.pool.acquire(block=True) as connection:
            channel = connection.default_channel
            if not hasattr(channel, "client"):  # not Redis
                return
            try:
                # The newest are pushed on the left.
                channel.client.ltrim(channel._q_for_pri(route, 0), 0, keep - 1)
            except connection.connection_errors as error:
                raise _unavailable(error) from None


def serve(
    settings: Settings,
    model: ServedModel,
    database: Database,
    *,
    queues: Sequence[Queue],
    processes: int,
) -> int:
    """Run a worker until it is told to stop. Returns the exit code.

    On SIGTERM or SIGINT the worker claims no more jobs, finishes the current batches, and gives
    jobs with images left back for other workers. If the broker is unavailable, it waits.
    """
    app = create_app(settings, model, queues)
    presence = Presence(
        database,
        model_id=model.model_id,
        queues=queues,
        processes=processes,
        interval_s=settings.worker.sweep_interval_s,
    )
    sweeper = Sweeper(database, CeleryBroker(app), settings.worker, presence.beat)
    worker = app.Worker(
        queues=routes(queues, model.digest),
        concurrency=processes,
        loglevel=settings.log_level,
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    # Celery prints these at its end, past every log.
    celery_worker.safe_say = lambda *_: None
    # With this variable, pool processes would log in the format of Celery.
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)

    def start_sweeping(**_: Any) -> None:
        sweeper.start()

    def stop_processes(**_: Any) -> None:
        for pid in worker.pool.info.get("processes", ()) if worker.pool else ():
            with suppress(ProcessLookupError):
                os.kill(pid, STOP_SIGNAL)

    def give_up(*_: Any) -> None:
        state.should_stop = EXIT_CANNOT_SERVE

    worker_ready.connect(start_sweeping, weak=False)
    worker_shutting_down.connect(stop_processes, weak=False)
    signal.signal(GIVE_UP_SIGNAL, give_up)
    worker.start()
    sweeper.stop()
    presence.leave()
    return int(worker.exitcode or 0)


def _transport(broker_url: str) -> dict[str, str]:
    """For Redis, the transport that checks messages before Celery reads them."""
    scheme = broker_url.partition("://")[0]
    return {"broker_transport": "worker.transport:Transport"} if scheme in _REDIS else {}


def _start_limit_s(settings: Settings) -> float:
    builds = settings.tensorrt.on_missing == "build" and settings.engine in ("auto", "tensorrt")
    return _BUILD_LIMIT_S if builds else _PROCESS_START_LIMIT_S


def _unavailable(error: Exception) -> BrokerUnavailableError:
    # The text of the error may contain the broker's address with its password.
    return BrokerUnavailableError(f"The broker did not answer ({type(error).__name__}).")
