"""Label schemas: the labels of a model's outputs, in their order."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hilum.errors import PackageSchemaError

HeadKind = Literal["multi_label", "multi_class"]


class LabelSchema(BaseModel):
    """A named list of labels; in a manifest, as it stood when the model was exported.

    ``multi_label``: labels are independent (sigmoid). ``multi_class``: labels exclude one another
    (softmax). ``normal`` names the label that means "no finding", if there is one. It gets a
    probability, but is never reported as a finding and has no place on the film.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True
    )

    id: str = Field(alias="schema_id")
    kind: HeadKind
    labels: tuple[str, ...]
    normal: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LabelSchema:
        # Not ValueErrors, so that pydantic does not turn them into a ValidationError.
        if len(set(self.labels)) != len(self.labels) or not self.labels:
            raise PackageSchemaError(f"Label schema {self.id!r} has no labels, or a label twice.")
        if self.normal is not None and self.normal not in self.labels:
            raise PackageSchemaError(f"{self.normal!r} is not a label of schema {self.id!r}.")
        return self

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


_TABLE: Final = tomllib.loads(Path(__file__).with_name("labels.toml").read_text("utf-8"))
SCHEMAS: Final[Mapping[str, LabelSchema]] = MappingProxyType(
    {name: LabelSchema(schema_id=name, **rest) for name, rest in _TABLE.items()}
)
CHESTXRAY14: Final = SCHEMAS["chestxray14-v1"]
CHEXPERT: Final = SCHEMAS["chexpert-v1"]
COVID_TB_PNEUMONIA: Final = SCHEMAS["covid-tb-pneumonia-v1"]
SYNTHETIC: Final = SCHEMAS["synthetic-v1"]


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
