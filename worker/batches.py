"""The order and the batches in which the images of a job are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hilum.db.claims import PendingImage
from hilum.pipeline.execute import Batch, batches_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with the pending images of a job."""

    exhausted: tuple[PendingImage, ...]  # too many workers died over these: not tried again
    batches: tuple[Batch[PendingImage], ...]


def plan(pending: Sequence[PendingImage], *, batch_size: int, max_attempts: int) -> Plan:
    """Sort ``pending`` (by position) so that images that may cause trouble come last.

    First, in full batches, images that were never in flight when a worker died; among these, images
    with an earlier transient error come last. Then, one by one, images that were in flight when a
    worker died, those with the fewest deaths first: if it happens again, the image is known.
    """
    exhausted = tuple(image for image in pending if image.unreported >= max_attempts)
    calm = sorted((i for i in pending if i.unreported == 0), key=lambda i: i.deferred)
    suspect = sorted(
        (i for i in pending if 0 < i.unreported < max_attempts),
        key=lambda i: (i.unreported, i.deferred),
    )
    alone = (Batch(keys=(image,), alone=True) for image in suspect)
    return Plan(exhausted=exhausted, batches=(*batches_of(calm, batch_size), *alone))
