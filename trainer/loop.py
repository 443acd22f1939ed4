"""The training loop, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hilum.packages import labels
from hilum.packages.labels import HeadKind
from hilum.settings import Settings
from trainer import (
    balance,
    checkpoint,
    data,
    manifest,
    metrics,
    tracking,
    weights,
)
from trainer.backbones import build, set_prior_bias
from trainer.checkpoint import RunState
from trainer.config import Stage, TrainConfig
from trainer.data import SplitFilms
from trainer.errors import CheckpointError, CheckpointWriteError, writing
from trainer.learner import Learner
from trainer.processes import Processes, join
from trainer.randomness import make_reproducible
from trainer.tracking import Trackers

BEST = "best"
LAST = "last"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The progress of a run, after a batch or at the end of an epoch."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation_auroc: float | None  # of the last finished epoch
    ends_epoch: bool = False  # the epoch is finished: its last batch again, with its AUROC


Report = Callable[[Step], None]


def train(
    config: TrainConfig,
    out: Path,
    *,
    settings: Settings,
    report: Report | None = None,
    prepare_progress: data.Progress | None = None,
    resume: bool = False,
) -> Path:
    """Train and leave the best checkpoint, by validation macro AUROC, in ``out/best``.

    On one machine and one number of threads the same configuration gives the same weights, however
    often the run was killed and resumed. Under torchrun this is one of several processes that
    share the work.

    Args:
        out: folder of the run: ``best``, ``last``, ``state``, ``tensorboard``.
        settings: for the training cache and S3.
        report: called after every batch and every epoch, in the first process.
        resume: go on with the run in ``out``; if there is none, start.

    Raises:
        RunExistsError: ``out`` holds a run and ``resume`` is false.
        ConfigurationError: the run cannot take a step: too few films for the number of parts.
        DataError: the data set is not usable.
        WeightsMissingError, WeightsDigestError: the pretrained weights cannot be read, or are
            another file than the configuration names.
        TrainingDivergedError: the loss is not finite. The last good checkpoint is kept.
        CheckpointError: the run in ``out`` is damaged, or has another configuration or data-set
            table.
        CheckpointWriteError: ``out`` cannot be made or the disk is full. The last good checkpoint
            is kept.
        StorageUnavailableError: MLflow does not accept a new run.
    """
    schema = labels.schema(config.model.label_schema)
    exact = config.compute.deterministic
    with join(config.compute.device) as processes, make_reproducible(processes.device, exact=exact):
        state, tensors = checkpoint.find_state(out, config, resume=resume)
        # The first process on a machine prepares the films; the others wait.
        progress = prepare_progress if processes.first else None
        splits = data.load_configured(config, settings, progress)
        digest = manifest.digest(config.manifest)
        start = weights.load(config.model, settings) if state is None else None
        if state is None:
            state = RunState(
                config=config,
                manifest_digest=digest,
                start_digest=None if start is None else start.digest,
            )
        if state.manifest_digest != digest:
            raise CheckpointError(
                "The run in this folder began with another data-set table.",
                next_step="Restore the data-set table, or start in another folder.",
            )
        if state.finished:
            return out / BEST
        with writing(out, CheckpointWriteError):
            out.mkdir(parents=True, exist_ok=True)

        counts = balance.count(splits["train"].targets, schema)
        torch.manual_seed(config.seed)
        model = build(
            config.model.backbone,
            len(schema.labels),
            state=None if start is None else start.state,
            dropout=config.model.dropout,
        )
        if config.loss.prior_bias:
            set_prior_bias(model, counts.prevalence, schema.kind)
        learner = Learner(
            config,
            model=model,
            split=splits["train"],
            schema=schema,
            alpha=balance.alpha(config.loss, counts, schema),
            processes=processes,
        )
        learner.enter(state.stage)
        if tensors:
            learner.restore(tensors, state.scale)
        run = _Run(
            config=config,
            out=out,
            learner=learner,
            validation=splits["val"],
            kind=schema.kind,
            processes=processes,
            report=report,
            revision=checkpoint.code_revision(),
        )
        with (
            closing(learner.feed),
            tracking.open_trackers(
                config, out, step=state.step, state=state.tracking, active=processes.first
            ) as trackers,
        ):
            state = state.replace(tracking=trackers.state)
            while not state.finished:
                state = run.train_epoch(state, trackers)
        processes.wait()
    return out / BEST


@dataclass(kw_only=True)
class _Run:
    """A run between its epochs."""

    config: TrainConfig
    out: Path
    learner: Learner
    validation: SplitFilms
    kind: HeadKind
    processes: Processes
    report: Report | None
    revision: str
    saved: float = -math.inf  # when the state was saved, on the monotonic clock

    def train_epoch(self, state: RunState, trackers: Trackers) -> RunState:
        """Train one epoch, validate it, and keep what is better. Returns the new state."""
        learner, stage = self.learner, self.config.stages[state.stage]
        every = self.config.compute.checkpoint_steps
        batches = learner.epoch(state.epoch, state.stage_epoch, state.batch)
        for batch, loss in batches:
            state = state.after_batch(loss, len(batch.rows))
            self._show(state)
            trackers.log({"train/loss": loss, "train/learning_rate": learner.rate}, state.step)
            if every and state.batch % every == 0 and state.batch < learner.feed.steps:
                self._save(state)

        # Validate the running average of the weights, which is what is kept.
        score = self._validate(stage)
        trackers.log({"validation/macro_auroc": score, "train/epoch_loss": state.loss}, state.step)
        epoch = {
            "epoch": state.epoch + 1,
            "stage": state.stage + 1,
            "size": stage.size,
            "batches": state.batch,
            "loss": state.loss,
            "validation_auroc": score,
        }
        state = state.replace(history=(*state.history, epoch))
        self._show(state, ends_epoch=True)
        self._write(LAST, state, score)
        better = score is not None and (state.best is None or score > state.best)
        if better:
            state = state.replace(best=score, stale=0)
        elif score is not None:  # an undefined score says nothing
            state = state.replace(stale=state.stale + 1)
        # Only the last stage has the size, and trains the layers, that are shipped.
        if state.stage == len(self.config.stages) - 1 and (better or not state.kept):
            self._write(BEST, state, score)
            state = state.replace(kept=True)
        state = self._advance(state, stage)
        pause = time.monotonic() - self.saved
        if state.finished or pause >= self.config.compute.checkpoint_seconds:
            self._save(state)
        return state

    def _advance(self, state: RunState, stage: Stage) -> RunState:
        """Go on to the next epoch, the next stage, or the end."""
        patience = self.config.optimiser.patience
        state = state.replace(batch=0, loss_sum=0.0, images=0, stage_epoch=state.stage_epoch + 1)
        stop = patience is not None and state.stale >= patience
        if state.stage_epoch < stage.epochs and not stop:
            return state
        if state.stage + 1 == len(self.config.stages):
            return state.replace(finished=True)
        self.learner.enter(state.stage + 1)
        return state.replace(stage=state.stage + 1, stage_epoch=0, best=None, stale=0)

    def _validate(self, stage: Stage) -> float | None:
        """Macro AUROC of the averaged weights. Every process scores its share of the films."""
        self.learner.share_statistics()
        split, count = self.validation, self.processes.count
        bounds = np.linspace(0, len(split), count + 1).astype(int)
        start, stop = bounds[self.processes.rank], bounds[self.processes.rank + 1]
        mine = self.learner.averaged.predict(split.images[start:stop], stage.size, self.kind)
        probability = np.concatenate(self.processes.gather(mine.numpy()))
        columns = range(probability.shape[1])
        return metrics.mean_defined(
            [metrics.auroc(split.targets[:, k], probability[:, k]) for k in columns]
        )

    def _write(self, name: str, state: RunState, score: float | None) -> None:
        if not self.processes.first:
            return
        record = checkpoint.CheckpointRecord(
            config=self.config,
            manifest_digest=state.manifest_digest,
            start_digest=state.start_digest,
            code_revision=self.revision,
            epoch=state.epoch,
            validation_auroc=score,
            history=state.history,
        )
        checkpoint.save(self.out / name, self.learner.averaged.state_dict(), record)

    def _save(self, state: RunState) -> None:
        if self.processes.first:
            state = state.replace(scale=self.learner.scale)
            # No run goes on from the end, whose weights are in `last`.
            tensors = {} if state.finished else self.learner.tensors()
            checkpoint.save_state(self.out, state, tensors)
            self.saved = time.monotonic()

    def _show(self, state: RunState, *, ends_epoch: bool = False) -> None:
        if self.report is None or not self.processes.first:
            return
        last = state.history[-1]["validation_auroc"] if state.history else None
        self.report(
            Step(
                epoch=state.epoch if ends_epoch else state.epoch + 1,
                epochs=sum(stage.epochs for stage in self.config.stages),
                batch=state.batch,
                batches=self.learner.feed.steps,
                loss=state.loss,
                validation_auroc=last,
                ends_epoch=ends_epoch,
            )
        )
