"""Curves of a run: TensorBoard event files, and MLflow where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from hilum.errors import MissingExtraError, StorageUnavailableError
from trainer.config import TrainConfig

TENSORBOARD = "tensorboard"


class Tracker(Protocol):
    """Somewhere figures go."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """``figures`` as of ``step``, counted in batches over the whole run."""
        ...


class Trackers:
    """All that a configuration asks for."""

    def __init__(self, trackers: list[Tracker], state: dict[str, str]) -> None:
        self._trackers = trackers
        self.state = state  # what a resumed run needs to go on in the same place

    def log(self, figures: Mapping[str, float | None], step: int) -> None:
        """``figures`` as of ``step``; one that is not defined is left out."""
        defined = {name: value for name, value in figures.items() if value is not None}
        for tracker in self._trackers:
            tracker.log(defined, step)


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


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- slow to import

    # What was written after the state that this run goes on from would be shown twice.
    with SummaryWriter(str(folder), purge_step=step + 1) as writer:
        yield _TensorBoard(writer)


class _MLflow:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

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
    settings = config.tracking
    try:
        client = MlflowClient(tracking_uri=settings.mlflow)
        if run_id is None:
            experiment = client.get_experiment_by_name(settings.mlflow_experiment)
            place = (
                experiment.experiment_id
                if experiment is not None
                else client.create_experiment(settings.mlflow_experiment)
            )
            run_id = client.create_run(place).info.run_id
            for name, value in _parameters(config).items():
                client.log_param(run_id, name, value)
        else:
            client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        raise StorageUnavailableError(
            f"MLflow does not take this run ({type(error).__name__}).",
            next_step="Check tracking.mlflow and its server, or leave it out.",
        ) from None
    status = "FAILED"
    try:
        yield _MLflow(client, run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


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
