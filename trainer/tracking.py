"""Curves of a run: TensorBoard event files, and MLflow where it is asked for.

Curves have no say in the weights: where they cannot be opened the run does not start; where they
fail later it goes on without them, after one warning.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from hilum.errors import MissingExtraError, StorageUnavailableError
from trainer.config import TrainConfig
from trainer.errors import CheckpointWriteError
from trainer.outputs import writing

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Somewhere figures go."""

    name: str  # for people
    failures: tuple[type[Exception], ...]  # that :meth:`log` may end in
    failed: bool  # gets no more figures

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """``figures`` as of ``step``, counted in batches over the whole run."""
        ...


class Trackers:
    """All that a configuration asks for."""

    def __init__(self, trackers: list[Tracker], state: dict[str, str]) -> None:
        self._trackers = trackers
        self.state = state  # what a resumed run needs to go on in the same place

    def log(self, figures: Mapping[str, float | None], step: int) -> None:
        """``figures`` as of ``step``; one that is not defined is left out. A tracker that fails
        is warned of, once, and gets nothing more."""
        defined = {name: value for name, value in figures.items() if value is not None}
        for tracker in self._trackers:
            if tracker.failed:
                continue
            try:
                tracker.log(defined, step)
            except tracker.failures as error:
                _warn(tracker, error)


@contextmanager
def opened(
    config: TrainConfig, out: Path, *, step: int, state: Mapping[str, str], active: bool = True
) -> Iterator[Trackers]:
    """The trackers of a run in ``out`` that begins, or goes on, at ``step``.

    Args:
        state: :attr:`Trackers.state` of the run so far.
        active: false: nothing is written, as in all processes but the first.

    Raises:
        MissingExtraError: MLflow is asked for and not installed.
        StorageUnavailableError: MLflow does not take a new run.
        CheckpointWriteError: no event file can be made in ``out``.
    """
    found: list[Tracker] = []
    kept = dict(state)
    with ExitStack() as stack:
        if active and config.tracking.tensorboard:
            found.append(stack.enter_context(_tensorboard(out / TENSORBOARD, step)))
        if active and config.tracking.mlflow is not None:
            tracker = stack.enter_context(_mlflow(config, kept.get("mlflow_run")))
            kept["mlflow_run"] = tracker.run_id
            found.append(tracker)
        yield Trackers(found, kept)


def _warn(tracker: Tracker, error: Exception) -> None:
    tracker.failed = True
    reason = error.strerror if isinstance(error, OSError) else None
    log.warning(
        "%s takes no more figures (%s); the run goes on without it",
        tracker.name,
        reason or type(error).__name__,
    )


class _TensorBoard:
    """An event file, a record a write. Not torch's SummaryWriter: that one writes from a thread of
    its own, which ends in a traceback when the disk is full, and raises again when it is closed."""

    name = "TensorBoard's event file"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, file: io.FileIO, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415 -- slow

        self.failed = False
        self._file = file
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._write(file_version="brain.Event:2")
        # What was written after the state that this run goes on from would be shown twice.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            scalar = self._summary.Value(tag=name, simple_value=value)
            self._write(step=step, summary=self._summary(value=[scalar]))

    def _write(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415

        record = io.BytesIO()
        event = self._event(wall_time=time.time(), **fields)
        RecordWriter(record).write(event.SerializeToString())
        data = record.getvalue()
        while data:
            data = data[self._file.write(data) :]


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Tracker]:
    name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000:010d}"
    path = folder / f"{name}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
    with writing(folder, CheckpointWriteError):
        folder.mkdir(parents=True, exist_ok=True)
        file = io.FileIO(path, "xb")
    with file:
        with writing(folder, CheckpointWriteError):
            tracker = _TensorBoard(file, step)
        yield tracker


class _MLflow:
    name = "MLflow"

    def __init__(self, client: Any, run_id: str, failures: tuple[type[Exception], ...]) -> None:
        self.failures = failures
        self.failed = False
        self.run_id = run_id
        self._client = client

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self.run_id, name, value, step=step)


@contextmanager
def _mlflow(config: TrainConfig, run_id: str | None) -> Iterator[_MLflow]:
    try:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
        from mlflow.tracking import MlflowClient  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingExtraError(
            "tracking.mlflow is set and MLflow is not installed: install the package mlflow."
        ) from None
    failures: tuple[type[Exception], ...] = (MlflowException, OSError)  # requests' are OSErrors
    settings = config.tracking
    try:
        client = MlflowClient(tracking_uri=settings.mlflow)
        if run_id is None:
            tracker = _MLflow(client, _new_run(client, config), failures)
        else:
            tracker = _MLflow(client, run_id, failures)
    except failures as error:
        raise StorageUnavailableError(
            f"MLflow does not take this run ({type(error).__name__}).",
            next_step="Check tracking.mlflow and its server, or leave it out.",
        ) from None
    if run_id is not None:
        _try(tracker, lambda: client.update_run(run_id, status="RUNNING"))
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        # Never in place of the error that ended the run.
        _try(tracker, lambda: client.set_terminated(tracker.run_id, status))


def _new_run(client: Any, config: TrainConfig) -> str:
    name = config.tracking.mlflow_experiment
    experiment = client.get_experiment_by_name(name)
    place = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run_id: str = client.create_run(place).info.run_id
    for key, value in _parameters(config).items():
        client.log_param(run_id, key, value)
    return run_id


def _try(tracker: _MLflow, call: Callable[[], object]) -> None:
    """``call``; if it fails, a warning, unless there was one."""
    try:
        call()
    except tracker.failures as error:
        if not tracker.failed:
            _warn(tracker, error)


def _parameters(config: TrainConfig) -> dict[str, Any]:
    """The configuration, flat; without where things lie on this machine."""
    values = config.model_dump(mode="json", exclude={"tracking", "manifest"})
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            found[name] = value
    return found
