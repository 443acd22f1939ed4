"""What a campaign would do, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hilum.db import workers
from hilum.db.campaigns import pace, selection
from hilum.db.campaigns.selection import Mode, Selection, Standing, Target
from hilum.db.connection import Connection
from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.pipeline.cache import PreparedCache
from hilum.queue import Queue

# What a prepared film costs of one that is fetched and decoded (benchmarks: `rescore_vs_first`).
_PREPARED_COST: Final = 0.2
SAMPLE: Final = 5  # films that a plan shows
CACHE_SAMPLE: Final = 50  # films whose entry in the cache is looked up
_Z: Final = 1.959963984540054  # 95 %


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Films of a sample with a usable entry in the prepared-image cache."""

    looked_up: int
    usable: int

    @property
    def share(self) -> tuple[float, float, float]:
        """The share of films with an entry, and its 95 % interval by Wilson."""
        low, high = wilson(self.usable, self.looked_up)
        return self.usable / self.looked_up if self.looked_up else 0.0, low, high


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Hours of work of all workers together, from the most to the least favourable."""

    images_per_s: float  # median of what was measured, or as given
    hours: float
    shortest_hours: float
    longest_hours: float
    measured: bool  # on this installation's newest results
    cost: tuple[float, float, float] | None  # of these hours, by the price of an hour


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a campaign would do."""

    found: int
    standings: dict[Standing, int]
    codes: dict[str, int]  # of refused and failed instances
    to_score: int
    without_address: int
    prepared: Prepared | None  # None: the cache is off, or was not looked at
    workers: int  # that serve the model
    estimate: Estimate | None  # None: no speed is known
    sample: list[dict[str, Any]]

    def document(self, *, addresses: bool) -> dict[str, Any]:
        """As JSON. Addresses may hold patient data."""
        share = None if self.prepared is None else [round(x, 4) for x in self.prepared.share]
        films = [
            {key: value for key, value in film.items() if addresses or key != "uri"}
            for film in self.sample
        ]
        for film in films:
            day = film["acquisition_date"]
            film["acquisition_date"] = None if day is None else day.isoformat()
        estimate = None
        if self.estimate is not None:
            estimate = {key: value for key, value in vars(self.estimate).items() if key != "cost"}
            estimate["cost"] = None if self.estimate.cost is None else [*self.estimate.cost]
        return {
            "found": self.found,
            **{standing.value: self.standings.get(standing, 0) for standing in Standing},
            "codes": self.codes,
            "to_score": self.to_score,
            "without_address": self.without_address,
            "prepared": None
            if self.prepared is None
            else {
                "looked_up": self.prepared.looked_up,
                "usable": self.prepared.usable,
                "share": share,
            },
            "workers": self.workers,
            "estimate": estimate,
            "sample": films,
        }


def make(
    connection: Connection,
    chosen: Selection,
    modes: tuple[Mode, ...],
    target: Target,
    *,
    look_up: Callable[[Iterable[str]], Prepared] | None = None,
    images_per_s: float | None = None,
    cost_per_hour: float | None = None,
) -> Plan:
    """Count the selected instances, and estimate how long they take.

    Args:
        connection: a transaction.
        chosen: the filters.
        modes: which instances are scored.
        target: what they are scored with.
        look_up: counts films with an entry in the cache, as :func:`look_up_in` does.
        images_per_s: of all workers together; ``None``: as measured on the newest results.
        cost_per_hour: of all workers together, in any currency.

    Raises:
        SelectionUnknownError: a filter names something that does not exist.
    """
    selection.check(connection, target.tenant, chosen)
    counts = selection.count(connection, chosen, target)
    standings: dict[Standing, int] = {}
    codes: dict[str, int] = {}
    scored = without = 0
    for one in counts:
        standings[one.standing] = standings.get(one.standing, 0) + one.instances
        if one.code:
            codes[one.code] = codes.get(one.code, 0) + one.instances
        if _is_wanted(one, modes, chosen):
            scored += one.instances
            without += one.without_address
    films = selection.sample(connection, chosen, modes, target, limit=CACHE_SAMPLE)
    prepared = None
    if look_up is not None and films:
        prepared = look_up(film["uri"] for film in films if film["uri"] is not None)
    serving = [
        one
        for one in workers.live(connection)
        if one.model_id == target.model_id and Queue.BULK in one.queues
    ]
    return Plan(
        found=sum(standings.values()),
        standings=standings,
        codes=codes,
        to_score=scored,
        without_address=without,
        prepared=prepared,
        workers=sum(one.workers for one in serving),
        estimate=_estimate(
            scored - without,
            [images_per_s] if images_per_s else pace.rates(connection),
            prepared,
            measured=images_per_s is None,
            cost_per_hour=cost_per_hour,
        ),
        sample=films[:SAMPLE],
    )


def look_up_in(cache: PreparedCache, spec: PreprocessSpec) -> Callable[[Iterable[str]], Prepared]:
    """Look films up in the cache, without writing to it."""

    def look_up(uris: Iterable[str]) -> Prepared:
        looked_up = usable = 0
        for uri in uris:
            looked_up += 1
            try:
                place = cache.place(uri, spec)
                usable += place is not None and cache.has(place)
            except HilumError:  # the film is missing, for example
                continue
        return Prepared(looked_up=looked_up, usable=usable)

    return look_up


def wilson(hits: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), within [0, 1]; (0, 1) of nothing."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def _is_wanted(one: selection.Count, modes: tuple[Mode, ...], chosen: Selection) -> bool:
    if one.standing in (Standing.UNDERWAY, Standing.SUPERSEDED):
        return False
    if Mode.ALL in modes:
        return True
    if one.standing is Standing.REFUSED and chosen.codes and one.code not in chosen.codes:
        return False
    return one.standing.value in {mode.value for mode in modes}


def _estimate(
    films: int,
    rates: list[float],
    prepared: Prepared | None,
    *,
    measured: bool,
    cost_per_hour: float | None,
) -> Estimate | None:
    """From the measured speeds (10th to 90th percentile) and the share of prepared films."""
    if not rates:
        return None
    share, _, high = prepared.share if prepared else (0.0, 0.0, 0.0)
    tenth = len(rates) // 10
    slow, fast = rates[tenth], rates[len(rates) - 1 - tenth]
    middle = rates[len(rates) // 2]

    def hours(rate: float, saved: float) -> float:
        return films * (1 - saved * (1 - _PREPARED_COST)) / rate / 3600

    # It is not known whether the films that were measured came from the cache themselves.
    found = (hours(middle, share), hours(fast, high), hours(slow, 0.0))
    cost = None
    if cost_per_hour is not None:
        cost = (found[0] * cost_per_hour, found[1] * cost_per_hour, found[2] * cost_per_hour)
    return Estimate(
        images_per_s=middle,
        hours=found[0],
        shortest_hours=found[1],
        longest_hours=found[2],
        measured=measured,
        cost=cost,
    )
