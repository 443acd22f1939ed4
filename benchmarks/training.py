"""Compares images per second of hilum's training loop and of torchvision's reference loop.

``train_vs_reference``: same model, batch size and films, on this machine's cores or, with
``--device cuda``, its GPU. The peer is
written as torchvision's reference script for classification trains: a DataLoader with worker
processes, its augmentation, SGD with momentum, the loss read in every step. Two cases:

- *films*: PNG of 1024×1024, as ChestX-ray14 has them. The peer decodes them in every epoch; hilum
  has prepared them once (``cached_epoch`` says what that costs and saves).
- *tensors*: the peer reads hilum's prepared images, so that only the loops differ.

hilum does more in a step: it averages the weights, clips the gradient, checks that it is finite.
Also printed: ``cached_epoch`` and ``loader_memory`` of :mod:`benchmarks.loading`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import loading
from benchmarks.report import Line, interleaved, machine
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from hilum.settings import Settings
from trainer import balance, config, data, manifest
from trainer.backbones import BACKBONES, build
from trainer.config import ComputeConfig, Precision, TrainConfig
from trainer.data import SplitFilms
from trainer.learner import Learner
from trainer.manifest import Record, Split
from trainer.processes import Processes

_SIDE: Final = 1024
_TARGET: Final = 1.0
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_OUTPUTS: Final = len(SYNTHETIC.labels)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer films, no data claims")
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not options.json:
        print(machine(), f"torch {torch.__version__}")
        if options.device == "cuda":
            print(torch.cuda.get_device_name())
    lines = measure(
        options.backbones,
        quick=options.quick,
        batch=options.batch,
        compute=ComputeConfig(device=options.device, precision=options.precision),
    )
    for line in lines:
        print(line.json() if options.json else line.text(), flush=True)
    if not options.quick:
        for line in loading.measure():
            print(line.json() if options.json else line.text(), flush=True)


def measure(names: list[str], *, quick: bool, batch: int, compute: ComputeConfig) -> Iterator[Line]:
    """Measure ``train_vs_reference`` of each backbone in both cases."""
    count, repeats = (2 * batch, 1) if quick else (6 * batch, 3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = _films(folder / "films", count)
        for name in names:
            asked = _config(path, name, batch, compute)
            split = data.load(
                path, SYNTHETIC, asked.preprocess, cache_dir=Settings(cache_dir=folder).cache_dir
            )["train"]
            ours = _hilum(asked, split)
            size = asked.preprocess.size
            peers: dict[str, Dataset[tuple[Tensor, Tensor]]] = {
                "films": _Pictures(path, size),
                "tensors": _Tensors(split),
            }
            for case, pictures in peers.items():
                theirs = _Reference(name, pictures, batch, compute)
                seconds = interleaved([ours, theirs.epoch], repeats=repeats)
                theirs.close()
                value, peer = (len(split) / taken for taken in seconds)
                yield Line(
                    claim="train_vs_reference",
                    case=f"{name} {size}, {case}, {compute.device} {compute.precision}",
                    value=value,
                    peer="torchvision reference",
                    peer_value=peer,
                    ratio=value / peer,
                    target=_TARGET,
                    unit="images/s",
                )


def _config(path: Path, name: str, batch: int, compute: ComputeConfig) -> TrainConfig:
    size = BACKBONES[name].native_size
    values: dict[str, Any] = {
        "manifest": path,
        "model": {"backbone": name, "weights": "random", "label_schema": SYNTHETIC.id},
        "preprocess": PreprocessSpec(size=size),
        "optimiser": {"batch_size": batch},
        "compute": compute,
        "stages": [{"epochs": 1000, "size": size}],
    }
    return config.parse(values, "benchmark")


def _hilum(asked: TrainConfig, split: SplitFilms) -> Callable[[], None]:
    """Run an epoch of hilum's loop."""
    processes = Processes(rank=0, count=1, device=torch.device(asked.compute.device))
    counts = balance.count(split.targets, SYNTHETIC)
    learner = Learner(
        asked,
        model=build(asked.model.backbone, _OUTPUTS),
        split=split,
        schema=SYNTHETIC,
        alpha=balance.alpha(asked.loss, counts, SYNTHETIC),
        processes=processes,
    )
    learner.enter(0)
    epoch = 0

    def run() -> None:
        nonlocal epoch
        for _ in learner.epoch(epoch, epoch, 0):
            pass
        epoch += 1

    return run


class _Reference:
    """torchvision's loop: loader, model, cross-entropy, SGD."""

    def __init__(
        self,
        name: str,
        pictures: Dataset[tuple[Tensor, Tensor]],
        batch: int,
        compute: ComputeConfig,
    ) -> None:
        workers = len(os.sched_getaffinity(0))
        self._compute = compute
        self._loader = DataLoader(
            pictures,
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            persistent_workers=True,
            pin_memory=compute.device == "cuda",
        )
        # InceptionV3 without its second head has less work than hilum's.
        extra = {"aux_logits": False} if name == "inception_v3" else {}
        self._model = BACKBONES[name].build(weights=None, num_classes=_OUTPUTS, **extra)
        self._model.to(compute.device)
        self._criterion = nn.BCEWithLogitsLoss()
        self._optimiser = torch.optim.SGD(
            self._model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self._scaler = torch.amp.GradScaler(compute.device, enabled=compute.precision == "fp16")

    def epoch(self) -> None:
        """Train on every film once."""
        self._model.train()
        device, precision = self._compute.device, self._compute.precision
        kind = torch.float16 if precision == "fp16" else torch.bfloat16
        for pixels, wanted in self._loader:
            images = pixels.to(device, non_blocking=True)
            targets = wanted.to(device, non_blocking=True)
            with torch.autocast(device, kind, enabled=precision != "float32"):
                loss = self._criterion(self._model(images), targets)
            self._optimiser.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimiser)
            self._scaler.update()
            loss.item()

    def close(self) -> None:
        """Stop the workers."""
        del self._loader


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """PNG files with the reference's training transforms."""

    def __init__(self, path: Path, size: int) -> None:
        self._folder = path.parent
        self._records = [r for r in manifest.read(path, SYNTHETIC) if r.split == "train"]
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        record = self._records[index]
        with Image.open(self._folder / record.uri) as image:
            pixels: Tensor = self._transform(image.convert("RGB"))
        return pixels, torch.tensor(record.targets)


class _Tensors(Dataset[tuple[Tensor, Tensor]]):
    """hilum's prepared images with the same transforms on tensors."""

    def __init__(self, split: SplitFilms) -> None:
        self._split = split
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(split.images.shape[-1], antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.array(self._split.images[index])).expand(3, -1, -1)
        pixels: Tensor = self._transform(image)
        return pixels, torch.from_numpy(self._split.targets[index])


def _films(folder: Path, count: int) -> Path:
    """Write a data-set table of ``count`` training films, one validation and one test film."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    axis = np.linspace(0, 6, _SIDE)
    records = []
    for n in range(count + 2):
        smooth = np.sin(axis * rng.uniform(0.5, 2))[:, None] * np.cos(axis * rng.uniform(0.5, 2))
        pixels = 128 + 80 * smooth + rng.normal(0, 3, (_SIDE, _SIDE))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        split: Split = "train" if n < count else "val" if n == count else "test"
        targets = tuple(float(value) for value in rng.integers(0, 2, _OUTPUTS))
        records.append(Record(uri=f"{n}.png", patient=str(n), split=split, targets=targets))
    path = folder / "manifest.csv"
    manifest.write(path, records, SYNTHETIC)
    return path


if __name__ == "__main__":
    main()
