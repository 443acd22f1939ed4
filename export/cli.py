"""``hilum export``."""

from __future__ import annotations

from pathlib import Path

import click

from hilum import settings


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="Folder of the package."
)
@click.option("--name", required=True, help="Of the model: lower case letters, digits, . _ -")
@click.option("--version", required=True, help="Of the model.")
@click.option("--intended-use", required=True, help="One or two sentences for manifest and card.")
@click.option("--licence", required=True, help="Of the weights.")
@click.option("--data", default="Not described.", help="Where the data comes from, for the card.")
@click.option("--half", is_flag=True, help="Store the weights as float16: half the size.")
@click.option(
    "--demonstration-only",
    is_flag=True,
    help="Show «demonstration only, not for clinical use» wherever a number of it is shown.",
)
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="The data set, if it is no longer where the training configuration says.",
)
def export(  # noqa: PLR0917 -- click passes them by name
    checkpoint: Path,
    target: Path,
    name: str,
    version: str,
    intended_use: str,
    licence: str,
    data: str,
    half: bool,
    demonstration_only: bool,
    manifest_path: Path | None,
) -> None:
    """Make a model package of CHECKPOINT, a folder that `hilum train` wrote.

    The graph is checked against PyTorch; calibration and thresholds are fitted on the validation
    split and all figures measured on the test split, with the exported graph.
    """
    # torch takes seconds to import; `hilum export --help` should not.
    from export.package import Identity, build  # noqa: PLC0415
    from trainer import checkpoint as checkpoints  # noqa: PLC0415

    found = checkpoints.load(checkpoint)
    config = found.record.config
    identity = Identity(
        name=name,
        version=version,
        intended_use=intended_use,
        licence=licence,
        demonstration_only=demonstration_only,
        data=data,
        training=describe(config.model.backbone, config.model.weights, found.record.epoch),
    )
    manifest = build(
        found,
        target,
        identity,
        cache_dir=settings.load().cache_dir / "prepared",
        weights_dtype="float16" if half else "float32",
        manifest_path=manifest_path,
    )
    click.echo(f"{target}  {manifest.digest}")


def describe(backbone: str, weights: str, epoch: int) -> str:
    """A sentence on the training, for the card."""
    start = "random weights" if weights == "random" else "pretrained weights"
    return f"`hilum train`, {backbone} from {start}, {epoch} epochs."
