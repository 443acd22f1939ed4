"""``hilum package``: verify, inspect, compare, sign and pack model packages."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hilum import settings
from hilum.cli import main
from hilum.errors import ConfigurationError
from hilum.files import write_atomically
from hilum.packages import signing
from hilum.packages.diff import differences, same_graphs
from hilum.packages.load import check_signature, pack
from hilum.packages.load import verify as verify_folder
from hilum.packages.manifest import MANIFEST, SIGNATURE, TARGETS, Manifest
from hilum.session import open_package


@click.group()
def package() -> None:
    """Verify, inspect, compare, sign and pack model packages."""


@package.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option(
    "--trusted",
    "--key",
    "trusted",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of allowed signers, or public key. Others' packages are refused.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(location: str, trusted: Path | None, as_json: bool) -> None:
    """Check a package as a worker does: digests, manifest, signature, graph, golden outputs.

    Without --trusted, HILUM_TRUSTED_SIGNERS applies if it is set. Exits with 0 if this machine can
    score with the package, and with 2 and the reason if it cannot.
    """
    from hilum.engines.loading import open_engine  # noqa: PLC0415 - other commands need no engine

    config = settings.load()
    if trusted is not None:
        config = config.model_copy(update={"trusted_signers": trusted})
    found = open_package(config, location)
    signer = check_signature(found, config)
    engine = open_engine(found, config)
    signed = (found.folder / SIGNATURE).is_file()
    if as_json:
        document = {"digest": found.digest, "verified": True, "engine": engine.name}
        document |= {"signed": signed, "signer": signer.name if signer else None}
        click.echo(json.dumps(document))
        return
    manifest = found.manifest
    click.echo(f"{manifest.name} {manifest.version}  {found.digest}")
    click.echo(f"Verified {len(manifest.files)} files, graph and golden outputs on {engine.name}.")
    if signer:
        click.echo(f"Signed by {signer.name}, {signing.fingerprint(signer.key)}.")
    else:
        click.echo(
            "Signed; the signature was not checked (use --trusted)." if signed else "Not signed."
        )


@package.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="OpenSSH private key, Ed25519 (`ssh-keygen -t ed25519`).",
)
@click.option("--ask-password", is_flag=True, help="Ask for the password of the key.")
def sign(folder: Path, key: Path, ask_password: bool) -> None:
    """Sign the package in FOLDER: write manifest.json.sig, as `ssh-keygen -Y sign` does.

    The digests are checked first. The digest of the package does not change. With a key in an agent
    or on a token, use `ssh-keygen -Y sign -n hilum-package -f KEY manifest.json`.
    """
    found = verify_folder(folder)
    password = (
        click.prompt("Password", hide_input=True, err=True).encode() if ask_password else None
    )
    try:
        made = signing.sign((folder / MANIFEST).read_bytes(), key.read_bytes(), password)
        write_atomically(folder / SIGNATURE, made)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be signed: {error.strerror}.") from None
    signed_by = signing.fingerprint(signing.parse(made).key)
    click.echo(f"{folder / SIGNATURE}  {signed_by}  {found.digest}")


@package.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(old: str, new: str, as_json: bool) -> None:
    """Show the differences between two packages: manifest, files, figures.

    OLD and NEW are folders, archives or s3:// addresses. Digests are checked, graphs are not run.
    """
    config = settings.load()
    before, after = open_package(config, old), open_package(config, new)
    found = differences(before, after)
    same = same_graphs(before, after)
    if as_json:
        document = {"old": before.digest, "new": after.digest, "same_graphs": same, **found}
        click.echo(json.dumps(document, indent=2))
        return
    if before.digest == after.digest:
        click.echo(f"The same package: {before.digest}")
        return
    click.echo(f"- {before.manifest.name} {before.manifest.version}  {before.digest}")
    click.echo(f"+ {after.manifest.name} {after.manifest.version}  {after.digest}")
    kept = "stored raw outputs stay valid" if same else "films must be scored again"
    click.echo(f"{'Same graphs' if same else 'Different graphs'}: {kept}.")
    for part in ("manifest", "metrics"):
        for name, (was, is_now) in found[part].items():
            click.echo(f"  {part}: {name}: {_short(was)} -> {_short(is_now)}")
    for what, names in found["files"].items():
        for name in names:
            click.echo(f"  files: {what} {name}")


@package.command()
@click.argument("location", metavar="PATH|s3://…")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest and digest as JSON.")
def inspect(location: str, as_json: bool) -> None:
    """Show the manifest of a package. Its digests are checked, its graph is not run."""
    found = open_package(settings.load(), location)
    if as_json:
        document = {"digest": found.digest, **found.manifest.model_dump(mode="json")}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo("\n".join(_lines(found.manifest)))
    signed = (found.folder / SIGNATURE).is_file()
    click.echo(f"\n{'signed; see `hilum package verify --trusted`' if signed else 'not signed'}")


@package.command(name="pack")
@click.argument("location", metavar="PATH|s3://…")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path), metavar="ARCHIVE.zip")
def pack_command(location: str, archive: Path) -> None:
    """Write a package as one zip archive, for example to publish it or to store it in S3."""
    if archive.suffix != ".zip":
        raise click.BadParameter("must end in .zip", param_hint="ARCHIVE.zip")
    if not archive.parent.is_dir():
        raise click.BadParameter("the folder does not exist", param_hint="ARCHIVE.zip")
    found = open_package(settings.load(), location)
    pack(found, archive)
    click.echo(f"{archive}  {found.digest}")


def _forward(name: str) -> None:
    """Make ``hilum package NAME`` run ``hilum NAME``, with a warning that it was renamed."""

    @package.command(
        name,
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def moved(ctx: click.Context, arguments: tuple[str, ...]) -> None:
        click.echo(f"Use `hilum {name}` instead: `hilum package {name}` will be removed.", err=True)
        command = main.get_command(ctx, name)
        assert command is not None
        command.main([*arguments], prog_name=f"hilum {name}", standalone_mode=False)


for _name in ("recalibrate", "rethreshold"):
    _forward(_name)


def _lines(manifest: Manifest) -> list[str]:
    """The manifest as text for the terminal."""
    facts = {
        "name": f"{manifest.name} {manifest.version}",
        "digest": manifest.digest,
        "use": manifest.intended_use,
        "licence": manifest.licence,
        "backbone": f"{manifest.backbone}, weights in {manifest.weights_dtype}",
        "input": f"{manifest.input.size} x {manifest.input.size}, {manifest.input.dtype}",
        "maps": f"{manifest.cam_grid[0]} x {manifest.cam_grid[1]}",
        "labels": f"{manifest.label_set.id}, {manifest.label_set.kind}",
        "films": f"{'/'.join(manifest.policy.modalities)}, {'/'.join(manifest.policy.views)}",
        "training data": f"sha256:{manifest.training_data_digest}",
        "code": manifest.code_revision,
        "runs as": ", ".join(
            f"{manifest.graph_for(target).precision} on {target}" for target in TARGETS
        ),
    }
    lines = [f"{name + ':':<15}{value}" for name, value in facts.items()]
    if manifest.notice:
        lines.insert(0, f"*** {manifest.notice} ***")
    lines += ["", "label, threshold on the calibrated probability, rule"]
    for label in manifest.label_set.labels:
        point = manifest.operating_points[label]
        lines.append(f"  {label:<28}{point.threshold:.3f}  {point.rule}")
    return lines


def _short(value: object) -> str:
    """The value in one line, or ``–`` if there is none."""
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 100 else text[:99] + "…"
