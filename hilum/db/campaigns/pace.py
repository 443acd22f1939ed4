"""How fast this installation scores, measured on its newest results."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from sqlalchemy import Connection, select

from hilum.db.tables import results

_NEWEST: Final = 4000  # results that are looked at
_BLOCK: Final = 50  # results of one measurement
_IDLE_S: Final = 10.0  # between two results: nothing was queued


def rates(connection: Connection) -> list[float]:
    """Images per second of all workers together, ascending: one value for each block of results
    that came without a pause. Empty: there are not enough results."""
    query = select(results.c.created_at).order_by(results.c.id.desc()).limit(_NEWEST)
    times = [at.timestamp() for at in connection.execute(query).scalars()][::-1]
    gaps = [max(after - before, 0.0) for before, after in pairwise(times)]
    found = []
    for start in range(0, len(gaps) - _BLOCK + 1, _BLOCK):
        block = gaps[start : start + _BLOCK]
        if max(block) <= _IDLE_S and sum(block) > 0:
            found.append(_BLOCK / sum(block))
    return sorted(found)
