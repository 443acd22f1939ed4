"""Write MODEL_CARD.md, from the same figures as metrics.json."""

from __future__ import annotations

from typing import Any

from hilum.packages.manifest import Manifest


def write(manifest: Manifest, test: dict[str, Any], *, data: str, training: str) -> str:
    """Return the text of the card.

    Args:
        manifest: the manifest of the package, or of its draft.
        test: the report on the test split, see :func:`trainer.evaluation.assess.assess`.
        data: a paragraph on where the data comes from.
        training: a paragraph on how the model was trained.
    """
    notice = f"> **{manifest.notice}**\n\n" if manifest.notice else ""
    rows = "\n".join(_row(label, figures) for label, figures in test["labels"].items())
    macro = test["macro"]
    return f"""\
# {manifest.name} {manifest.version}

{notice}{manifest.intended_use}

| | |
|---|---|
| backbone | {manifest.backbone}, input {manifest.input.size}×{manifest.input.size}, \
Grad-CAM grid {manifest.cam_grid[0]}×{manifest.cam_grid[1]} |
| labels | {manifest.label_set.schema_id} ({manifest.label_set.kind}) |
| weights stored as | {manifest.weights_dtype}; all arithmetic is float32 |
| licence | {manifest.licence} |
| training data | sha256 of the data-set table: `{manifest.training_data_digest}` |
| code | `{manifest.code_revision}` |

## Data

{data}

## Training

{training}

## Figures

On the test split ({test["images"]} films of {test["patients"]} patients, none of whom is in
training or validation), measured with ONNX Runtime on the graph of this package. Calibration and
thresholds come from the validation split only. *Pointing* is the share of findings where the map's
maximum lies in the box; *centre* is that share for a map that always points at the centre.

| label | positives | AUROC | AP | ECE | sens. | spec. | pointing | centre |
|---|---|---|---|---|---|---|---|---|
{rows}
| **macro over findings** | | **{_f(macro["auroc"])}** | {_f(macro["average_precision"])} | \
{_f(macro["ece"])} | | | **{_f(macro["pointing_game"])}** | {_f(macro["pointing_centre"])} |

## Limits

- A probability is valid for films like those of the training data. These figures do not say how the
  model performs on other machines, populations or findings.
- A Grad-CAM map shows which parts of the film raised the probability, coarsely \
({manifest.cam_grid[0]}×\
{manifest.cam_grid[1]} cells). It is neither a segmentation nor a proof.
- The policy refuses modalities other than {", ".join(manifest.policy.modalities)}, body parts
  other than {", ".join(manifest.policy.body_parts)}, and views other than \
{", ".join(manifest.policy.views)}.
"""


def _row(label: str, figures: dict[str, Any]) -> str:
    cells = [label, str(figures["positives"])]
    names = ("auroc", "average_precision", "ece", "sensitivity", "specificity")
    cells += [_f(figures[name]) for name in names]
    cells += [_f(figures["pointing_game"]), _f(figures["pointing_centre"])]
    return f"| {' | '.join(cells)} |"


def _f(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
