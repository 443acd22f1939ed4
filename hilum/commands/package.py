"""``hilum package``: is this model package whole, what is in it, put it in one file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hilum import settings
from hilum.package import Manifest
from hilum.package_io import Package, load, pack
from hilum.storage import open_store


@click.group()
def package() -> None:
    """Verify, inspect and pack model packages."""


@package.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(location: str, as_json: bool) -> None:
    """Check a package as a worker does: digests, manifest, graph, golden outputs.

    Exit 0 if this machine may score with it, 2 with the reason if not.
    """
    from hilum.engines.loading import open_engine  # noqa: PLC0415 - inspect needs no engine

    config = settings.load()
    found = _load(location, config)
    engine = open_engine(found, config)
    if as_json:
        click.echo(json.dumps({"digest": found.digest, "verified": True, "engine": engine.name}))
        return
    manifest = found.manifest
    click.echo(f"{manifest.name} {manifest.version}  {found.digest}")
    click.echo(f"{len(manifest.files)} files, graph and golden outputs verified on {engine.name}.")


@package.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option("--json", "as_json", is_flag=True, help="The manifest with its digest, as JSON.")
def inspect(location: str, as_json: bool) -> None:
    """Show what a package says of itself. Its digests are checked, its graph is not run."""
    found = _load(location, settings.load())
    if as_json:
        document = {"digest": found.digest, **found.manifest.model_dump(mode="json")}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo("\n".join(_lines(found.manifest)))


@package.command(name="pack")
@click.argument("location", metavar="PATH|s3://…")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path), metavar="ARCHIVE.zip")
def pack_command(location: str, archive: Path) -> None:
    """Write a package as one zip archive, the form to put on a web page or in S3."""
    if archive.suffix != ".zip":
        raise click.BadParameter("must end in .zip", param_hint="ARCHIVE.zip")
    if not archive.parent.is_dir():
        raise click.BadParameter("its folder does not exist", param_hint="ARCHIVE.zip")
    found = _load(location, settings.load())
    pack(found, archive)
    click.echo(f"{archive}  {found.digest}")


def _load(location: str, config: settings.Settings) -> Package:
    store = open_store(config.s3, config.limits)
    return load(location, store=store, cache_dir=config.cache_dir)


def _lines(manifest: Manifest) -> list[str]:
    """The manifest for a reader at the terminal."""
    facts = {
        "name": f"{manifest.name} {manifest.version}",
        "digest": manifest.digest,
        "use": manifest.intended_use,
        "licence": manifest.licence,
        "backbone": f"{manifest.backbone}, weights in {manifest.weights_dtype}",
        "input": f"{manifest.input.size} x {manifest.input.size}, {manifest.input.dtype}",
        "maps": f"{manifest.cam_grid[0]} x {manifest.cam_grid[1]}",
        "labels": f"{manifest.label_set.schema_id}, {manifest.label_set.kind}",
        "films": f"{'/'.join(manifest.policy.modalities)}, {'/'.join(manifest.policy.views)}",
        "training data": f"sha256:{manifest.training_data_digest}",
        "code": manifest.code_revision,
    }
    lines = [f"{name + ':':<15}{value}" for name, value in facts.items()]
    if manifest.notice:
        lines.insert(0, f"*** {manifest.notice} ***")
    lines += ["", "label, threshold on calibrated probability, rule"]
    for label in manifest.label_set.labels:
        point = manifest.operating_points[label]
        lines.append(f"  {label:<28}{point.threshold:.3f}  {point.rule}")
    return lines
