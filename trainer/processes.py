"""One run in several processes, on one machine or many, which torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from hilum.errors import ConfigurationError

# Long: while one machine still prepares its films, the others wait in their first exchange.
# torchrun notices at once if a process has died.
_PATIENCE: Final = timedelta(hours=6)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among the processes that share a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def share(self, values: Iterable[Tensor]) -> None:
        """Replace ``values`` by those of the first process, in place."""
        if self.count > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


def shows_results() -> bool:
    """Whether this process is the one that shows results, before or after :func:`join`."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return True
    return os.environ["RANK"] == "0"  # set by torchrun; torch tells it only within `join`


@contextmanager
def join(device: str) -> Iterator[Processes]:
    """Join the other processes of the run, if torchrun started this one; yields this process.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigurationError: ``device`` is ``cuda`` and there is no GPU for this process.
    """
    shared = dist.is_available() and dist.is_torchelastic_launched()
    place = dist.get_node_local_rank(0) if shared else 0
    found = _device(device, place)
    if not shared:
        yield Processes(rank=0, count=1, device=found)
        return
    if found.type == "cuda":
        torch.cuda.set_device(found)
    backend = "cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=found)
    finally:
        dist.destroy_process_group()


def scoring_device(wanted: str) -> torch.device:
    """The device on which a trained model scores films: the first GPU, or the CPU if there is no
    GPU or ``wanted``, the value of ``compute.device``, is ``cpu``. A checkpoint from a GPU can
    therefore be measured on a machine without one."""
    return _device("cpu" if wanted == "cpu" else "auto", 0)


def _device(wanted: str, place: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return torch.device("cpu")
    if place >= count:
        raise ConfigurationError(
            f"compute.device asks for GPU {place}; this machine has {count}.",
            next_step='Start no more processes than GPUs, or set compute.device = "cpu".',
        )
    return torch.device("cuda", place)
