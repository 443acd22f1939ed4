"""The options of ``hilum rescore`` that describe a campaign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from hilum.campaigns.creating import Wish
from hilum.campaigns.windows import Overlap, Window
from hilum.db.campaigns.selection import Mode, Selection
from hilum.errors.validation import problems

C = TypeVar("C", bound=Callable[..., Any])


def wish_options(required: bool) -> Callable[[C], C]:
    """The options that describe a campaign."""
    modes = click.Choice([mode.value for mode in Mode])
    options = [
        click.option("--tenant", required=required, help="Tenant that owns the films."),
        click.option(
            "--model",
            metavar="PATH|s3://…|sha256:…",
            help="Package or digest. Default: the model in force for the tenant, else "
            "HILUM_MODEL_URI.",
        ),
        click.option(
            "--mode",
            "modes",
            multiple=True,
            type=modes,
            help="Which films (repeatable).  [default: missing]",
        ),
        click.option("--code", "codes", multiple=True, help="With --mode refused: only this code."),
        click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First acquisition date."),
        click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last acquisition date."),
        click.option("--site", "sites", multiple=True, help="Institution name."),
        click.option("--view", "views", multiple=True, help="View position, such as PA."),
        click.option("--device", "devices", multiple=True, help="Manufacturer's model name."),
        click.option("--label", "labels", multiple=True, help="Films with this finding."),
        click.option("--oldest-first", is_flag=True, help="Begin with the oldest films."),
    ]
    return _all_of(options)


def run_options(command: C) -> C:
    options = [
        click.option("--name", default="rescore", show_default=True, help="Name of the campaign."),
        click.option("--window", metavar="HH:MM-HH:MM", help="Run only at this time of day."),
        click.option("--days", default="", help="Days on which the window opens: mon,tue,…"),
        click.option("--time-zone", default="UTC", show_default=True, help="Of the window."),
        click.option(
            "--overlap",
            type=click.Choice([each.value for each in Overlap]),
            default=Overlap.SKIP.value,
            show_default=True,
            help="With --if-due, while an earlier campaign of this name is not done.",
        ),
        click.option(
            "--images-per-s", type=click.FloatRange(min=0, min_open=True), help="Throttle."
        ),
        click.option(
            "--nightly",
            is_flag=True,
            help="Create it again at each opening of the window, by `hilum rescore run --if-due`.",
        ),
        click.option(
            "--max-in-flight",
            type=click.IntRange(min=1),
            default=2000,
            show_default=True,
            help="Most images in jobs at the same time.",
        ),
        click.option(
            "--max-failure-rate",
            type=click.FloatRange(0, 1),
            default=0.2,
            show_default=True,
            help="Pause above this share of failures; 1: never.",
        ),
    ]
    return _all_of(options)(command)


def _all_of(options: list[Callable[[C], C]]) -> Callable[[C], C]:
    def decorate(command: C) -> C:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def wish_of(**values: Any) -> Wish:
    """What the options ask for."""
    text = values.get("window")
    window = None
    if text:
        window = Window.parse(
            text,
            time_zone=values["time_zone"],
            days=values["days"],
            overlap=Overlap(values["overlap"]),
        )
    days = {name: values[name].date() for name in ("since", "until") if values[name]}
    names = ("sites", "views", "devices", "labels", "codes")
    try:
        chosen = Selection(
            **days,
            **{name: values[name] for name in names},
            oldest_first=values["oldest_first"],
        )
    except ValidationError as error:
        raise click.UsageError(f"The selection is not valid: {problems(error)}.") from None
    rate = values.get("max_failure_rate", 1.0)
    return Wish(
        tenant=values["tenant"],
        model=values["model"],
        modes=tuple(Mode(mode) for mode in values["modes"]) or (Mode.MISSING,),
        selection=chosen,
        name=values.get("name", "rescore"),
        window=window,
        images_per_s=values.get("images_per_s"),
        max_in_flight=values.get("max_in_flight", 2000),
        max_failure_rate=None if rate >= 1 else rate,
        nightly=values.get("nightly", False),
    )
