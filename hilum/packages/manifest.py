"""The manifest of a model package: everything needed to run, assess and identify a model.

A package holds ``manifest.json``, ``model.onnx``, ``MODEL_CARD.md``, ``metrics.json``,
``golden.npz``, and may hold variants (:class:`Variant`). The manifest holds the sha256 of every
other file. The digest of the package is the sha256 of the manifest's canonical JSON, so it covers
all files. It identifies the model everywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hilum.errors import UnknownBackboneError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import LabelSchema

FORMAT: Final = 1
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
CARD = "MODEL_CARD.md"
METRICS = "metrics.json"
GOLDEN = "golden.npz"
VALIDATION = "validation.npz"  # optional: raw outputs with labels, for recalibration
PARITY = "parity.json"  # optional: differences between each graph and PyTorch
NOTICE: Final = "demonstration only, not for clinical use"
SIGNATURE = "manifest.json.sig"  # optional; not listed in the manifest, which it signs
REQUIRED_FILES = (GRAPH, CARD, METRICS, GOLDEN)

# Side of the Grad-CAM grid of each backbone at its native input size.
BACKBONES = ("alexnet", "resnet18", "resnet50", "resnet152", "inception_v3")

# A relative path with slashes, with no hidden part and no way out of the package.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

_LATER: Final = ("variants",)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Calibration(_Frozen):
    """Platt scaling per label, fitted on the validation split only.
    Multi-label: ``p = sigmoid(scale * logit(p_raw) + shift)``.
    Multi-class: ``p = softmax(scale * log(p_raw) + shift)``."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]


class OperatingPoint(_Frozen):
    """The threshold of one label on the calibrated probability, and the rule it was chosen by."""

    threshold: float = Field(ge=0, le=1)
    rule: str = Field(description="For example `youden`, `sensitivity>=0.90`.")
    sensitivity: float | None = Field(default=None, ge=0, le=1)
    specificity: float | None = Field(default=None, ge=0, le=1)


Precision = Literal["fp32", "fp16", "bf16", "int8"]
Target = Literal["cpu", "tensorrt"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)


class Variant(_Frozen):
    """A graph of the same model in another precision, for one target.

    A target without a variant runs ``model.onnx``. Calibration and operating points are the same.
    A variant is less exact; the export has measured and limited the difference.
    """

    target: Target
    precision: Precision
    graph: str = Field(description="File of the graph. Inputs and outputs are as in model.onnx.")
    golden: str = Field(description="File of the golden outputs of this graph.")
    tolerance: float = Field(gt=0, le=0.2, description="Limit of |Δp| in the golden check.")
    cam_tolerance: float = Field(gt=0, le=0.5, description="Limit of |Δcam| / max(cam).")


Action = Literal["refuse", "flag", "off"]
LookAction = Literal["refuse", "refuse_unless_stated", "flag", "off"]


class PixelPolicy(_Frozen):
    """What follows from each doubt of the film check (:mod:`hilum.filmcheck`).

    ``refuse_unless_stated`` flags if the header contradicts the doubt, and refuses otherwise. A
    doubt that is not sure is only flagged."""

    blank: Action = "refuse"
    not_chest: LookAction = "refuse_unless_stated"
    not_frontal: LookAction = "refuse_unless_stated"
    inverted: Action = "refuse"
    rotated: Action = "refuse"
    mirrored: Literal["flag", "off"] = Field(
        default="flag", description="Never sure, because the heart may lie on the right."
    )

    @classmethod
    def nothing(cls) -> PixelPolicy:
        """A policy that ignores all doubts, for models of other pictures than chest films."""
        off: Literal["off"] = "off"
        return cls(
            blank=off, not_chest=off, not_frontal=off, inverted=off, rotated=off, mirrored=off
        )


class InputPolicy(_Frozen):
    """Which films the model may score, and whether the others are refused or flagged."""

    modalities: tuple[str, ...] = ("CR", "DX", "DR")
    body_parts: tuple[str, ...] = ("CHEST", "THORAX", "LUNG")
    unknown_body_part: Literal["flag", "refuse"] = "flag"
    views: tuple[str, ...] = ("PA", "AP")
    unknown_view: Literal["flag", "refuse"] = "flag"
    min_age_years: float | None = Field(default=None, ge=0, le=120)
    under_age: Literal["flag", "refuse"] = "refuse"
    unknown_age: Action = Field(default="flag", description="Applies if min_age_years is set.")
    burned_in: Action = "flag"
    for_processing: Action = "flag"
    multi_frame: Literal["refuse", "first"] = "refuse"
    pixels: PixelPolicy = PixelPolicy()


class InputSpec(_Frozen):
    """The graph's input ``image``: ``[N, 1, size, size]``."""

    size: int
    dtype: Literal["uint8"] = "uint8"
    max_batch: int = Field(default=16, ge=1)


class Manifest(_Frozen):
    """The content of ``manifest.json``. Unknown keys are refused."""

    format: Literal[1] = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    backbone: str
    label_set: LabelSchema
    input: InputSpec
    cam_grid: tuple[int, int] = Field(description="h, w of the Grad-CAM grid.")
    preprocess: PreprocessSpec
    calibration: Calibration
    operating_points: dict[str, OperatingPoint]
    policy: InputPolicy = InputPolicy()
    demonstration_only: bool = Field(
        description="If true, the notice is shown wherever a number of the model is shown."
    )
    intended_use: str
    licence: str
    training_data_digest: Sha256
    code_revision: str
    opset: int
    weights_dtype: Literal["float32", "float16"]
    golden_tolerance: float = Field(default=1e-3, gt=0, le=0.01)
    variants: tuple[Variant, ...] = ()
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        labels = self.label_set.labels
        if self.backbone not in BACKBONES:
            known = ", ".join(BACKBONES)
            # Not a ValueError, so that pydantic does not turn it into a ValidationError.
            raise UnknownBackboneError(f"Unknown backbone {self.backbone!r}. Known are {known}.")
        if self.preprocess.size != self.input.size:
            raise ValueError("preprocess.size and input.size differ")
        if set(self.operating_points) != set(labels):
            raise ValueError("operating_points must have exactly one entry per label")
        if {len(self.calibration.scale), len(self.calibration.shift)} != {len(labels)}:
            raise ValueError("calibration must have one scale and one shift per label")
        missing = set(REQUIRED_FILES) - set(self.files)
        if missing:
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        if len({variant.target for variant in self.variants}) != len(self.variants):
            raise ValueError("variants must not have two graphs for one target")
        for variant in self.variants:
            if absent := {variant.graph, variant.golden} - set(self.files):
                raise ValueError(f"files lacks {', '.join(sorted(absent))} of a variant")
        if {MANIFEST, SIGNATURE} & set(self.files):
            raise ValueError("files must not list the manifest or its signature")
        for name in self.files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError("files has a file name that is not portable")
        return self

    @property
    def notice(self) -> str | None:
        """The text that must be shown wherever a number of this model is shown, or ``None``."""
        return NOTICE if self.demonstration_only else None

    def graph_for(self, target: Target) -> Variant:
        """The graph for ``target``: its variant, or ``model.onnx`` if it has none."""
        for variant in self.variants:
            if variant.target == target:
                return variant
        return Variant(
            target=target,
            precision="fp32",
            graph=GRAPH,
            golden=GOLDEN,
            tolerance=self.golden_tolerance,
            cam_tolerance=self.golden_tolerance,
        )

    def registration(self) -> dict[str, Any]:
        """The arguments of :func:`hilum.db.models.register` for this model."""
        return {
            "digest": self.digest,
            "preprocess_digest": self.preprocess.digest,
            "manifest": self.model_dump(mode="json"),
        }

    def canonical(self) -> bytes:
        """The bytes whose sha256 is the package's digest."""
        document = self.model_dump(mode="json")
        for name in _LATER:
            # Fields added to format 1 later are left out if they are empty. Otherwise the digests
            # of older packages would change.
            if not document[name]:
                del document[name]
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """The model's identity: ``sha256:<64 hex digits>``."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()
