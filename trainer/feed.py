"""Batches of films, augmented and moved to the device one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hilum.errors import ConfigurationError
from hilum.packages.labels import LabelSchema
from trainer import localisation, randomness
from trainer.augment import augment, shrink
from trainer.config import TrainConfig
from trainer.data import SplitFilms
from trainer.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Part:
    """Films that go through the model at once."""

    images: Tensor  # uint8 [n, 1, S, S]
    targets: Tensor  # float32 [n, K], NaN = unknown
    cells: Tensor | None  # float32 [n, K, h, w], 1 in a box, 0 outside, -1 unknown


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The films of one step of the optimiser, in the parts that this process computes."""

    parts: tuple[Part, ...]
    rows: npt.NDArray[np.intp]  # of the whole batch, over all processes
    targets: Tensor  # float32 [N, K] of the whole batch


class Feed:
    """The training split, batch by batch.

    The number of parts of a batch is the number of processes times ``optimiser.accumulate``. The
    films of a batch and their augmentation depend on seed and epoch only, so the batch is the same
    for every number of parts.
    """

    def __init__(
        self, split: SplitFilms, schema: LabelSchema, config: TrainConfig, processes: Processes
    ) -> None:
        """Raises:
        ConfigurationError: no batch has two films for each part.
        """
        self._split = split
        self._schema = schema
        self._config = config
        self._processes = processes
        self._cuts = processes.count * config.optimiser.accumulate
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
        size = config.optimiser.batch_size
        if size < 2 * self._cuts:
            raise ConfigurationError(
                f"optimiser.batch_size {size} is less than two films for each of {self._cuts} "
                f"parts ({processes.count} processes, optimiser.accumulate "
                f"{config.optimiser.accumulate}).",
                next_step="Raise optimiser.batch_size, lower optimiser.accumulate, or start fewer "
                "processes.",
            )
        if not self.steps:
            raise ConfigurationError(
                f"The training split has {len(split)} films: too few for one step, which "
                f"needs two for each of {self._cuts} parts.",
                next_step="Add films, lower optimiser.accumulate, or start fewer processes.",
            )

    @property
    def steps(self) -> int:
        """Batches in an epoch. A last batch with less than two films for each part is left out,
        because batch normalisation needs two."""
        size = self._config.optimiser.batch_size
        whole, rest = divmod(len(self._split), size)
        return whole + (rest >= 2 * self._cuts)

    def batches(self, epoch: int, size: int, grid: tuple[int, int], start: int) -> Iterator[Batch]:
        """The batches of ``epoch`` from number ``start`` on. The next batch is made meanwhile.

        Args:
            epoch: counted from 0 over all stages.
            size: side of the model inputs, pixels.
            grid: height and width of the Grad-CAM layer at that size.
            start: number of the first batch, from 0.
        """
        seed = randomness.seed(self._config.seed, "order", epoch)
        order = np.random.default_rng(seed).permutation(len(self._split))
        length, count = self._config.optimiser.batch_size, self._config.optimiser.accumulate

        def make(number: int) -> Batch:
            rows = order[number * length : (number + 1) * length]
            mine = np.array_split(rows, self._cuts)[self._processes.rank * count :][:count]
            parts = tuple(self._part(np.sort(chosen), epoch, size, grid) for chosen in mine)
            targets = torch.from_numpy(self._split.targets[rows])
            return Batch(parts=parts, rows=rows, targets=targets)

        ahead: Future[Batch] | None = None
        for number in range(start, self.steps):
            batch = make(number) if ahead is None else ahead.result()
            if number + 1 < self.steps:
                ahead = self._pool.submit(make, number + 1)
            yield batch

    def close(self) -> None:
        """Wait for the batch that is being made, and end the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _part(
        self, rows: npt.NDArray[np.intp], epoch: int, size: int, grid: tuple[int, int]
    ) -> Part:
        device = self._processes.device
        images = torch.from_numpy(np.ascontiguousarray(self._split.images[rows])).to(device)
        targets = torch.from_numpy(self._split.targets[rows]).to(device)
        masks = None
        if self._config.loss.box_weight:
            boxes = localisation.masks(self._split, self._schema, rows)
            masks = torch.from_numpy(boxes).float().to(device)
        seeds = [randomness.seed(self._config.seed, "augment", epoch, int(row)) for row in rows]
        images, masks = augment(images, masks, self._config.augmentation, seeds)
        cells = None if masks is None else localisation.pool_masks(masks, grid)
        return Part(images=shrink(images, size), targets=targets, cells=cells)
