"""The curves of a run: TensorBoard event files, and MLflow if the configuration asks for it.

Curves have no influence on the weights. If they cannot be opened the run does not start; if they
fail later the run goes on without them, after one warning.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum.errors import MissingExtraError, StorageUnavailableError
from trainer.config import TrainConfig
from trainer.errors import CheckpointWriteError, writing

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
Log = Callable[[Mapping[str, float], int], None]


@dataclass(kw_only=True)
class Tracker:
    """A place where figures are written."""

    name: str  # for people
    log: Log
    failures: tuple[type[Exception], ...]  # what its calls may raise
    failed: bool = False  # it gets no more figures

    def attempt(self, call: Callable[[], object]) -> None:
        """Do ``call``. If it fails, warn of it, once for each tracker."""
        try:
            call()
        except self.failures as error:
            if not self.failed:
                reason = error.strerror if isinstance(error, OSError) else None
                log.warning(
                    "%s takes no more figures (%s); the run goes on without it",
                    self.name,
                    reason or type(error).__name__,
                )
            self.failed = True


@dataclass(frozen=True, kw_only=True)
class Trackers:
    """All trackers of a run."""

    trackers: Sequence[Tracker]
    state: dict[str, str]  # what a resumed run needs to go on in the same place

    def log(self, figures: Mapping[str, float | None], step: int) -> None:
        """Write ``figures`` at ``step``, counted in batches over the whole run. A figure that is
        not defined is left out. A tracker that fails is warned of once and then left out."""
        defined = {name: value for name, value in figures.items() if value is not None}
        for tracker in self.trackers:
            if not tracker.failed:
                tracker.attempt(lambda log=tracker.log: log(defined, step))  # type: ignore[misc]


@contextmanager
def open_trackers(
    config: TrainConfig, out: Path, *, step: int, state: Mapping[str, str], active: bool = True
) -> Iterator[Trackers]:
    """Open the trackers of a run in ``out`` that begins, or goes on, at ``step``.

    Args:
        state: :attr:`Trackers.state` of the run so far.
        active: false: nothing is written, as in all processes but the first.

    Raises:
        MissingExtraError: MLflow is asked for and is not installed.
        StorageUnavailableError: MLflow does not accept a new run.
        CheckpointWriteError: no event file can be created in ``out``.
    """
    found: list[Tracker] = []
    kept = dict(state)
    with ExitStack() as stack:
        if active and config.tracking.tensorboard:
            found.append(stack.enter_context(_tensorboard(out / TENSORBOARD, step)))
        if active and config.tracking.mlflow is not None:
            mlflow = _mlflow(config, kept.get("mlflow_run"))
            tracker, kept["mlflow_run"] = stack.enter_context(mlflow)
            found.append(tracker)
        yield Trackers(trackers=found, state=kept)


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Tracker]:
    """torch's SummaryWriter, which writes from a thread of its own."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- slow

    with _silence_writer_thread():
        with writing(folder, CheckpointWriteError):
            # Figures after the state that this run goes on from would be shown twice.
            writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

        def log_scalars(figures: Mapping[str, float], step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            writer.flush()  # a run that is killed has all its curves; failures are raised here

        tracker = Tracker(name="TensorBoard's event file", log=log_scalars, failures=(OSError,))
        try:
            yield tracker
        finally:
            # SummaryWriter.close() would leave its thread running on a full disk.
            tracker.attempt(writer.file_writer.event_writer.close)


@contextmanager
def _silence_writer_thread() -> Iterator[None]:
    """Print no traceback of TensorBoard's thread: its next call raises the same error again."""
    show = threading.excepthook

    def is_writer(thread: threading.Thread | None) -> bool:
        return type(thread).__module__.startswith("tensorboard.")

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not is_writer(arguments.thread):
            show(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        for thread in filter(is_writer, threading.enumerate()):
            thread.join(1.0)  # it may be about to call the hook
        threading.excepthook = show


@contextmanager
def _mlflow(config: TrainConfig, run_id: str | None) -> Iterator[tuple[Tracker, str]]:
    """The tracker and the id of its run, which is new if ``run_id`` is ``None``."""
    try:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
        from mlflow.tracking import MlflowClient  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingExtraError(
            "tracking.mlflow is set and MLflow is not installed: install the package mlflow."
        ) from None
    failures: tuple[type[Exception], ...] = (MlflowException, OSError)  # requests' are OSErrors
    try:
        client = MlflowClient(tracking_uri=config.tracking.mlflow)
        place = _start_run(client, config) if run_id is None else run_id
    except failures as error:
        raise StorageUnavailableError(
            f"MLflow does not accept this run ({type(error).__name__}).",
            next_step="Check tracking.mlflow and its server, or remove the key.",
        ) from None

    def log_metrics(figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            client.log_metric(place, name, value, step=step)

    tracker = Tracker(name="MLflow", log=log_metrics, failures=failures)
    if run_id is not None:
        tracker.attempt(lambda: client.update_run(run_id, status="RUNNING"))
    status = "FAILED"
    try:
        yield tracker, place
        status = "FINISHED"
    finally:
        # A failure here must not replace the error that ended the run.
        tracker.attempt(lambda: client.set_terminated(place, status))


def _start_run(client: Any, config: TrainConfig) -> str:
    name = config.tracking.mlflow_experiment
    experiment = client.get_experiment_by_name(name)
    place = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run_id: str = client.create_run(place).info.run_id
    # Without the paths of this machine.
    values = config.model_dump(mode="json", exclude={"tracking", "manifest"})
    for name, value in values.items():
        if isinstance(value, dict):
            for key, item in value.items():
                client.log_param(run_id, f"{name}.{key}", item)
        else:
            client.log_param(run_id, name, value)
    return run_id
