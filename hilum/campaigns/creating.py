"""Plan and create campaigns, by hand or each night."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from hilum.campaigns import planning
from hilum.campaigns.planning import Plan, Prepared
from hilum.campaigns.windows import Overlap, Window
from hilum.db import models, serving, workers
from hilum.db.campaigns import rows, selection
from hilum.db.campaigns.rows import Campaign, NewCampaign
from hilum.db.campaigns.selection import Mode, Selection, Standing, Target
from hilum.db.campaigns.states import ACTIVE, CampaignStatus
from hilum.db.connection import Connection, Database
from hilum.errors import CampaignError, ModelUnknownError
from hilum.logs import event
from hilum.packages.manifest import Manifest
from hilum.packages.registered import manifest_of
from hilum.pipeline.version import pipeline_version

log = logging.getLogger(__name__)

NOT_REGISTERED: Final = -1


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A campaign that somebody wants."""

    tenant: str
    model: str | None  # digest, or, on the command line, the location of a package
    modes: tuple[Mode, ...]
    selection: Selection
    name: str = "rescore"
    window: Window | None = None
    images_per_s: float | None = None
    max_in_flight: int = 2000
    max_failure_rate: float | None = 0.2
    nightly: bool = False  # create it again at each opening of its window

    def __post_init__(self) -> None:
        for what, text, longest in (("tenant", self.tenant, 64), ("name", self.name, 100)):
            if not text.isprintable() or not 1 <= len(text) <= longest:
                raise CampaignError(
                    f"The {what} of a campaign must have 1 to {longest} printable characters."
                )
        if self.nightly and self.window is None:
            raise CampaignError("A nightly campaign needs a window.")
        if self.selection.codes and Mode.REFUSED not in self.modes:
            raise CampaignError("Codes select among refused films; add the mode `refused`.")


def again(campaign: Campaign) -> Wish:
    """What a campaign of a nightly series asks for in the next night."""
    assert campaign.repeat is not None
    return Wish(
        tenant=campaign.tenant,
        model=campaign.repeat["model"],
        modes=campaign.modes,
        selection=campaign.selection,
        name=campaign.name,
        window=None if campaign.window is None else Window.checked(campaign.window),
        images_per_s=campaign.images_per_s,
        max_in_flight=campaign.max_in_flight,
        max_failure_rate=campaign.max_failure_rate,
        nightly=True,
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model of a campaign."""

    id: int  # NOT_REGISTERED: SQL does not know it yet
    manifest: Manifest


def registered(connection: Connection, tenant: str, digest: str | None) -> Model:
    """A model that SQL knows.

    Args:
        connection: a transaction.
        tenant: whose model in force is taken if no digest is given.
        digest: of the package.

    Raises:
        ModelUnknownError: there is none with this digest, or none is in force.
    """
    if digest is None:
        row = serving.get(connection, tenant)
        found = None if row is None else models.get(connection, row.model_id)
        if found is None:
            raise ModelUnknownError(
                "No model is in force for the tenant.", next_step="Name the model's digest."
            )
        digest = found.digest
    known = [one for one in models.listing(connection) if one.digest == digest]
    if not known:
        raise ModelUnknownError("No model with this digest is registered.")
    # The same package with the preprocessing of several versions of hilum: what is served now.
    served = workers.equivalent(connection, known[0].id)
    best = next((one for one in known if one.id == served), known[0])
    return Model(id=best.id, manifest=manifest_of(best))


def plan(
    database: Database,
    wish: Wish,
    model: Model,
    *,
    look_up: Callable[[Iterable[str]], Prepared] | None = None,
    images_per_s: float | None = None,
    cost_per_hour: float | None = None,
) -> Plan:
    """See :func:`hilum.campaigns.planning.make`."""
    with database.read() as connection:
        return planning.make(
            connection,
            wish.selection,
            wish.modes,
            _target(wish, model),
            look_up=look_up,
            images_per_s=images_per_s,
            cost_per_hour=cost_per_hour,
        )


def create(
    database: Database,
    wish: Wish,
    model: Model,
    *,
    actor: str,
    opened_at: datetime | None = None,
) -> str:
    """Create the campaign and return its id. Its planner freezes the selection, step by step.

    Args:
        database: the SQL database.
        wish: what is asked for.
        model: what it names.
        actor: see :func:`hilum.db.audit.append`.
        opened_at: for one night of a series, when its window opened.

    Raises:
        SelectionUnknownError: a filter names something that does not exist.
        CampaignExistsError: see :func:`hilum.db.campaigns.rows.create`.
    """
    new = NewCampaign(
        name=wish.name,
        selection=wish.selection,
        modes=wish.modes,
        window=None if wish.window is None else wish.window.document(),
        images_per_s=wish.images_per_s,
        max_failure_rate=wish.max_failure_rate,
        max_in_flight=wish.max_in_flight,
        repeat={"model": wish.model and model.manifest.digest} if wish.nightly else None,
    )
    with database.write() as connection:
        selection.check(connection, wish.tenant, wish.selection)
        if model.id == NOT_REGISTERED:
            model_id = models.register(connection, **model.manifest.registration())
            model = Model(id=model_id, manifest=model.manifest)
        return rows.create(
            connection,
            new,
            _target(wish, model),
            preprocess_digest=model.manifest.preprocess.digest,
            actor=actor,
            opened_at=opened_at,
        )


def is_due(database: Database, wish: Wish, *, now: datetime, actor: str) -> bool:
    """Whether the nightly campaign of this name is to be created: its window is open, and none was
    created since it opened. One of an earlier night that is not done is treated by the window's
    overlap policy; one that was replaced is cancelled here."""
    with database.read() as connection:
        same = [
            one
            for one in rows.listing(connection, tenant=wish.tenant, limit=1000)
            if one.name == wish.name
        ]
    earlier = [one for one in same if one.status in ACTIVE]
    overlap = Overlap.SKIP
    if wish.window is not None:
        overlap = wish.window.overlap
        opening, previous = wish.window.opening(now), wish.window.previous(now)
        if opening is None:
            missed = previous is not None and not any(
                previous[0] <= one.created_at < previous[1] or one in earlier for one in same
            )
            if same and missed:
                event(log, logging.WARNING, "campaign.window_missed", tenant=wish.tenant)
            return False
        if any(one.created_at >= opening[0] for one in same):
            return False
    if earlier and overlap is Overlap.SKIP:
        return False
    if overlap is Overlap.REPLACE:
        for one in earlier:
            with database.write() as connection:
                rows.set_status(connection, one.id, CampaignStatus.CANCELLED, actor=actor)
    return True


def lines(made: Plan) -> list[str]:
    """The plan for people."""
    found = [
        f"{made.found} instances found: "
        + ", ".join(f"{made.standings.get(one, 0)} {one.value}" for one in Standing),
        *(f"  {n} ended as {code}" for code, n in sorted(made.codes.items())),
        f"{made.to_score} to score",
    ]
    if made.without_address:
        found.append(f"  {made.without_address} of them have no address and will fail")
    if made.prepared is None:
        found.append("The prepared-image cache is off: every film is fetched and decoded.")
    else:
        share, low, high = made.prepared.share
        found.append(
            f"{made.prepared.usable} of {made.prepared.looked_up} films looked up have a prepared "
            f"image ({100 * share:.0f} %, {100 * low:.0f} to {100 * high:.0f} %); the others are "
            "fetched and decoded."
        )
    estimate = made.estimate
    if estimate is None:
        found.append("No time can be estimated: too few results. Give --images-per-s.")
    else:
        how = "measured here" if estimate.measured else "given"
        found.append(
            f"{estimate.hours:.2f} hours of work ({estimate.shortest_hours:.2f} to "
            f"{estimate.longest_hours:.2f}) at {estimate.images_per_s:.1f} images/s, {how}"
        )
        if estimate.cost is not None:
            middle, low, high = estimate.cost
            found.append(f"Cost {middle:.2f} ({low:.2f} to {high:.2f})")
    if made.workers == 0:
        found.append(
            "No live worker serves this model: the campaign will wait until "
            "`hilum worker --model PACKAGE` runs."
        )
    for film in made.sample:
        day, view = film["acquisition_date"] or "no date", film["view"] or "no view"
        found.append(f"  for example {film['uri'] or 'no address'} ({day}, {view})")
    return found


def _target(wish: Wish, model: Model) -> Target:
    return Target(tenant=wish.tenant, model_id=model.id, pipeline=pipeline_version())
