"""Curves of a run: TensorBoard event files, and MLflow where it is asked for.

Curves have no say in the weights: where they cannot be opened the run does not start; where they
fail later it goes on without them, after one warning.
"""

from __future__ import annotations

import logging
import threading
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
    """torch's SummaryWriter, which writes from a thread of its own."""

    name = "TensorBoard's event file"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- slow

        self.failed = False
        # What was written after the state that this run goes on from would be shown twice.
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed has all its curves; failures come up here

    def close(self) -> None:
        # SummaryWriter.close() would leave its thread running on a full disk.
        self._writer.file_writer.event_writer.close()


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Tracker]:
    with _quiet_writer_thread():
        with writing(folder, CheckpointWriteError):
            tracker = _TensorBoard(folder, step)
        try:
            yield tracker
        finally:
            _try(tracker, tracker.close)


@contextmanager
def _quiet_writer_thread() -> Iterator[None]:
    """No traceback of TensorBoard's thread: what ends it is raised again by the next call."""
    show = threading.excepthook

    def ours(thread: threading.Thread | None) -> bool:
        return type(thread).__module__.startswith("tensorboard.")

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not ours(arguments.thread):
            show(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        for thread in filter(ours, threading.enumerate()):
            thread.join(1.0)  # it may be about to call the hook
        threading.excepthook = show


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


def _try(tracker: Tracker, call: Callable[[], object]) -> None:
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
