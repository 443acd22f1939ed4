"""Results: one row for each object, model and pipeline, however often a job runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, insert, select, tuple_

from hilum.db import models
from hilum.db.connection import insert_or_ignore, is_one_of
from hilum.db.models import RegisteredModel
from hilum.db.tables import findings, results
from hilum.finding import Finding

Float32Array = npt.NDArray[np.float32]
_SHOWN: Final = [column for column in results.c if column.name != "tenant"]
_IDENTITY: Final = ("sop_instance_uid", "content_sha256", "model_id", "pipeline")


@dataclass(frozen=True, kw_only=True)
class NewResult:
    """A result that a worker is about to save."""

    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    content_sha256: bytes
    model_id: int
    pipeline: str  # version of the pixel code and the film check (hilum.pipeline.version)
    rows: int
    columns: int
    raw: Float32Array  # [K], raw outputs of the graph
    probability: Float32Array  # [K], calibrated
    findings: tuple[Finding, ...]
    cam: Float32Array  # [len(cam_labels), h, w]
    cam_labels: tuple[int, ...]  # positions in the label schema; empty: no maps are kept
    engine: str
    engine_reason: str | None = None  # why this engine; None in old rows
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoredResult(NewResult):
    """A result in SQL, with its model."""

    id: int
    model: RegisteredModel
    created_at: datetime

    def cam_of(self, label: int) -> Float32Array | None:
        """The Grad-CAM grid ``[h, w]`` of the label at this position; ``None``: not stored."""
        if label not in self.cam_labels:
            return None
        grid: Float32Array = self.cam[self.cam_labels.index(label)]
        return grid


def save(connection: Connection, *, tenant: str, result: NewResult) -> int:
    """The id of the row for this result: a new row, or the one that exists."""
    return save_many(connection, [(tenant, result)])[0]


def save_many(connection: Connection, new: Sequence[tuple[str, NewResult]]) -> list[int]:
    """The ids of the rows for these results, each with its tenant, in their order.

    Rows are inserted in the order of ``content_sha256``, so that two transactions with the same
    rows wait for each other and do not deadlock.
    """
    if not new:
        return []
    keys = [(tenant, *(getattr(result, name) for name in _IDENTITY)) for tenant, result in new]
    rows = {key: _row(*each) for key, each in zip(keys, new, strict=True)}
    columns = (results.c.id, results.c.tenant, *(results.c[name] for name in _IDENTITY))
    adding = insert_or_ignore(connection, results).returning(*columns)
    ordered = sorted(rows.values(), key=lambda row: row["content_sha256"])
    ids = {_key(row): int(row.id) for row in connection.execute(adding, ordered)}
    above = [
        {"result_id": ids[key], **vars(finding)}
        for key, result in {key: each for key, (_, each) in zip(keys, new, strict=True)}.items()
        if key in ids
        for finding in result.findings
    ]
    if above:
        connection.execute(insert(findings), above)
    if missing := {*rows} - {*ids}:
        known = select(*columns).where(tuple_(*columns[1:]).in_(missing))
        ids |= {_key(row): int(row.id) for row in connection.execute(known)}
    return [ids[key] for key in keys]


def _key(row: Row[Any]) -> tuple[Any, ...]:
    return (row.tenant, row.sop_instance_uid, bytes(row.content_sha256), row.model_id, row.pipeline)


def _row(tenant: str, result: NewResult) -> dict[str, Any]:
    row = vars(result) | {
        "tenant": tenant,
        "raw": result.raw.astype("<f4").tobytes(),
        "probability": result.probability.astype("<f4").tobytes(),
        "cam": result.cam.astype("<f2").tobytes(),
        "cam_labels": bytes(result.cam_labels),
        "flags": list(result.flags),
        "created_at": datetime.now(UTC),
    }
    del row["findings"]  # they have a table of their own
    return row


def get(connection: Connection, result_id: int) -> StoredResult | None:
    """The result with this id."""
    return get_many(connection, [result_id], maps=True).get(result_id)


def get_many(
    connection: Connection, result_ids: Collection[int], *, maps: bool
) -> dict[int, StoredResult]:
    """The results with these ids, by id, in two or three statements.

    Args:
        result_ids: ids that do not exist are left out.
        maps: whether to read the Grad-CAM maps, which are most of a result's bytes. Without them,
            ``cam`` is empty, while ``cam_labels`` still says which maps exist.
    """
    if not result_ids:
        return {}
    read = [column for column in _SHOWN if maps or column.name != "cam"]
    these = is_one_of(connection, results.c.id, result_ids)
    names = [column.name for column in read]
    # Reading all rows, and unpacking them, takes half as long as one row and one name at a time.
    rows = connection.execute(select(*read).where(these)).all()
    stored = [dict(zip(names, row, strict=True)) for row in rows]
    registered = models.get_many(connection, {values["model_id"] for values in stored})
    found: dict[int, list[Finding]] = defaultdict(list)
    above = select(findings).where(is_one_of(connection, findings.c.result_id, result_ids))
    for result_id, label, probability, threshold in connection.execute(above).all():
        one = Finding(label=label, probability=probability, threshold=threshold)
        found[result_id].append(one)
    return {
        values["id"]: _stored(values, registered[values["model_id"]], found[values["id"]])
        for values in stored
    }


def _stored(
    values: dict[str, Any], model: RegisteredModel, found: Sequence[Finding]
) -> StoredResult:
    cam_labels, cam = tuple(values["cam_labels"]), values.get("cam", b"")
    shape = (len(cam_labels) if cam else 0, *model.manifest["cam_grid"])
    values |= {
        "content_sha256": bytes(values["content_sha256"]),
        "raw": _float32(values["raw"]),
        "probability": _float32(values["probability"]),
        "findings": tuple(sorted(found, key=lambda each: model.labels.index(each.label))),
        "cam": np.frombuffer(cam, dtype="<f2").astype(np.float32).reshape(shape),
        "cam_labels": cam_labels,
        "flags": tuple(values["flags"]),
    }
    return StoredResult(model=model, **values)


def _float32(data: bytes) -> Float32Array:
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
