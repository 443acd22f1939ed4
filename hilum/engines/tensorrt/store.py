"""Plans on disk: the record ``<id>.json`` describes and names ``<id>.<digits>.plan``.

A plan is code, so its sha256 is checked on every read. A new plan is written beside the old one,
and then the record is replaced atomically. Whatever goes wrong before that (a full disk, a killed
process), the old plan stays in use.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from hilum.engines.tensorrt.record import Machine, PlanKey, PlanRecord, misfit
from hilum.errors import (
    EngineDamagedError,
    EngineIncompatibleError,
    EngineMissingError,
    EngineStoreError,
)
from hilum.files import locked, write_atomically

log = logging.getLogger(__name__)


class PlanStore:
    """The plans in one folder, which all processes of the machine share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> list[PlanRecord]:
        """The records of all plans, newest first. Records that cannot be read are left out."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(PlanRecord.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                log.warning("The record %s of a TensorRT plan cannot be read.", path.name)
        return sorted(found, key=lambda record: record.built_at, reverse=True)

    def get(self, key: PlanKey) -> PlanRecord | None:
        """The record of the plan with exactly this key, or ``None``."""
        try:
            record = PlanRecord.model_validate_json((self.folder / f"{key.id}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.key == key else None

    def find(
        self, graph_sha256: str, machine: Machine, *, max_batch: int
    ) -> tuple[PlanRecord, bytes]:
        """Return the best intact plan of a graph for ``machine``: its record and content.

        Raises:
            EngineMissingError: no plan of the graph was built.
            EngineIncompatibleError: no plan of the graph runs on ``machine``.
            EngineDamagedError: no plan that runs on ``machine`` is intact.
        """
        damaged: dict[str, EngineDamagedError] = {}
        for _ in range(2):  # another process may have replaced a file after its record was read
            damaged.clear()
            for record in self._candidates(graph_sha256, machine, max_batch):
                try:
                    plan = self.read(record)
                except EngineDamagedError as error:
                    damaged[record.key.id] = error
                    continue
                for passed_over in damaged.values():
                    log.warning("A damaged TensorRT plan was skipped: %s", passed_over.detail)
                return record, plan
        raise next(iter(damaged.values()))

    def _candidates(self, graph_sha256: str, machine: Machine, max_batch: int) -> list[PlanRecord]:
        """The plans of a graph that run on ``machine``, best first: those for this GPU alone before
        those for several, this library version before older ones, larger batches (up to
        ``max_batch``) before smaller ones, and then newer before older."""
        plans = [r for r in self.records() if r.key.graph_sha256 == graph_sha256]
        if not plans:
            raise EngineMissingError("No TensorRT plan of this model was built on this machine.")
        reasons = {record.key.id: misfit(record.key, machine) for record in plans}
        fitting = [record for record in plans if reasons[record.key.id] is None]
        if not fitting:
            first = "; ".join(f"{name[:8]}: {why}" for name, why in [*reasons.items()][:3])
            raise EngineIncompatibleError(
                f"No TensorRT plan of this model runs on this machine ({first})."
            )
        return sorted(
            fitting,  # newest first; sorting keeps the order of equal plans
            key=lambda r: (
                r.key.hardware != "none",
                r.key.library_version != machine.library_version,
                -min(r.key.profile[2], max_batch),
            ),
        )

    def read(self, record: PlanRecord) -> bytes:
        """Read the content of a plan, with its digest checked.

        Raises:
            EngineDamagedError: the file is missing, incomplete or changed.
        """
        try:
            data = self.path(record).read_bytes()
        except OSError as error:
            raise EngineDamagedError(
                f"The TensorRT plan {record.key.id[:8]} cannot be read: {error.strerror}."
            ) from None
        if len(data) != record.plan_bytes:
            raise EngineDamagedError(
                f"The TensorRT plan {record.key.id[:8]} has {len(data)} bytes, but "
                f"{record.plan_bytes} were written."
            )
        if hashlib.sha256(data).hexdigest() != record.plan_sha256:
            raise EngineDamagedError(
                f"The sha256 of the TensorRT plan {record.key.id[:8]} differs from its record."
            )
        return data

    def save(self, record: PlanRecord, plan: bytes) -> None:
        """Write a plan, replacing the one with the same key. The caller must hold :meth:`lock`.

        Raises:
            EngineStoreError: the plan cannot be written. The old plan is unchanged.
        """
        with self._writing():
            write_atomically(self.path(record), plan)
            document = record.model_dump_json(indent=2).encode() + b"\n"
            write_atomically(self.folder / f"{record.key.id}.json", document)
        for path in self.folder.glob(f"{record.key.id}.*.plan"):
            if path != self.path(record):
                path.unlink(missing_ok=True)

    def remove(self, record: PlanRecord) -> None:
        """Remove a plan. Its record is removed first, so that no process finds half a plan."""
        with self._writing():
            (self.folder / f"{record.key.id}.json").unlink(missing_ok=True)
            for path in self.folder.glob(f"{record.key.id}.*.plan"):
                path.unlink(missing_ok=True)

    def path(self, record: PlanRecord) -> Path:
        """The path of the plan."""
        return self.folder / f"{record.key.id}.{record.plan_sha256[:16]}.plan"

    @contextmanager
    def lock(self, key: PlanKey, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Lock the key against other processes that build on this machine.

        Args:
            on_wait: called before waiting, if another process holds the lock.

        Raises:
            EngineStoreError: the folder cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f".{key.id}.lock").touch()
        with locked(self.folder / f".{key.id}.lock", on_wait=on_wait):
            yield

    def timings(self, machine: Machine) -> bytes:
        """The timing cache of earlier builds on this GPU, or empty bytes."""
        try:
            return self._timings_path(machine).read_bytes()
        except OSError:
            return b""

    def save_timings(self, machine: Machine, content: bytes) -> None:
        """Keep the timing cache for later builds. It only saves time, so a failure is logged."""
        if not content:
            return
        try:
            write_atomically(self._timings_path(machine), content)
        except OSError as error:
            log.warning("The timing cache could not be written: %s.", error.strerror)

    def _timings_path(self, machine: Machine) -> Path:
        device = machine.device.name if machine.device else "any"
        name = f"{machine.library}-{machine.library_version}-{device}"
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.timings"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineStoreError(
                f"A TensorRT plan cannot be written: {error.strerror}."
            ) from None
