"""From the bytes of one object to what the engine needs of it.

This is the part of the pipeline that touches what strangers send: parsing, policy, decoding,
preprocessing. It runs in a decode process (:mod:`hilum.sandbox`) where films are served, and in
this process where they are one's own (training, tests). Everything that it gives is small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter

from hilum import filmcheck
from hilum.dicom import FilmHeader, open_film
from hilum.errors import DicomError, HilumError, NotApplicableError
from hilum.filmcheck import Doubt
from hilum.imaging import model_input
from hilum.imaging.rendering import preview
from hilum.imaging.transform import Grey, ModelInput, Placement, PreprocessSpec, from_kept
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline import admit as policy
from hilum.sandbox.pool import Decoders
from hilum.sandbox.wire import Message, failure, raised
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]

_HEADER: Final = TypeAdapter(FilmHeader)


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Prepared:
    """One image, ready for the engine."""

    content_sha256: bytes
    header: FilmHeader
    model_input: ModelInput
    flags: tuple[str, ...]  # what the policy let pass with a remark
    preview: Float32Array | None  # [H', W'] in [0, 1], the film made smaller for display


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """One image with all that a policy needs to judge it, whatever the judgement is."""

    content_sha256: bytes
    header: FilmHeader
    # None: its header was enough to refuse it and nothing was decoded, or decoding failed.
    model_input: ModelInput | None
    doubts: tuple[Doubt, ...] = ()  # about its picture
    grey: Grey | None = None  # the intermediate, if it is to be kept
    preview: Float32Array | None = None
    failure: HilumError | None = None  # of decoding; the header is there all the same

    @property
    def kept(self) -> Grey | ModelInput | None:
        """The stage of it that is worth keeping, see :func:`hilum.imaging.model_input.kept`."""
        return self.grey or self.model_input


class Recipe(BaseModel):
    """All that has a say in what becomes of an object; the same for all films of a model."""

    model_config = ConfigDict(frozen=True)

    preprocess: PreprocessSpec
    policy: InputPolicy
    limits: Limits
    preview_side: int | None = None  # keep the film, its long side at most this many pixels
    keep: bool = False  # give the intermediate too, for a cache
    identity: bool = False  # the header says who the film is of, too


Preparer = Callable[[bytes], Prepared]
Examiner = Callable[[bytes], Examined]


def prepare(data: bytes, recipe: Recipe) -> Prepared:
    """Check, decode and preprocess one DICOM object, PNG or JPEG; from any number of threads.

    Raises:
        DicomError: not a usable image; a subclass says why.
        NotApplicableError: an image this model must not score.
    """
    return judged(examine(data, recipe), recipe)


def examine(data: bytes, recipe: Recipe) -> Examined:
    """All of :func:`prepare` but the judgement. What the header is enough to refuse is not decoded.
    What fails after the header was read is in ``failure``.

    Raises:
        DicomError: there is no usable header; a subclass says why.
    """
    opened = open_film(data, recipe.limits, identity=recipe.identity)
    sha256 = hashlib.sha256(data).digest()
    try:
        policy.check(opened.header, recipe.policy)
    except NotApplicableError:
        return Examined(content_sha256=sha256, header=opened.header, model_input=None)
    side = recipe.preview_side
    try:
        kept = model_input.kept(opened, recipe.preprocess)
        # Decoded by itself, so that who looks at it does not change the numbers.
        shown = preview(opened, side) if side else None
    except DicomError as error:
        return Examined(
            content_sha256=sha256, header=opened.header, model_input=None, failure=error
        )
    return _looked_at(sha256, opened.header, kept, recipe, shown=shown)


def recalled(
    content_sha256: bytes, header: FilmHeader, kept: Grey | ModelInput | None, recipe: Recipe
) -> Examined | None:
    """What :func:`examine` gives, from what was kept of the film; ``None``: the film itself is
    needed, because nothing was decoded when it was refused, and now it would not be refused."""
    if kept is not None:
        return _looked_at(content_sha256, header, kept, recipe)
    try:
        policy.check(header, recipe.policy)
    except NotApplicableError:
        return Examined(content_sha256=content_sha256, header=header, model_input=None)
    return None


def judged(examined: Examined, recipe: Recipe) -> Prepared:
    """An image that the model may score.

    Raises:
        NotApplicableError: it must not.
        DicomError: its pixels could not be decoded.
    """
    flags = policy.check(examined.header, recipe.policy)
    if examined.failure is not None:
        raise examined.failure
    assert examined.model_input is not None  # or the line above would have raised
    return Prepared(
        content_sha256=examined.content_sha256,
        header=examined.header,
        model_input=examined.model_input,
        flags=flags + policy.check_pixels(examined.doubts, examined.header, recipe.policy.pixels),
        preview=examined.preview,
    )


def examiner(recipe: Recipe, decoders: Decoders | None) -> Examiner:
    """:func:`examine` in one of ``decoders``, with the errors of
    :meth:`hilum.sandbox.pool.Decoders.ask` beside its own; ``None``: in this process."""
    if decoders is None:
        return partial(examine, recipe=recipe)
    fields = {"task": "prepare", "recipe": recipe.model_dump_json()}
    return lambda data: _unpacked(decoders.ask(Message(fields=fields, arrays=(data,))))


def isolated(recipe: Recipe, decoders: Decoders) -> Preparer:
    """:func:`prepare` in one of ``decoders``, see :func:`examiner`."""
    examined = examiner(recipe, decoders)
    return lambda data: judged(examined(data), recipe)


def answer(request: Message) -> Message:
    """What a decode process does with the request of an :func:`examiner`."""
    (data,) = request.arrays
    assert isinstance(data, bytes)
    return _packed(examine(data, _recipe(request.fields["recipe"])))


def _looked_at(
    content_sha256: bytes,
    header: FilmHeader,
    kept: Grey | ModelInput,
    recipe: Recipe,
    *,
    shown: Float32Array | None = None,
) -> Examined:
    found = from_kept(kept, recipe.preprocess)
    off = recipe.policy.pixels == PixelPolicy.nothing()
    return Examined(
        content_sha256=content_sha256,
        header=header,
        model_input=found,
        doubts=() if off else filmcheck.doubts(found),
        grey=kept if recipe.keep and isinstance(kept, Grey) else None,
        preview=shown,
    )


@lru_cache(maxsize=8)
def _recipe(text: str) -> Recipe:
    return Recipe.model_validate_json(text)


def _packed(examined: Examined) -> Message:
    found, grey = examined.model_input, examined.grey
    fields = {
        "sha256": examined.content_sha256.hex(),
        "header": asdict(examined.header),
        "placement": None if found is None else asdict(found.placement),
        "doubts": [asdict(doubt) for doubt in examined.doubts],
        "grey": None if grey is None else [grey.padded, grey.rows, grey.columns],
        "failure": None if examined.failure is None else failure(examined.failure),
    }
    arrays = (
        None if found is None else found.image,
        None if grey is None else grey.values,
        examined.preview,
    )
    return Message(
        fields={**fields, "preview": examined.preview is not None},
        arrays=tuple(array for array in arrays if array is not None),
    )


def _unpacked(answer: Message) -> Examined:
    fields: dict[str, Any] = answer.fields
    arrays = iter(answer.arrays)
    found: ModelInput | None = None
    if fields["placement"] is not None:
        found = ModelInput(
            image=np.asarray(next(arrays), dtype=np.uint8),
            placement=Placement(**fields["placement"]),
        )
    grey: Grey | None = None
    if fields["grey"] is not None:
        padded, rows, columns = fields["grey"]
        values = np.asarray(next(arrays), dtype=np.uint16)
        grey = Grey(values=values, padded=padded, rows=rows, columns=columns)
    return Examined(
        content_sha256=bytes.fromhex(fields["sha256"]),
        header=_HEADER.validate_python(fields["header"]),
        model_input=found,
        doubts=tuple(Doubt(**doubt) for doubt in fields["doubts"]),
        grey=grey,
        preview=np.asarray(next(arrays), dtype=np.float32) if fields["preview"] else None,
        failure=raised(fields["failure"] or {}),
    )
