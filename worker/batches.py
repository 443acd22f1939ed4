"""In which order, and in what company, a job's images are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hilum.db.claims import PendingImage
from hilum.pipeline.execute import Batch, batches_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with a job's pending images."""

    exhausted: tuple[PendingImage, ...]  # too many workers died over them: not touched again
    batches: tuple[Batch[PendingImage], ...]


def plan(pending: Sequence[PendingImage], *, batch_size: int, max_attempts: int) -> Plan:
    """Sort ``pending`` (by position) so that trouble comes last.

    First, in full batches, what was never on the table when a worker died; among these, last,
    what has met a transient error before. Then one by one those on the table at a death, fewest
    deaths first: if it happens again, the one image is known.
    """
    exhausted = tuple(image for image in pending if image.unreported >= max_attempts)
    calm = sorted((i for i in pending if i.unreported == 0), key=lambda i: i.deferred)
    suspect = sorted(
        (i for i in pending if 0 < i.unreported < max_attempts),
        key=lambda i: (i.unreported, i.deferred),
    )
    alone = (Batch(keys=(image,), alone=True) for image in suspect)
    return Plan(exhausted=exhausted, batches=(*batches_of(calm, batch_size), *alone))
