"""Provide a package's plan for this machine: find it in the store, or build it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hilum.engines import Signature
from hilum.engines.tensorrt.build import Report, build
from hilum.engines.tensorrt.record import (
    BuildOptions,
    PlanKey,
    PlanRecord,
    graph_sha256,
    key_for,
    this_machine,
)
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineDamagedError
from hilum.packages.load import Package


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A plan in the store."""

    record: PlanRecord
    plan: bytes = field(repr=False)
    new: bool  # whether this call built it


def build_into(
    store: PlanStore,
    package: Package,
    options: BuildOptions,
    *,
    force: bool = False,
    refused: str | None = None,
    report: Report | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Provided:
    """Build the plan of ``package`` for this machine, unless the store has it.

    If several processes need the same plan at once, one builds it and the others wait.

    Args:
        force: build even if the plan exists, which stays in use until the new one is written.
        refused: sha256 of a plan that matches this machine but does not load. If the store has that
            plan, it is built again.
        report: called with the progress, on another thread.
        on_wait: called if another process is building the same plan.

    Raises:
        EngineStoreError: the plan cannot be written. For others see :func:`build`.
        PackageError: the graph is damaged.
    """
    machine, manifest = this_machine(), package.manifest
    variant = manifest.graph_for("tensorrt")
    key = key_for(graph_sha256(manifest), variant.precision, machine, options)
    with store.lock(key, on_wait=on_wait):
        existing = None if force else _find_intact(store, key)
        if existing is not None and existing.record.plan_sha256 != refused:
            return existing
        built = build(
            package.read(variant.graph),
            Signature.of(manifest),
            options,
            timing_cache=store.timings(machine),
            report=report,
        )
        record = PlanRecord(
            key=key,
            model=f"{manifest.name} {manifest.version}",
            package=package.digest,
            plan_sha256=hashlib.sha256(built.plan).hexdigest(),
            plan_bytes=len(built.plan),
            built_at=datetime.now(UTC),
            build_seconds=round(built.seconds, 1),
        )
        store.save(record, built.plan)
        store.save_timings(machine, built.timing_cache)
    return Provided(record=record, plan=built.plan, new=True)


def _find_intact(store: PlanStore, key: PlanKey) -> Provided | None:
    """Return the stored plan, or ``None`` if there is none or it is damaged."""
    record = store.get(key)
    if record is None:
        return None
    try:
        return Provided(record=record, plan=store.read(record), new=False)
    except EngineDamagedError:
        return None
