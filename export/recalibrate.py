"""Make a new version of a package with another calibration or other operating points.

Both are computed, without inference, from raw outputs that were stored with their labels: the
package's ``validation.npz``, or a site's own results. Graphs and golden outputs do not change, so
raw outputs in SQL stay valid, and new probabilities can be computed from them (decision 0005).

A calibrated probability is correct only at the prevalence of the data it was fitted on. If the
odds of the prevalence at a site are r times as high, the odds of every probability are multiplied
by r (Saerens, Latinne and Decaestecker 2002, equation 4): the calibration is shifted by log r.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export import validation_outputs
from export.errors import OutputsError
from export.validation_outputs import Outputs
from export.writing import replacing
from hilum.errors import ConfigurationError, PackageSchemaError
from hilum.packages.findings import calibrate
from hilum.packages.load import Package, seal
from hilum.packages.manifest import (
    CARD,
    METRICS,
    PARITY,
    VALIDATION,
    Calibration,
    Manifest,
    OperatingPoint,
)
from trainer import calibration as fitting
from trainer import metrics
from trainer.calibration import Method, Rule

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What differs between the new version and the old one."""

    calibration: Calibration
    points: dict[str, OperatingPoint]
    note: str  # a sentence for the card
    outputs: Outputs


def stored_outputs(package: Package, given: Path | None) -> Outputs:
    """Read the raw outputs with labels from ``given``, or from the package.

    Raises:
        OutputsError: there are none, or they belong to another model.
    """
    labels = len(package.manifest.label_set.labels)
    if given is not None:
        try:
            with given.open("rb") as file:
                return validation_outputs.read(file, labels, given.name)
        except OSError as error:
            raise OutputsError(f"{given} cannot be read: {error.strerror}.") from None
    if VALIDATION not in package.manifest.files:
        raise OutputsError(f"The package has no {VALIDATION}.")
    package.read(VALIDATION)  # checks its digest
    with (package.folder / VALIDATION).open("rb") as file:
        return validation_outputs.read(file, labels, VALIDATION)


def fit(package: Package, outputs: Outputs, *, method: Method, rules: Mapping[str, Rule]) -> Change:
    """Fit calibration and operating points on ``outputs``."""
    kind = package.manifest.label_set.kind
    found = fitting.fit(outputs.raw, outputs.targets, kind, method)
    return Change(
        calibration=found,
        points=choose(package, outputs, found, rules),
        note=f"calibration ({method}) and operating points fitted on {len(outputs.raw)} films",
        outputs=outputs,
    )


def at_prevalence(package: Package, outputs: Outputs, prevalence: Mapping[str, float]) -> Change:
    """Correct the calibration of some labels from the prevalence in ``outputs`` to ``prevalence``.

    Their thresholds are shifted too, so that the findings, and with them sensitivity and
    specificity, stay the same.

    Raises:
        ConfigurationError: the model does not have a label, a prevalence is not between 0 and 1,
            or the labels exclude one another.
        OutputsError: the prevalence in ``outputs`` is 0, 1 or unknown.
    """
    manifest = package.manifest
    labels = manifest.label_set.labels
    if manifest.label_set.kind != "multi_label":
        raise ConfigurationError("--prevalence cannot be used if labels exclude one another.")
    scale, shift = manifest.calibration.scale, [*manifest.calibration.shift]
    moved: dict[int, float] = {}
    for label, wanted in prevalence.items():
        k = _index(label, labels)
        if not 0 < wanted < 1:
            raise ConfigurationError(
                f"The prevalence {wanted:g} of {label} is not between 0 and 1."
            )
        known = outputs.targets[:, k][~np.isnan(outputs.targets[:, k])]
        so_far = float(known.mean()) if len(known) else 0.0
        if not 0 < so_far < 1:
            raise OutputsError(f"The outputs have no positive or no negative film for {label}.")
        moved[k] = _logit(wanted) - _logit(so_far)
        shift[k] += moved[k]
    corrected = Calibration(scale=scale, shift=tuple(shift))
    before = calibrate(outputs.raw, manifest.calibration, "multi_label")
    after = calibrate(outputs.raw, corrected, "multi_label")
    points = dict(manifest.operating_points)
    for k, by in moved.items():
        point = points[labels[k]]
        if 0 < point.threshold < 1:
            raised = 1 / (1 + math.exp(-(_logit(point.threshold) + by)))
            # A threshold is the probability of a film. Rounding must not change its finding.
            called = after[:, k][before[:, k] >= point.threshold]
            lowest = min(raised, float(called.min(initial=1.0)))
            points[labels[k]] = point.model_copy(update={"threshold": lowest})
    text = ", ".join(f"{label} {value:g}" for label, value in prevalence.items())
    return Change(
        calibration=corrected,
        points=points,
        note=f"calibrated to the prevalence {text}",
        outputs=outputs,
    )


def choose(
    package: Package, outputs: Outputs, calibration: Calibration, rules: Mapping[str, Rule]
) -> dict[str, OperatingPoint]:
    """Choose operating points on ``outputs``, by ``rules`` or else by the present rule of a label.

    Raises:
        ConfigurationError: the model does not have a label of ``rules``.
    """
    manifest = package.manifest
    labels = manifest.label_set.labels
    for label in rules:
        _index(label, labels)
    probability = calibrate(outputs.raw, calibration, manifest.label_set.kind)
    points = {}
    for k, label in enumerate(labels):
        rule = rules.get(label) or _rule_of(manifest.operating_points[label])
        points[label] = fitting.operating_point(outputs.targets[:, k], probability[:, k], rule)
    return points


def write(package: Package, target: Path, version: str, change: Change) -> Manifest:
    """Write the new version to the folder ``target``, completely or not at all.

    Raises:
        ConfigurationError: ``package`` already has this version, or ``target`` is not empty.
        PackageSchemaError: ``parity.json`` is not as an export writes it.
        WriteError: the disk is full, or ``target`` cannot be written.
    """
    manifest = package.manifest
    if version == manifest.version:
        raise ConfigurationError(
            f"The package already has version {version}.", next_step="Give another --version."
        )
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty.", next_step="Choose another folder.")
    with replacing(target) as folder:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name not in (CARD, METRICS, PARITY, VALIDATION):
                shutil.copyfile(package.folder / name, folder / name)
        (folder / CARD).write_text(_card(package, version, change))
        if PARITY in manifest.files:
            (folder / PARITY).write_text(json.dumps(_parity(package), indent=2) + "\n")
        figures = _figures(package, change)
        (folder / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
        outputs = change.outputs
        validation_outputs.write(
            folder / VALIDATION,
            raw=outputs.raw,
            targets=outputs.targets,
            patients=outputs.patients.tolist(),
        )
        fields = {name: getattr(manifest, name) for name in Manifest.model_fields}
        del fields["files"], fields["format"]
        changed = {
            "version": version,
            "calibration": change.calibration,
            "operating_points": change.points,
        }
        return seal(folder, **{**fields, **changed})


def _card(package: Package, version: str, change: Change) -> str:
    """The card of the old version under the new title, with its figures marked as outdated."""
    manifest = package.manifest
    card = package.read(CARD).decode("utf-8", "replace").rstrip()
    first, _, rest = card.partition("\n")
    body = rest if first.startswith("# ") else card
    stale = (
        f"## Figures of version {manifest.version}\n\n"
        f"**Not for this version**: the sensitivities, specificities and calibration errors below "
        f"were measured with the calibration and thresholds of {manifest.version}. {METRICS} has "
        f"the figures of this version on the outputs it was fitted on."
    )
    body = re.sub(r"^## Figures[ \t]*$", lambda _: stale, body, count=1, flags=re.MULTILINE)
    note = f"Version {version}, from {package.digest}: {change.note}."
    return f"# {manifest.name} {version}\n\n{body.strip()}\n\n## {version}\n\n{note}\n"


def _parity(package: Package) -> dict[str, Any]:
    """``parity.json`` without the counts of changed decisions, which used the old thresholds."""
    try:
        document: dict[str, Any] = json.loads(package.read(PARITY))
        for graph in document["graphs"]:
            for stale in ("decisions_changed", "decisions"):
                graph.pop(stale, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PackageSchemaError(f"{PARITY} does not have the format of an export.") from None
    return document


def _figures(package: Package, change: Change) -> dict[str, Any]:
    """``metrics.json`` with the figures of the new calibration and thresholds on the outputs used.
    The figures on the test split are left out, because the old calibration gave them."""
    manifest, outputs = package.manifest, change.outputs
    probability = calibrate(outputs.raw, change.calibration, manifest.label_set.kind)
    labels = {}
    for k, label in enumerate(manifest.label_set.labels):
        target, point = outputs.targets[:, k], change.points[label]
        called = probability[:, k] >= point.threshold
        positive, negative = target == 1, target == 0
        labels[label] = {
            "images": int((~np.isnan(target)).sum()),
            "positives": int(positive.sum()),
            "auroc": metrics.auroc(target, probability[:, k]),
            "ece": metrics.calibration_error(target, probability[:, k]),
            "brier": metrics.brier(target, probability[:, k]),
            "threshold": point.threshold,
            "sensitivity": float(called[positive].mean()) if positive.any() else None,
            "specificity": float((~called[negative]).mean()) if negative.any() else None,
        }
    return {
        "notice": manifest.notice,
        "recalibrated_from": package.digest,
        "what": change.note,
        "outputs": {"images": len(outputs.raw), "labels": labels},
    }


def _rule_of(point: OperatingPoint) -> Rule:
    """The rule that ``point`` was chosen by, or Youden's if it has none (such as `fixed`)."""
    try:
        return Rule.parse(point.rule.partition(":")[0])
    except ConfigurationError:
        return fitting.YOUDEN


def _index(label: str, labels: tuple[str, ...]) -> int:
    if label not in labels:
        raise ConfigurationError(
            f"The model has no label {label!r}.", next_step=f"Its labels are {', '.join(labels)}."
        )
    return labels.index(label)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
