"""The model, its running average, and the steps that change them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hilum.packages.labels import LabelSchema
from trainer import objective, randomness
from trainer.backbones import Classifier
from trainer.config import TrainConfig
from trainer.data import SplitFilms
from trainer.errors import CheckpointError, TrainingDivergedError
from trainer.feed import Batch, Feed
from trainer.objective import Objective, grid
from trainer.processes import Processes

_SMALLEST_SCALE = 2.0**-10  # of fp16's loss: halving it further gains nothing


class Learner:
    """Trains a model, step by step, in one process or in one of several."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: Classifier,
        split: SplitFilms,
        schema: LabelSchema,
        alpha: Tensor | None,
        processes: Processes,
    ) -> None:
        layout = torch.channels_last if config.compute.channels_last else torch.contiguous_format
        self.objective = Objective(model, config.loss, schema.kind, alpha)
        self.objective.to(device=processes.device, memory_format=layout)  # type: ignore[call-overload]
        # The running average of the weights: it is validated and kept.
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        if processes.count > 1 and processes.device.type == "cuda":
            convert = nn.SyncBatchNorm.convert_sync_batchnorm
            self.objective = convert(self.objective)  # type: ignore[no-untyped-call]
        self.feed = Feed(split, schema, config, processes)
        self._config = config
        self._processes = processes
        self._scaler = torch.amp.GradScaler(
            processes.device.type, enabled=config.compute.precision == "fp16"
        )
        own, kept = self.objective.model.state_dict(), self.averaged.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        self._averages = [kept[name] for name in floating], [own[name] for name in floating]
        self._counters = [(kept[name], own[name]) for name in own if name not in floating]

    def enter(self, number: int) -> None:
        """Start stage ``number`` with its size, its trained layers and a new optimiser."""
        self._stage = self._config.stages[number]
        weight_decay = self._config.optimiser.weight_decay
        groups = objective.groups(self.objective, self._stage, weight_decay)
        self._parameters = [p for group in groups for p in group["params"]]
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        self._grid = grid(self.objective.model, self._stage.size)
        self._module: nn.Module = self.objective
        if self._processes.count > 1:
            place = self._processes.device
            self._module = DistributedDataParallel(
                self.objective, device_ids=[place] if place.type == "cuda" else None
            )

    def epoch(self, epoch: int, stage_epoch: int, start: int) -> Iterator[tuple[Batch, float]]:
        """Train on every film once, from batch ``start`` on. Yields each batch after its step, with
        its loss.

        Args:
            epoch: counted from 0 over all stages.
            stage_epoch: counted from 0 within the stage.
            start: number of the first batch, from 0.

        Raises:
            TrainingDivergedError: loss or gradient is not finite; the step is not done.
        """
        objective.set_modes(self.objective, self._stage)
        steps = self._stage.epochs * self.feed.steps
        batches = self.feed.batches(epoch, self._stage.size, self._grid, start)
        for number, batch in enumerate(batches, start):
            step = stage_epoch * self.feed.steps + number
            factor = objective.schedule(step, steps, self._config.optimiser)
            objective.set_rates(self._optimiser, factor)
            rank = self._processes.rank
            torch.manual_seed(randomness.seed(self._config.seed, "step", epoch, number, rank))
            yield batch, self._step(batch, number + 1)

    def share_statistics(self) -> None:
        """Give every process the averaged batch statistics of the first process, which are kept.
        Without synchronised layers each process has seen only its own share of the films."""
        self._processes.share(
            value for value in self.averaged.buffers() if value.is_floating_point()
        )

    @property
    def rate(self) -> float:
        """The present learning rate of the head."""
        return float(self._optimiser.param_groups[0]["lr"])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that :meth:`restore` needs, beside :attr:`scale`."""
        found = {f"own.{name}": value for name, value in self.objective.state_dict().items()}
        found |= {f"kept.{name}": value for name, value in self.averaged.state_dict().items()}
        for n, state in self._optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{n}.{key}": value for key, value in state.items()}
        return found

    @property
    def scale(self) -> dict[str, Any]:
        """State of fp16's loss scaling; empty for another precision."""
        return dict(self._scaler.state_dict())

    def restore(self, tensors: dict[str, Tensor], scale: dict[str, Any]) -> None:
        """Go back to the state of ``tensors`` and ``scale``. Call :meth:`enter` first.

        Raises:
            CheckpointError: the tensors are not those of this learner.
        """
        optimiser: dict[int, dict[str, Tensor]] = {}
        own: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, key = rest.partition(".")
                optimiser.setdefault(int(number), {})[key] = value
            else:
                (own if kind == "own" else kept)[rest] = value
        try:
            self.objective.load_state_dict(own)
            self.averaged.load_state_dict(kept)
            for index, state in optimiser.items():
                parameter = self._parameters[index]
                # With the memory layout of the parameter: another order of summation would round
                # differently, and the run would not go on bit for bit.
                self._optimiser.state[parameter] = {
                    key: torch.empty_like(parameter).copy_(value)
                    if value.shape == parameter.shape
                    else value.to(parameter.device)
                    for key, value in state.items()
                }
        except (RuntimeError, IndexError):
            raise CheckpointError("The state of the run does not fit this model.") from None
        if scale:
            self._scaler.load_state_dict(scale)

    def _step(self, batch: Batch, number: int) -> float:
        self._optimiser.zero_grad()
        known = self.objective.loss.known(batch.targets).to(self._processes.device)
        cells = [part.cells for part in batch.parts if part.cells is not None]
        known_cells = sum(((c >= 0).sum() for c in cells), torch.zeros((), device=known.device))
        if cells:
            self._processes.sum(known_cells)
        loss = torch.zeros((), device=known.device)
        for n, part in enumerate(batch.parts):
            exchange: AbstractContextManager[None] = nullcontext()
            if isinstance(self._module, DistributedDataParallel) and n + 1 < len(batch.parts):
                exchange = self._module.no_sync()  # gradients are exchanged with the last part
            with exchange:
                with self._autocast():
                    share: Tensor = self._module(
                        part.images, part.targets, known, part.cells, known_cells
                    )
                loss += share.detach()
                # DDP takes the mean of the gradients; the loss is the sum of the shares.
                self._scaler.scale(share * self._processes.count).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.optimiser.clip_norm)
        value, length = torch.stack((self._processes.sum(loss), norm.detach())).tolist()
        self._check(value, length, number)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        with torch.no_grad():
            torch._foreach_lerp_(*self._averages, 1 - self._config.optimiser.ema_decay)
            for kept, own in self._counters:
                kept.copy_(own)
        return float(value)

    def _check(self, loss: float, norm: float, number: int) -> None:
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"The loss is {loss} in batch {number}.")
        if self._scaler.is_enabled():
            # Scaling expects overflows: the scaler then skips the step and halves the scale.
            if self._scaler.get_scale() < _SMALLEST_SCALE:
                raise TrainingDivergedError(f"The gradient overflows fp16 in batch {number}.")
        elif not math.isfinite(norm):
            raise TrainingDivergedError(f"The gradient's norm is {norm} in batch {number}.")

    def _autocast(self) -> torch.autocast:
        precision = self._config.compute.precision
        kind = torch.float16 if precision == "fp16" else torch.bfloat16
        return torch.autocast(
            self._processes.device.type, dtype=kind, enabled=precision != "float32"
        )
