"""``hilum import``: make packages from models that others have trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hilum.embedded import bundled

_USE = "Not stated by the importer. Not for clinical use until evaluated locally."


@click.group(name="import")
def import_() -> None:
    """Make a model package from weights that others have trained."""


@import_.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="Folder of the package."
)
@click.option("--name", default="torchxrayvision-resnet50-512", show_default=True)
@click.option("--version", default="1.5.7", show_default=True, help="Version of the package.")
@click.option("--intended-use", default=_USE, help="One or two sentences for manifest and card.")
@click.option("--licence", help="Licence of the weights.  [default: torchxrayvision's]")
@click.option(
    "--films",
    type=click.Path(path_type=Path),
    help="A film or a folder of films, for the golden outputs.  "
    "[default: those that come with hilum]",
)
def xrv(
    *, weights: Path, target: Path, licence: str | None, films: Path | None, **chosen: Any
) -> None:
    """Import torchxrayvision's resnet50-res512-all from the file WEIGHTS.

    Download the file first; torchxrayvision's documentation says where. The package has sixteen
    labels with torchxrayvision's operating points and Grad-CAM maps, and an input of 512 px.
    """
    from export import package  # noqa: PLC0415 -- torch takes seconds to import
    from export import xrv as importing  # noqa: PLC0415

    identity = package.Identity(licence=licence or importing.LICENCE, **chosen)
    manifest = importing.build(weights, target, identity, films=films or bundled.folder("samples"))
    click.echo(f"{target}  {manifest.digest}")
