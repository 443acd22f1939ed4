"""What readers say of the findings of a result: they agree, disagree, or say what is right.

Rows are only added. Of a reader, the newest row on a film and label is in force; the key stands
for the reader if it names none. A row says whether the finding is present in the reader's opinion,
so that it counts for every model that scores the film.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, select

from hilum.db import audit
from hilum.db.connection import is_one_of
from hilum.db.results import StoredResult
from hilum.db.tables import feedback, images, instances, models
from hilum.errors import FeedbackLabelError

# One row of :func:`read`. `label` has at most 64 characters; `given_at` is UTC.
READING: Final = np.dtype(
    [
        ("id", "<i8"),
        ("instance_id", "<i8"),  # in `instances`; -1: the film is not there
        ("result_id", "<i8"),
        ("model_id", "<i4"),
        ("label", "<U64"),
        ("found", "?"),  # by the model whose result the reader saw
        ("present", "?"),  # in the reader's opinion
        ("given_at", "<M8[us]"),
    ]
)


class Verdict(StrEnum):
    """What a reader says of a finding, or of its absence."""

    AGREE = "agree"
    DISAGREE = "disagree"
    CORRECT = "correct"  # with what is right


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """A reader's verdict on one label of a result."""

    label: str
    verdict: Verdict
    present: bool | None = None  # of ``CORRECT`` only: whether the finding is there


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """A row."""

    id: int
    tenant: str
    study_id: str
    image_id: str
    result_id: int
    model: str  # the digest of the package
    label: str
    verdict: Verdict
    found: bool
    present: bool
    key_id: str
    reader: str | None
    created_at: datetime
    in_force: bool
    uri: str = field(repr=False)  # the address of the image


def give(
    connection: Connection,
    *,
    tenant: str,
    study_id: str,
    image_id: str,
    result: StoredResult,
    labels: Sequence[str],
    opinions: Sequence[Opinion],
    key_id: str,
    reader: str | None,
) -> list[int]:
    """Add a row for each opinion, and one to the audit.

    Args:
        connection: a transaction for writing.
        tenant: the owner of the study.
        study_id: the study.
        image_id: the image that the reader saw.
        result: the result that it showed.
        labels: the findings of the model that made the result.
        opinions: at most one for each label.
        key_id: the API key that the reader's system used.
        reader: an opaque id of the reader; never a name.

    Returns:
        The ids of the rows, in the order of ``opinions``.

    Raises:
        FeedbackLabelError: the model of the result has no such label, or it means "no finding".
    """
    unknown = [opinion for opinion in opinions if opinion.label not in labels]
    if unknown:
        raise FeedbackLabelError(f"The model's findings are {', '.join(labels)}.")
    found = {finding.label for finding in result.findings}
    shared = {
        "tenant": tenant,
        "study_id": study_id,
        "image_id": image_id,
        "result_id": result.id,
        "model_id": result.model.id,
        "sop_instance_uid": result.sop_instance_uid,
        "content_sha256": result.content_sha256,
        "key_id": key_id,
        "reader": reader,
        "created_at": datetime.now(UTC),
    }
    rows = []
    for opinion in opinions:
        by_model = opinion.label in found
        said = opinion.present
        if said is None or opinion.verdict is not Verdict.CORRECT:
            said = by_model == (opinion.verdict is Verdict.AGREE)
        own = {"label": opinion.label, "verdict": opinion.verdict}
        rows.append({**shared, **own, "found": by_model, "present": said})
    added = insert(feedback).returning(feedback.c.id, sort_by_parameter_order=True)
    ids = list(connection.execute(added, rows).scalars())
    audit.append(
        connection,
        tenant=tenant,
        actor=key_id,
        action="feedback.given",
        object=image_id,
        detail={"rows": ids, "result": result.id},
    )
    return ids


def iterate(
    connection: Connection,
    *,
    tenant: str | None = None,
    study_id: str | None = None,
    model: str | None = None,
    label: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    in_force: bool = True,
    after: int = 0,
    limit: int | None = None,
) -> Iterator[Feedback]:
    """Rows by id, read in pages.

    Args:
        connection: a transaction.
        tenant, study_id, model, label: only rows with these; ``model`` is a package's digest.
        since, until: only rows of this time, from ``since`` to before ``until``.
        in_force: only rows that no newer row of the same reader replaces.
        after: a keyset cursor, the id of the last row seen.
        limit: of rows; ``None``: all.
    """
    columns: dict[ColumnElement[Any], object] = {
        feedback.c.tenant: tenant,
        feedback.c.study_id: study_id,
        feedback.c.label: label,
        models.c.digest: model,
    }
    which = [column == value for column, value in columns.items() if value is not None]
    which += [] if since is None else [feedback.c.created_at >= since]
    which += [] if until is None else [feedback.c.created_at < until]
    which += [_IS_IN_FORCE] if in_force else []
    query = (
        select(feedback, models.c.digest.label("model"), images.c.uri, _IS_IN_FORCE.label("valid"))
        .join(models, models.c.id == feedback.c.model_id)
        .join(images, images.c.id == feedback.c.image_id)
        .where(*which)
        .order_by(feedback.c.id)
    )
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        page = connection.execute(query.where(feedback.c.id > after).limit(size)).all()
        for row in page:
            yield _feedback(row)
        if len(page) < size:
            return
        after, left = page[-1].id, None if left is None else left - size


def read(
    connection: Connection,
    *,
    tenant: str,
    instance_ids: Collection[int] | None = None,
    model_id: int | None = None,
    label: str | None = None,
) -> npt.NDArray[np.void]:
    """The rows in force, as an array of :data:`READING`, by id.

    Args:
        connection: a transaction.
        tenant: whose feedback.
        instance_ids: only on these films; a campaign's report passes those of a page.
        model_id: only on results of this registered model.
        label: only on this label.
    """
    film = and_(
        instances.c.tenant == feedback.c.tenant,
        instances.c.sop_instance_uid == feedback.c.sop_instance_uid,
        instances.c.content_sha256 == feedback.c.content_sha256,
    )
    which = [feedback.c.tenant == tenant, _IS_IN_FORCE]
    if instance_ids is not None:
        which.append(is_one_of(connection, instances.c.id, instance_ids))
    if model_id is not None:
        which.append(feedback.c.model_id == model_id)
    if label is not None:
        which.append(feedback.c.label == label)
    own = [feedback.c[name] for name in ("result_id", "model_id", "label", "found", "present")]
    query = (
        select(
            feedback.c.id,
            func.coalesce(instances.c.id, -1),
            *own,
            feedback.c.created_at,
        )
        .select_from(feedback.outerjoin(instances, film))
        .where(*which)
        .order_by(feedback.c.id)
    )
    rows = [(*row[:-1], row[-1].replace(tzinfo=None)) for row in connection.execute(query)]
    return np.array(rows, dtype=READING)


def readings(
    connection: Connection, *, tenant: str, instance_ids: Collection[int]
) -> dict[int, dict[str, bool]]:
    """By film and label, whether the finding is present: as most of its readers say, and of as many
    on both sides as the last of them says."""
    votes: dict[tuple[int, str], list[bool]] = defaultdict(list)
    for row in read(connection, tenant=tenant, instance_ids=instance_ids):
        votes[int(row["instance_id"]), str(row["label"])].append(bool(row["present"]))
    found: dict[int, dict[str, bool]] = defaultdict(dict)
    for (instance_id, label), said in votes.items():
        tied = 2 * sum(said) == len(said)
        found[instance_id][label] = said[-1] if tied else 2 * sum(said) > len(said)
    return dict(found)


def _is_in_force() -> ColumnElement[bool]:
    newer = feedback.alias("newer")
    same = [
        newer.c[name] == feedback.c[name]
        for name in ("tenant", "content_sha256", "sop_instance_uid", "label")
    ]
    who = func.coalesce(newer.c.reader, newer.c.key_id)
    reader = who == func.coalesce(feedback.c.reader, feedback.c.key_id)
    return ~exists().where(*same, reader, newer.c.id > feedback.c.id).correlate(feedback)


_IS_IN_FORCE: Final = _is_in_force()
_PAGE: Final = 2000


def _feedback(row: Row[Any]) -> Feedback:
    names = Feedback.__dataclass_fields__.keys() - {"verdict", "in_force"}
    return Feedback(
        **{name: row._mapping[name] for name in names},
        verdict=Verdict(row.verdict),
        in_force=bool(row.valid),
    )
