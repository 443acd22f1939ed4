"""``hilum export`` and ``hilum import``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click

from hilum import settings
from hilum.embedded import bundled
from hilum.packages.manifest import PARITY
from hilum.session import open_local_store

_USE = "Not stated by the importer. Not for clinical use until evaluated locally."
_TO = click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="Folder of the package."
)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_TO
@click.option("--name", required=True, help="Name of the model: lower case letters, digits, . _ -")
@click.option("--version", required=True, help="Version of the model.")
@click.option("--intended-use", required=True, help="One or two sentences for manifest and card.")
@click.option("--licence", required=True, help="Licence of the weights.")
@click.option("--data", default="Not described.", help="Origin of the data, for the card.")
@click.option(
    "--precision",
    "wanted",
    default="fp32",
    show_default=True,
    metavar="fp32|fp16|bf16|int8|TARGET=…,…",
    help="One precision for all targets, or cpu=int8,tensorrt=fp16. fp32 is always included.",
)
@click.option(
    "--calibration-films",
    default=128,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of training films on which int8 measures its activations.",
)
@click.option(
    "--calibration-method",
    type=click.Choice(["percentile", "entropy"]),
    default="percentile",
    show_default=True,
    help="How int8 chooses the ranges of its activations.",
)
@click.option("--half", is_flag=True, help="Store the weights as float16, in half the space.")
@click.option(
    "--demonstration-only",
    is_flag=True,
    help='Show "demonstration only, not for clinical use" with every number of the model.',
)
@click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="The data-set table, if it is not where the training configuration says.",
)
def export(
    *,
    checkpoint: Path,
    target: Path,
    wanted: str,
    calibration_films: int,
    calibration_method: Literal["percentile", "entropy"],
    half: bool,
    manifest_path: Path | None,
    **chosen: Any,
) -> None:
    """Make a model package from CHECKPOINT, a folder that `hilum train` wrote.

    The graph is compared with PyTorch. Calibration and thresholds are fitted on the validation
    split, and all figures are measured on the test split, with the exported graph. parity.json says
    how far each graph differs from PyTorch. A precision that loses too much (fp16: |Δp| 0.005,
    int8: AUROC 0.005) is refused.
    """
    # torch takes seconds to import; `hilum export --help` should not.
    from export import precision  # noqa: PLC0415
    from export.package import Identity, Precisions, build  # noqa: PLC0415
    from trainer import checkpoint as checkpoints  # noqa: PLC0415

    precisions = Precisions(
        wanted=precision.parse(wanted), films=calibration_films, method=calibration_method
    )
    found = checkpoints.load(checkpoint)
    config = found.record.config
    start = "random weights" if config.model.weights == "random" else "pretrained weights"
    training = f"`hilum train`, {config.model.backbone} from {start}, {found.record.epoch} epochs."
    identity = Identity(training=training, **chosen)
    configured = settings.load()
    manifest = build(
        found,
        target,
        identity,
        cache_dir=configured.cache_dir / "prepared",
        store=open_local_store(configured),
        weights_dtype="float16" if half else "float32",
        manifest_path=manifest_path,
        precisions=precisions,
    )
    for line in parity_lines(json.loads((target / PARITY).read_text())):
        click.echo(line)
    click.echo(f"{target}  {manifest.digest}")


@click.group(name="import")
def import_() -> None:
    """Make a model package from weights that others have trained."""


@import_.command()
@click.argument("weights", type=click.Path(path_type=Path))
@_TO
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


def parity_lines(document: dict[str, Any]) -> Iterator[str]:
    """Show ``parity.json`` as text for the terminal."""
    yield f"Compared with {document['reference']} on {document['films']} test films:"
    for graph in document["graphs"]:
        text = (
            f"  {graph['precision']:5} {graph['target']:9} {graph['bytes'] / 2**20:6.1f} MB  "
            f"|Δp| max {graph['max_dp']:.2g}, p99 {graph['p99_dp']:.2g}; "
            f"|Δcam| max {graph['max_dcam']:.2g}, p99 {graph['p99_dcam']:.2g}"
        )
        if "auroc_loss_test" in graph:
            macro = graph["auroc_loss_test"]["macro"]
            loss = "–" if macro["loss"] is None else f"{macro['loss']:+.4f}"
            low_high = macro["interval"]
            inside = f" [{low_high[0]:+.4f}, {low_high[1]:+.4f}]" if low_high else ""
            text += f"; AUROC lost {loss}{inside}"
        yield text
