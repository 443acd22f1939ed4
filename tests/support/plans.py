"""Plans of a TensorRT that is not there, and packages with their golden outputs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from support import fake_tensorrt, tiny_package

from hilum.engines.tensorrt.record import (
    BuildOptions,
    PlanRecord,
    key_for,
    profile_of,
    this_machine,
)
from hilum.engines.tensorrt.store import PlanStore
from hilum.packages.load import Package
from hilum.packages.manifest import GOLDEN

SIDE = 32


def golden_of_the_fake(folder: Path) -> Package:
    manifest = tiny_package.build(folder, size=SIDE)
    image = np.random.default_rng(1).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8)
    labels = len(manifest.label_set.labels)
    probability, cam = fake_tensorrt.expected(image, labels, manifest.cam_grid)
    np.savez(folder / GOLDEN, image=image, probability=probability, cam=cam)
    return tiny_package.resealed(folder)


def plan_for(package: Package, **more: Any) -> bytes:
    """A plan as the fake builder would give it for ``package``."""
    manifest = package.manifest
    return fake_tensorrt.make_plan(
        size=manifest.input.size,
        labels=len(manifest.label_set.labels),
        grid=manifest.cam_grid,
        max_batch=manifest.input.max_batch,
        **more,
    )


def record_of(package: Package, plan: bytes, options: BuildOptions) -> PlanRecord:
    """What is written beside ``plan``, of ``package``'s graph for TensorRT."""
    manifest = package.manifest
    variant = manifest.graph_for("tensorrt")
    return PlanRecord(
        key=key_for(manifest.files[variant.graph], variant.precision, this_machine(), options),
        model="tiny 1.0.0",
        package=package.digest,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        built_at=datetime.now(UTC),
        build_seconds=1.0,
    )


def put_plan(package: Package, folder: Path, plan: bytes | None = None) -> PlanRecord:
    plan = plan or plan_for(package)
    options = BuildOptions(profile=profile_of(package.manifest, batch_size=8))
    record = record_of(package, plan, options)
    folder.mkdir(exist_ok=True)
    PlanStore(folder).save(record, plan)
    return record
