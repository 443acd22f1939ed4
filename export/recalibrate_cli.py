"""``hilum recalibrate`` and ``hilum rethreshold``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from hilum import settings
from hilum.errors import ConfigurationError
from hilum.packages.load import Package
from hilum.session import open_package

if TYPE_CHECKING:
    from export.recalibrate import Change
    from trainer.calibration import Rule

_LOCATION = click.argument("location", metavar="PATH|s3://…")
_TO = click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path), help="New package's folder."
)
_VERSION = click.option("--version", required=True, help="Version of the new package.")
_OUTPUTS = click.option(
    "--outputs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Raw outputs with labels (.npz: raw, targets [N, K]).  [default: the package's own]",
)
_RULE = click.option(
    "--rule",
    "rules",
    multiple=True,
    metavar="[LABEL=]RULE",
    help="youden, f1, sensitivity>=0.90, specificity>=0.95 or ppv>=0.30, for one label or all. "
    "Labels without a rule keep theirs.",
)


@click.command()
@_LOCATION
@_TO
@_VERSION
@_OUTPUTS
@click.option(
    "--method",
    type=click.Choice(["platt", "temperature", "none"]),
    default="platt",
    show_default=True,
    help="How to fit the calibration.",
)
@_RULE
@click.option(
    "--prevalence",
    multiple=True,
    metavar="LABEL=P",
    help="Do not fit, but correct LABEL to the prevalence P at the site.",
)
def recalibrate(  # noqa: PLR0917 -- click passes them by name
    location: str,
    target: Path,
    version: str,
    outputs: Path | None,
    method: Literal["platt", "temperature", "none"],
    rules: tuple[str, ...],
    prevalence: tuple[str, ...],
) -> None:
    """Make a new version of a package with another calibration. No film is scored.

    Fits calibration and operating points on the stored validation outputs, or on a site's own
    (--outputs). With --prevalence, calibration and thresholds are shifted for the prevalence of the
    site instead, and findings do not change.
    """
    from export import recalibrate as work  # noqa: PLC0415 - scikit-learn takes a second

    if prevalence and rules:
        raise ConfigurationError(
            "--prevalence and --rule both set thresholds, so they cannot be used together.",
            next_step="Use one of the two, or run the command twice.",
        )
    package = open_package(settings.load(), location)
    found = work.stored_outputs(package, outputs)
    if prevalence:
        change = work.at_prevalence(package, found, _prevalences(prevalence))
    else:
        change = work.fit(package, found, method=method, rules=_rules(package, rules))
    _finish(package, target, version, change)


@click.command()
@_LOCATION
@_TO
@_VERSION
@_OUTPUTS
@_RULE
def rethreshold(
    location: str, target: Path, version: str, outputs: Path | None, rules: tuple[str, ...]
) -> None:
    """Make a new version of a package with other operating points. No film is scored.

    Thresholds are chosen on the stored validation outputs or on --outputs. The calibration stays.
    """
    from export import recalibrate as work  # noqa: PLC0415 - scikit-learn takes a second

    package = open_package(settings.load(), location)
    found = work.stored_outputs(package, outputs)
    calibration = package.manifest.calibration
    change = work.Change(
        calibration=calibration,
        points=work.choose(package, found, calibration, _rules(package, rules)),
        note=f"operating points chosen on {len(found.raw)} films",
        outputs=found,
    )
    _finish(package, target, version, change)


def _finish(package: Package, target: Path, version: str, change: Change) -> None:
    from export import recalibrate as work  # noqa: PLC0415

    manifest = work.write(package, target, version, change)
    click.echo(f"{target}  {manifest.digest}")
    old = package.manifest.operating_points
    for label, point in manifest.operating_points.items():
        figures = "".join(
            f", {name} {value:.3f}"
            for name, value in (
                ("sensitivity", point.sensitivity),
                ("specificity", point.specificity),
            )
            if value is not None
        )
        was = old[label].threshold
        click.echo(f"  {label:<28}{was:.3f} -> {point.threshold:.3f}  {point.rule}{figures}")


def _rules(package: Package, given: tuple[str, ...]) -> dict[str, Rule]:
    from trainer.calibration import Rule  # noqa: PLC0415

    labels = package.manifest.label_set.labels
    found: dict[str, Rule] = {}
    for text in given:
        # In `LABEL=sensitivity>=0.9` the label ends at the first `=` that does not follow a `>`.
        label, equals, rule = text.partition("=")
        if not equals or label.endswith(">"):
            found |= {name: Rule.parse(text) for name in labels if name not in found}
        else:
            found[label] = Rule.parse(rule)
    return found


def _prevalences(given: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in given:
        label, _, value = text.rpartition("=")
        try:
            found[label] = float(value if label else "")
        except ValueError:
            raise ConfigurationError(
                f"--prevalence {text!r} must be LABEL=P, where P is a number.",
                next_step="Give for example Effusion=0.08.",
            ) from None
    return found
