"""A package's plan for this machine: the one in the store, a new one, or an old one refitted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hilum.engines.tensorrt.architecture import architecture_sha256
from hilum.engines.tensorrt.build import Built, Report, build
from hilum.engines.tensorrt.network import signature
from hilum.engines.tensorrt.options import BuildOptions
from hilum.engines.tensorrt.record import (
    Machine,
    PlanKey,
    PlanRecord,
    key_for,
    misfit,
    this_machine,
)
from hilum.engines.tensorrt.refit import refit
from hilum.engines.tensorrt.store import PlanStore
from hilum.errors import EngineDamagedError, RefitError
from hilum.packages.load import Package
from hilum.packages.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A plan in the store."""

    record: PlanRecord
    plan: bytes = field(repr=False)
    new: bool  # built or refitted by this call; False: it was there already


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
    """Build the plan of ``package`` for this machine, if it is not there.

    Of several processes that ask for the same plan at once, one builds and the others wait.

    Args:
        store: where plans are kept.
        package: verified.
        options: how to build.
        force: build also if it is there; the old one is in use until the new one is written.
        refused: sha256 of a plan that does not load here, though it looks right: if it is the one
            that is there, it is built again.
        report: told of the progress, from another thread.
        on_wait: called if another process is building the same plan.

    Raises:
        EngineUnavailableError, EngineBuildError, EngineStoreError: see there.
        PackageError: the graph is damaged.
    """
    machine = this_machine()
    key = _key(package.manifest, machine, options)
    with store.lock(key, on_wait=on_wait):
        there = None if force else _there(store, key)
        if there is not None and there.record.plan_sha256 != refused:
            return there
        graph = package.read(package.manifest.graph_for("tensorrt").graph)
        built = build(
            graph,
            signature(package.manifest),
            options,
            timing_cache=store.timings(machine),
            report=report,
        )
        record = _record(package, key, graph, built)
        store.save(record, built.plan)
        store.save_timings(machine, built.timing_cache)
    return Provided(record=record, plan=built.plan, new=True)


def refit_into(store: PlanStore, package: Package) -> Provided:
    """Make the plan of ``package`` from a refittable one of another version of the same model.

    Raises:
        RefitError: no plan in the store is refittable, runs here and has this architecture; or
            TensorRT cannot exchange the weights.
        EngineUnavailableError, EngineDamagedError, EngineIncompatibleError, EngineStoreError,
        PackageError: see there.
    """
    machine = this_machine()
    graph = package.read(package.manifest.graph_for("tensorrt").graph)
    architecture = architecture_sha256(graph)
    base, plan = store.first_intact(lambda: _refittable(store, architecture, machine))
    key = base.key.model_copy(update={"graph_sha256": graph_sha256(package.manifest)})
    with store.lock(key):
        there = _there(store, key)
        if there is not None:
            return there
        changed = refit(
            plan,
            graph,
            signature(package.manifest),
            host_code=base.key.version_compatible,
        )
        record = _record(package, key, graph, changed, refitted_from=base.key.id)
        store.save(record, changed.plan)
    return Provided(record=record, plan=changed.plan, new=True)


def _there(store: PlanStore, key: PlanKey) -> Provided | None:
    """The plan that is there, unless it is damaged."""
    record = store.get(key)
    if record is None:
        return None
    try:
        return Provided(record=record, plan=store.read(record), new=False)
    except EngineDamagedError:
        return None


def _refittable(store: PlanStore, architecture: str, machine: Machine) -> list[PlanRecord]:
    candidates = [r for r in store.records() if r.key.refittable]
    same = [r for r in candidates if r.architecture_sha256 == architecture]
    here = [r for r in same if misfit(r.key, machine) is None]
    if here:
        return here
    if same:
        raise RefitError("The refittable plans of this architecture do not run on this machine.")
    raise RefitError(
        f"None of the {len(candidates)} refittable plan(s) has the architecture of this package: "
        "another backbone, precision, input size or set of labels.",
    )


def graph_sha256(manifest: Manifest) -> str:
    """Of the graph that TensorRT runs."""
    return manifest.files[manifest.graph_for("tensorrt").graph]


def _key(manifest: Manifest, machine: Machine, options: BuildOptions) -> PlanKey:
    precision = manifest.graph_for("tensorrt").precision
    return key_for(graph_sha256(manifest), precision, machine, options)


def _record(
    package: Package,
    key: PlanKey,
    graph: bytes,
    built: Built,
    *,
    refitted_from: str | None = None,
) -> PlanRecord:
    manifest = package.manifest
    return PlanRecord(
        key=key,
        architecture_sha256=architecture_sha256(graph),
        model=f"{manifest.name} {manifest.version}",
        package=package.digest,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
        built_at=datetime.now(UTC),
        build_seconds=round(built.seconds, 1),
        refitted_from=refitted_from,
    )
