"""Label schemas: the labels of a model's outputs, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from hilum.errors import PackageSchemaError

HeadKind = Literal["multi_label", "multi_class"]


@dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """A named list of labels.

    ``multi_label``: labels are independent (sigmoid). ``multi_class``: labels exclude one another
    (softmax). ``normal`` names the label that means "no finding", if there is one. It gets a
    probability, but is never reported as a finding and has no place on the film.
    """

    id: str
    kind: HeadKind
    labels: tuple[str, ...]
    normal: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise PackageSchemaError(f"Label schema {self.id!r} has no labels, or a label twice.")
        if self.normal is not None and self.normal not in self.labels:
            raise PackageSchemaError(f"{self.normal!r} is not a label of schema {self.id!r}.")

    def index(self, label: str) -> int:
        """Position of ``label`` in every vector of this schema. Raises ``KeyError`` if absent."""
        try:
            return self.labels.index(label)
        except ValueError:
            raise KeyError(label) from None

    @property
    def findings(self) -> tuple[str, ...]:
        """The labels that can be findings: all but ``normal``."""
        return tuple(label for label in self.labels if label != self.normal)


# Wang et al., CVPR 2017 (ChestX-ray8), extended to 14 findings in the data set's release.
CHESTXRAY14 = LabelSchema(
    id="chestxray14-v1",
    kind="multi_label",
    labels=(
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural_Thickening",
        "Hernia",
    ),
)

# Irvin et al., AAAI 2019.
CHEXPERT = LabelSchema(
    id="chexpert-v1",
    kind="multi_label",
    labels=(
        "No Finding",
        "Enlarged Cardiomediastinum",
        "Cardiomegaly",
        "Lung Opacity",
        "Lung Lesion",
        "Edema",
        "Consolidation",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Pleural Other",
        "Fracture",
        "Support Devices",
    ),
    normal="No Finding",
)

# The combined public data sets of COVID-19, tuberculosis, pneumonia and normal films.
COVID_TB_PNEUMONIA = LabelSchema(
    id="covid-tb-pneumonia-v1",
    kind="multi_class",
    labels=("Normal", "COVID-19", "Tuberculosis", "Pneumonia"),
    normal="Normal",
)

# The synthetic cohort of trainer.synthetic.
SYNTHETIC = LabelSchema(
    id="synthetic-v1",
    kind="multi_label",
    labels=(
        "Cardiomegaly",
        "Effusion",
        "Pneumothorax",
        "Nodule/Mass",
        "Consolidation",
        "No Finding",
    ),
    normal="No Finding",
)

SCHEMAS: Mapping[str, LabelSchema] = MappingProxyType(
    {s.id: s for s in (CHESTXRAY14, CHEXPERT, COVID_TB_PNEUMONIA, SYNTHETIC)}
)


def schema(schema_id: str) -> LabelSchema:
    """Return the built-in schema ``schema_id``.

    Raises:
        PackageSchemaError: the schema does not exist.
    """
    try:
        return SCHEMAS[schema_id]
    except KeyError:
        known = ", ".join(sorted(SCHEMAS))
        raise PackageSchemaError(f"Unknown label schema {schema_id!r}; known: {known}.") from None
