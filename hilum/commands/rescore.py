"""``hilum rescore``: campaigns over stored films, and the model in force."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import click

from hilum import settings
from hilum.campaigns import creating, presenting, steps
from hilum.campaigns.creating import Wish
from hilum.campaigns.planning import Plan
from hilum.commands import rescore_model, rescore_report
from hilum.commands.operating import actor, confirm, opened, show
from hilum.commands.rescore_options import run_options, wish_of, wish_options
from hilum.db import models, serving
from hilum.db.campaigns import promotions, rows
from hilum.db.campaigns.promotions import Notify, Promotion
from hilum.db.campaigns.rows import Campaign
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.connection import Connection, Database
from hilum.errors import CampaignExistsError, ModelUnknownError, NothingSelectedError
from hilum.session import open_local_store

_POLL_S: Final = 1.0
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def rescore() -> None:
    """Score stored films again with one model, as a campaign, and put the model in force."""


@rescore.command()
@wish_options(required=True)
@click.option("--images-per-s", type=click.FloatRange(min=0, min_open=True), help="Of all workers.")
@click.option("--cost-per-hour", type=click.FloatRange(min=0), help="Of all workers together.")
@_json
def plan(as_json: bool, images_per_s: float | None, cost_per_hour: float | None, **o: Any) -> None:
    """Show what a campaign would do. Nothing is changed."""
    with opened() as database:
        made = _plan(database, wish_of(**o), images_per_s=images_per_s, cost_per_hour=cost_per_hour)
    show(made.document(addresses=True), creating.lines(made), as_json=as_json)


@rescore.command()
@wish_options(required=True)
@run_options
@_yes
@_json
def create(as_json: bool, yes: bool, **options: Any) -> None:
    """Create a campaign, and freeze its selection. `hilum rescore run` starts it."""
    with opened() as database:
        wish = wish_of(**options)
        if not yes:
            made = _plan(database, wish)
            click.echo("\n".join(creating.lines(made)), err=True)
            confirm(f"Create a campaign over {made.to_score} films?", yes=False)
        campaign = _created(database, wish)
        _show(database, campaign.id, as_json=as_json)


def _created(database: Database, wish: Wish, opened_at: datetime | None = None) -> Campaign:
    """Create the campaign and freeze its selection. An empty one is cancelled at once, unless it is
    nightly: a night without new films is no failure."""
    model = rescore_model.resolve(database, settings.load(), wish)
    campaign_id = creating.create(database, wish, model, actor=actor(), opened_at=opened_at)
    while (campaign := steps.step(database, campaign_id)) is None or campaign.frozen_at is None:
        if campaign is not None:
            click.echo(f"\r{campaign.selected} films selected", nl=False, err=True)
    if campaign.selected == 0 and not wish.nightly:
        error = NothingSelectedError("The selection has no film that the modes ask for.")
        with database.write() as connection:
            rows.set_status(
                connection, campaign_id, CampaignStatus.CANCELLED, actor=actor(), error=error
            )
        raise error
    return campaign


@rescore.command()
@click.argument("campaign_id", metavar="[CAMPAIGN]", required=False)
@wish_options(required=False)
@run_options
@click.option(
    "--if-due",
    is_flag=True,
    help="For a timer: create and start the nightly campaigns that are due, and advance all once. "
    "With --tenant, the one that the options describe is nightly, too.",
)
@click.option("--detach", is_flag=True, help="Start the campaign and return; workers advance it.")
@_json
def run(
    campaign_id: str | None, if_due: bool, detach: bool, as_json: bool, **options: Any
) -> int | None:
    """Start CAMPAIGN, and follow it until it ends or pauses. Exits with 3 unless it completes."""
    with opened() as database:
        if if_due:
            _run_if_due(database, options, as_json=as_json)
            return None
        if campaign_id is None:
            raise click.UsageError("Name a campaign, or give --if-due.")
        campaign = _change(database, campaign_id, CampaignStatus.RUNNING)
        while not detach and campaign.status is CampaignStatus.RUNNING:
            campaign = steps.step(database, campaign_id) or campaign
            if not as_json:
                click.echo(f"\r{campaign.ended}/{campaign.selected} ended", nl=False, err=True)
            time.sleep(_POLL_S)
        _show(database, campaign_id, as_json=as_json)
        return None if detach or campaign.status is CampaignStatus.COMPLETED else 3


def _run_if_due(database: Database, options: dict[str, Any], *, as_json: bool) -> None:
    with database.read() as connection:
        newest = rows.series(connection)
    for one in newest:
        if one.status is CampaignStatus.CREATED and one.frozen_at is not None:
            _change(database, one.id, CampaignStatus.RUNNING)
    wishes = {(one.tenant, one.name): creating.again(one) for one in newest}
    if options["tenant"]:
        wish = replace(wish_of(**options), nightly=bool(options["window"]))
        wishes[wish.tenant, wish.name] = wish
    created = []
    now = datetime.now(UTC)
    for wish in wishes.values():
        if not creating.is_due(database, wish, now=now, actor=actor()):
            continue
        opening = None if wish.window is None else wish.window.opening(now)
        with suppress(CampaignExistsError):  # another process was faster
            created.append(_created(database, wish, opening and opening[0]).id)
            _change(database, created[-1], CampaignStatus.RUNNING)
    advanced = steps.advance(database)
    show(
        {"created": created, "advanced": advanced},
        [f"{len(created)} campaigns created", f"{advanced} campaigns advanced"],
        as_json=as_json,
    )


@rescore.command()
@click.argument("campaign_id", metavar="[CAMPAIGN]", required=False)
@click.option("--tenant", help="List only this tenant's campaigns.")
@_json
def status(campaign_id: str | None, tenant: str | None, as_json: bool) -> None:
    """Show one campaign, or the newest ones."""
    with opened() as database:
        if campaign_id is not None:
            _show(database, campaign_id, as_json=as_json)
            return
        with database.read() as connection:
            found = [
                presenting.status(connection, one)
                for one in rows.listing(connection, tenant=tenant)
            ]
    if as_json:
        click.echo(json.dumps({"campaigns": found}))
        return
    for document in found:
        click.echo("\n".join(presenting.lines(document)))


def _changing(name: str, to: CampaignStatus, help_: str) -> None:
    @rescore.command(name=name, help=help_)
    @click.argument("campaign_id", metavar="CAMPAIGN")
    @_yes
    @_json
    def change(campaign_id: str, yes: bool, as_json: bool) -> None:
        with opened() as database:
            if to is CampaignStatus.CANCELLED:
                with database.read() as connection:
                    found = rows.get(connection, campaign_id)
                left = found.selected - found.ended
                confirm(f"Cancel {found.name}, of which {left} films are not done?", yes=yes)
            _change(database, campaign_id, to)
            _show(database, campaign_id, as_json=as_json)


_changing("pause", CampaignStatus.PAUSED, "Stop CAMPAIGN; jobs that workers hold are finished.")
_changing("resume", CampaignStatus.RUNNING, "Go on with CAMPAIGN where it was paused.")
_changing("cancel", CampaignStatus.CANCELLED, "End CAMPAIGN; its results stay, and are not shown.")
rescore.add_command(rescore_report.report)


@rescore.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.option(
    "--canary",
    "share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Only for this share of the studies.",
)
@click.option("--base", metavar="sha256:…", help="What all others show, for a first canary.")
@click.option("--unfinished", is_flag=True, help="Also if the campaign has not been completed.")
@click.option(
    "--notify",
    "destinations",
    multiple=True,
    metavar="DESTINATION",
    help="Send the studies whose results change to this destination. Default: send nothing.",
)
@click.option("--per-minute", type=click.FloatRange(min=0, min_open=True), default=60.0)
@_yes
@_json
def promote(
    *,
    campaign_id: str,
    share: float | None,
    base: str | None,
    unfinished: bool,
    destinations: tuple[str, ...],
    per_minute: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Put the model of CAMPAIGN in force for its tenant: its results are shown from now on, and new
    studies are scored with it. `rollback` takes this back."""
    notify = Notify(destinations=destinations, per_minute=per_minute) if destinations else None
    with opened() as database:
        with database.read() as connection:
            found = rows.get(connection, campaign_id)
            base_id = None if base is None else _model_of(connection, base)
        of = "all studies" if share is None else f"{100 * share:g} % of the studies"
        confirm(f"Show {found.scored} results to {of} of tenant {found.tenant}?", yes=yes)
        with database.write() as connection:
            made = promotions.promote(
                connection,
                campaign_id,
                actor=actor(),
                share=share,
                base_model_id=base_id,
                notify=notify,
                unfinished=unfinished,
            )
        _show_promotion(database, made, as_json=as_json)


@rescore.command()
@click.option("--tenant", required=True, help="Tenant whose last promotion is taken back.")
@_yes
@_json
def rollback(tenant: str, yes: bool, as_json: bool) -> None:
    """Restore what was in force before the last promotion."""
    with opened() as database:
        confirm(f"Restore what tenant {tenant} showed before its last promotion?", yes=yes)
        with database.write() as connection:
            made = promotions.roll_back(connection, tenant, actor=actor())
        _show_promotion(database, made, as_json=as_json)


def _plan(database: Database, wish: Wish, **options: float | None) -> Plan:
    config = settings.load()
    model = rescore_model.resolve(database, config, wish)
    look_up = rescore_model.cache_of(config, open_local_store(config), model)
    return creating.plan(database, wish, model, look_up=look_up, **options)


def _change(database: Database, campaign_id: str, to: CampaignStatus) -> Campaign:
    with database.write() as connection:
        return rows.set_status(connection, campaign_id, to, actor=actor())


def _show(database: Database, campaign_id: str, *, as_json: bool) -> None:
    with database.read() as connection:
        document = presenting.status(connection, rows.get(connection, campaign_id))
    show(document, presenting.lines(document), as_json=as_json)


def _show_promotion(database: Database, made: Promotion, *, as_json: bool) -> None:
    with database.read() as connection:
        digests = {one.id: one.digest for one in models.listing(connection)}
        now = serving.get(connection, made.tenant)
    in_force = presenting.in_force(now, digests)
    document = {
        "tenant": made.tenant,
        "number": made.number,
        "before": presenting.in_force(made.before, digests),
        "in_force": in_force,
    }
    model = in_force["model"] or "each study's own results"
    canary = in_force["canary"]
    told = f"In force for {made.tenant}: {model}"
    told += f"; canary {canary['model']} for {100 * canary['share']:g} %" if canary else ""
    show(document, [told], as_json=as_json)


def _model_of(connection: Connection, digest: str) -> int:
    for one in models.listing(connection):
        if one.digest == digest:
            return one.id
    raise ModelUnknownError("No model with this digest is registered.")
