"""Plans of a TensorRT that is not there, and packages with their golden outputs."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from support import fake_tensorrt, tiny_package

from hilum.engines.tensorrt.options import BuildOptions, profile_of
from hilum.engines.tensorrt.record import PlanRecord, key_for, this_machine
from hilum.engines.tensorrt.store import PlanStore
from hilum.package import GOLDEN
from hilum.package_io import Package

SIDE = 32


def golden_of_the_fake(folder: Path) -> Package:
    manifest = tiny_package.build(folder, size=SIDE)
    image = np.random.default_rng(1).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8)
    labels = len(manifest.label_set.labels)
    probability, cam = fake_tensorrt.expected(image, labels, manifest.cam_grid)
    np.savez(folder / GOLDEN, image=image, probability=probability, cam=cam)
    return tiny_package.resealed(folder)


def put_plan(package: Package, folder: Path, plan: bytes | None = None) -> PlanRecord:
    manifest = package.manifest
    plan = plan or fake_tensorrt.make_plan(
        size=SIDE,
        labels=len(manifest.label_set.labels),
        grid=manifest.cam_grid,
        max_batch=manifest.input.max_batch,
    )
    options = BuildOptions(profile=profile_of(manifest, batch_size=8))
    variant = manifest.graph_for("tensorrt")
    record = PlanRecord(
        key=key_for(manifest.files[variant.graph], variant.precision, this_machine(), options),
        architecture_sha256="0" * 64,
        model="tiny 1.0.0",
        package=package.digest,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        built_at=datetime.now(UTC),
        build_seconds=1.0,
    )
    folder.mkdir(exist_ok=True)
    PlanStore(folder).save(record, plan)
    return record
