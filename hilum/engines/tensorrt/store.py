"""Plans on disk: ``<id>.json`` says what ``<id>.<digits>.plan`` is, and points to it.

A plan is code: nothing is handed out whose sha256 is not the recorded one. A new plan is written
beside the old one and the record changes over to it in one step, so whatever goes wrong on the
way (a full disk, a killed process), the last good plan stays in use.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
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
    """The plans in one folder, shared by all processes of the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> list[PlanRecord]:
        """All plans, newest first. A record that cannot be read is passed over."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(PlanRecord.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                log.warning("the record %s of a TensorRT plan is not readable", path.name)
        return sorted(found, key=lambda record: record.built_at, reverse=True)

    def get(self, key: PlanKey) -> PlanRecord | None:
        """The plan built with exactly this key."""
        try:
            record = PlanRecord.model_validate_json((self.folder / f"{key.id}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.key == key else None

    def find(
        self, graph_sha256: str, machine: Machine, *, max_batch: int
    ) -> tuple[PlanRecord, bytes]:
        """The best plan of a graph for ``machine`` that is intact, with its bytes.

        Raises:
            EngineMissingError: none was built.
            EngineIncompatibleError: those that were built do not run here; says why.
            EngineDamagedError: none that would run here is intact.
        """
        return self.first_intact(lambda: self.candidates(graph_sha256, machine, max_batch))

    def first_intact(
        self, candidates: Callable[[], Sequence[PlanRecord]]
    ) -> tuple[PlanRecord, bytes]:
        """The first of ``candidates`` that can be read, with its bytes.

        They are listed twice at most: who builds a plan again takes the old file away, perhaps
        between our look at its record and at it.

        Raises:
            EngineDamagedError: none of them can; the first one's error.
            Whatever ``candidates`` raises.
        """
        damaged: dict[str, EngineDamagedError] = {}
        for _ in range(2):
            damaged.clear()
            for record in candidates():
                try:
                    plan = self.read(record)
                except EngineDamagedError as error:
                    damaged[record.key.id] = error
                    continue
                for passed_over in damaged.values():
                    log.warning("passed over: %s", passed_over.detail)
                return record, plan
        raise next(iter(damaged.values()))

    def candidates(self, graph_sha256: str, machine: Machine, max_batch: int) -> list[PlanRecord]:
        """The plans of a graph that run on ``machine``, the best first: made for this very GPU
        before those for several, made by this version before an older one, for larger batches (up
        to ``max_batch``) before smaller ones, which take a large batch in parts, then the newest.

        Raises:
            EngineMissingError: none was built.
            EngineIncompatibleError: those that were built do not run here; says why.
        """
        plans = [r for r in self.records() if r.key.graph_sha256 == graph_sha256]
        if not plans:
            raise EngineMissingError("No TensorRT plan of this model has been built here.")
        reasons: dict[str, str] = {}
        fitting = []
        for record in plans:
            reason = misfit(record.key, machine)
            if reason is None:
                fitting.append(record)
            else:
                reasons[record.key.id] = reason
        if not fitting:
            first = "; ".join(f"{name[:8]}: {why}" for name, why in [*reasons.items()][:3])
            raise EngineIncompatibleError(
                f"{len(plans)} TensorRT plan(s) of this model do not run here ({first})."
            )
        version = machine.library_version
        return sorted(
            fitting,  # newest first, and equals stay in order
            key=lambda r: (
                r.key.hardware != "none",
                r.key.library_version != version,
                -min(r.key.profile[2], max_batch),
            ),
        )

    def read(self, record: PlanRecord) -> bytes:
        """The plan, its digest checked on the very bytes that are handed out.

        Raises:
            EngineDamagedError: it is gone, cut short or changed.
        """
        try:
            data = self.path(record).read_bytes()
        except OSError as error:
            raise EngineDamagedError(
                f"The TensorRT plan {record.key.id[:8]} cannot be read: {error.strerror}."
            ) from None
        if len(data) != record.plan_bytes:
            raise EngineDamagedError(
                f"The TensorRT plan {record.key.id[:8]} has {len(data)} bytes; "
                f"{record.plan_bytes} were written."
            )
        if hashlib.sha256(data).hexdigest() != record.plan_sha256:
            raise EngineDamagedError(
                f"The sha256 of the TensorRT plan {record.key.id[:8]} is not the recorded one."
            )
        return data

    def save(self, record: PlanRecord, plan: bytes) -> None:
        """Put a plan in the place of the one with the same key; hold :meth:`lock` meanwhile.

        Raises:
            EngineStoreError: it cannot be written; the old one is still there.
        """
        with self._writing():
            write_atomically(self.path(record), plan)
            document = record.model_dump_json(indent=2).encode() + b"\n"
            write_atomically(self.folder / f"{record.key.id}.json", document)
        for path in self.folder.glob(f"{record.key.id}.*.plan"):
            if path != self.path(record):
                path.unlink(missing_ok=True)

    def remove(self, record: PlanRecord) -> None:
        """Forget a plan: first its record, so that nobody finds half of it."""
        with self._writing():
            (self.folder / f"{record.key.id}.json").unlink(missing_ok=True)
            for path in self.folder.glob(f"{record.key.id}.*.plan"):
                path.unlink(missing_ok=True)

    def path(self, record: PlanRecord) -> Path:
        """Where the plan lies."""
        return self.folder / f"{record.key.id}.{record.plan_sha256[:16]}.plan"

    @contextmanager
    def lock(self, key: PlanKey, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the key against other builders of this machine.

        Args:
            on_wait: called if another one holds it, before the wait.

        Raises:
            EngineStoreError: the folder cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f".{key.id}.lock").touch()
        with locked(self.folder / f".{key.id}.lock", on_wait=on_wait):
            yield

    def timings(self, machine: Machine) -> bytes:
        """What earlier builds on this GPU measured; empty if there were none."""
        try:
            return self._timings_path(machine).read_bytes()
        except OSError:
            return b""

    def save_timings(self, machine: Machine, content: bytes) -> None:
        """Keep measurements for later builds. They only save time: a full disk is no error."""
        if not content:
            return
        try:
            write_atomically(self._timings_path(machine), content)
        except OSError as error:
            log.warning("the timing cache was not written: %s", error.strerror)

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
