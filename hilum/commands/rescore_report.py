"""``hilum rescore report``: the comparison of a campaign with what is shown now."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import click

from hilum import settings
from hilum.campaigns import comparing, page
from hilum.campaigns.comparing import Changed, Comparison
from hilum.campaigns.page import Look
from hilum.commands.operating import opened
from hilum.db import results
from hilum.db.campaigns import rows
from hilum.db.connection import Database
from hilum.db.results import StoredResult
from hilum.errors import HilumError, StorageUnavailableError
from hilum.files import write_atomically
from hilum.imaging import rendering
from hilum.packages.registered import manifest_of
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS
from hilum.storage import ObjectStore, open_store

_SIDE: Final = 320  # of a film in the page, pixels


@click.command()
@click.argument("campaign_id", metavar="CAMPAIGN")
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the page here.  [default: CAMPAIGN.html]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="Most pairs; of a larger campaign every n-th film is taken.",
)
@click.option("--films", type=click.IntRange(0, 100), default=12, show_default=True)
@click.option(
    "--no-pixels", is_flag=True, help="Show maps without their films, which are patient data."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and write no page.")
def report(
    *,
    campaign_id: str,
    target: Path | None,
    sample: int,
    films: int,
    no_pixels: bool,
    as_json: bool,
) -> None:
    """Compare the results of CAMPAIGN with what is shown now, and write one HTML page."""
    config = settings.load()
    with opened() as database, Decoders(1, config.limits, tasks=DECODE_TASKS) as decoders:
        with database.read() as connection:
            campaign = rows.get(connection, campaign_id)
            found = comparing.compare(connection, campaign, at_most=sample, films=films)
        if as_json:
            click.echo(json.dumps(found.document))
            return
        store = None if no_pixels else open_store(config.s3, config.limits)
        looks = _Looks(database, found, store, decoders)
        text = page.render(found, looks)
    path = target or Path(f"{campaign_id}.html")
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise StorageUnavailableError(
            f"The page cannot be written: {error.strerror}.", next_step="Check --to."
        ) from None
    click.echo(str(path))


class _Looks:
    """The pictures of films, from their objects and the maps in SQL."""

    def __init__(
        self,
        database: Database,
        comparison: Comparison,
        store: ObjectStore | None,
        decoders: Decoders,
    ) -> None:
        self._database = database
        self._comparison = comparison
        self._store = store
        self._decoders = decoders

    def __call__(self, one: Changed) -> Look:
        before = one.pair.before
        ids = [one.pair.after.result_id] + ([before.result_id] if before else [])
        with self._database.read() as connection:
            found = results.get_many(connection, ids, maps=True)
        data = self._film(one)
        return Look(
            before=self._picture(data, found.get(before.result_id) if before else None, one),
            after=self._picture(data, found.get(one.pair.after.result_id), one),
        )

    def _film(self, one: Changed) -> bytes | None:
        """The object, if it is still the one that was scored."""
        if self._store is None or one.pair.uri is None:
            return None
        try:
            data = self._store.read(one.pair.uri)
        except HilumError:
            return None
        same = hashlib.sha256(data).digest() == one.pair.content_sha256
        return data if same else None

    def _picture(
        self, data: bytes | None, result: StoredResult | None, one: Changed
    ) -> page.Picture:
        if result is None or one.label not in result.model.labels:
            return None
        index = result.model.labels.index(one.label)
        grid = result.cam_of(index)
        if grid is None or data is None:
            return grid
        manifest = manifest_of(result.model)
        heat = rendering.Heat(
            grid=grid,
            probability=float(result.probability[index]),
            input_size=manifest.input.size,
        )
        look = rendering.Look(max_side=_SIDE, caption=manifest.notice)
        try:
            return rendering.render(data, heat, look, decoders=self._decoders)
        except HilumError:
            return grid
