"""The stages of an image in the pipeline: examined, ready, scored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hilum.dicom import FilmHeader
from hilum.errors import HilumError
from hilum.filmcheck import Doubt
from hilum.finding import Finding
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Grey, ModelInput, Stage
from hilum.packages.manifest import InputPolicy, Manifest
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]


class ExamineOptions(BaseModel):
    """All options that affect an examination. They are the same for all films of a model."""

    model_config = ConfigDict(frozen=True)

    preprocess: PreprocessSpec
    policy: InputPolicy
    limits: Limits
    preview_side: int | None = None  # pixels of the long side of a preview; None: no preview
    keep: bool = False  # return the intermediate too, for a cache
    identity: bool = False  # read from the header who the patient is, too

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        limits: Limits,
        *,
        preview_side: int | None = None,
        keep: bool = False,
        identity: bool = False,
    ) -> ExamineOptions:
        """The options for a model."""
        return cls(
            preprocess=manifest.preprocess,
            policy=manifest.policy,
            limits=limits,
            preview_side=preview_side,
            keep=keep,
            identity=identity,
        )


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Examination:
    """One image with all that a policy needs to decide about it.

    A cache entry is an examination, too: see :meth:`kept`.
    """

    content_sha256: bytes  # of the object
    header: FilmHeader
    # None: not computed, refused by its header, or decoding failed.
    model_input: ModelInput | None = None
    grey: Grey | None = None  # the intermediate, if it is to be kept
    doubts: tuple[Doubt, ...] = ()  # about its picture
    preview: Float32Array | None = None
    failure: HilumError | None = None  # why decoding failed; the header was read all the same

    @property
    def stage(self) -> Stage | None:
        """The stage that a cache keeps; ``None`` if nothing was decoded."""
        return self.grey or self.model_input

    def kept(self) -> Examination:
        """The part that a cache keeps: without what can be computed from the rest, and without the
        patient's identity, which SQL stored when the film was first read."""
        found = self.model_input if self.grey is None else None
        header = replace(self.header, facts=replace(self.header.facts, identity=None))
        return replace(self, header=header, model_input=found, doubts=(), preview=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """One image that the model may score."""

    content_sha256: bytes
    header: FilmHeader
    model_input: ModelInput
    flags: tuple[str, ...]  # what the policy accepted with a remark
    preview: Float32Array | None  # [H', W'] in [0, 1], a smaller film for display


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What a model says about one image of K labels."""

    content_sha256: bytes
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    rows: int
    columns: int
    raw: Float32Array  # [K], the output of the graph
    probability: Float32Array  # [K], calibrated
    findings: tuple[Finding, ...]
    cam: Float32Array  # [K, h, w], >= 0, over the model's square input
    flags: tuple[str, ...]
    preview: Float32Array | None = field(repr=False)
