"""From the bytes of one object to what the engine needs of it.

This is the part of the pipeline that touches what strangers send: parsing, policy, decoding,
preprocessing. It runs in a decode process (:mod:`hilum.isolation`) where films are served, and in
this process where they are one's own (training, tests). Everything that it gives is small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, TypeAdapter

from hilum import policy, preprocess
from hilum.dicom import FilmHeader, open_film
from hilum.isolation.pool import Decoders
from hilum.isolation.wire import Message
from hilum.model_input import model_input
from hilum.package import InputPolicy
from hilum.preprocess import Placement, PreprocessSpec
from hilum.rendering import preview
from hilum.settings import Limits

Float32Array = npt.NDArray[np.float32]

_HEADER: Final = TypeAdapter(FilmHeader)


@dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no single equality
class Prepared:
    """One image, ready for the engine."""

    content_sha256: bytes
    header: FilmHeader
    model_input: preprocess.ModelInput
    flags: tuple[str, ...]  # what the policy let pass with a remark
    preview: Float32Array | None  # [H', W'] in [0, 1], the film made smaller for display


class Recipe(BaseModel):
    """All that has a say in what becomes of an object; the same for all films of a model."""

    model_config = ConfigDict(frozen=True)

    preprocess: PreprocessSpec
    policy: InputPolicy
    limits: Limits
    preview_side: int | None = None  # keep the film, its long side at most this many pixels


Preparer = Callable[[bytes], Prepared]


def prepare(data: bytes, recipe: Recipe) -> Prepared:
    """Check, decode and preprocess one DICOM object, PNG or JPEG; from any number of threads.

    Raises:
        DicomError: not a usable image; a subclass says why.
        NotApplicableError: an image this model must not score.
    """
    opened = open_film(data, recipe.limits)
    flags = policy.check(opened.header, recipe.policy)
    side = recipe.preview_side
    return Prepared(
        content_sha256=hashlib.sha256(data).digest(),
        header=opened.header,
        model_input=model_input(opened, recipe.preprocess),
        flags=flags,
        # Decoded by itself, so that who looks at it does not change the numbers.
        preview=preview(opened, side) if side else None,
    )


def isolated(recipe: Recipe, decoders: Decoders) -> Preparer:
    """:func:`prepare` in one of ``decoders``; beside its errors there are those of
    :meth:`hilum.isolation.pool.Decoders.ask`."""
    fields = {"task": "prepare", "recipe": recipe.model_dump_json()}
    return lambda data: _unpacked(decoders.ask(Message(fields=fields, arrays=(data,))))


def answer(request: Message) -> Message:
    """What a decode process does with ``isolated``'s request."""
    (data,) = request.arrays
    assert isinstance(data, bytes)
    return _packed(prepare(data, _recipe(request.fields["recipe"])))


@lru_cache(maxsize=8)
def _recipe(text: str) -> Recipe:
    return Recipe.model_validate_json(text)


def _packed(prepared: Prepared) -> Message:
    fields = {
        "sha256": prepared.content_sha256.hex(),
        "header": asdict(prepared.header),
        "placement": asdict(prepared.model_input.placement),
        "flags": prepared.flags,
    }
    shown = () if prepared.preview is None else (prepared.preview,)
    return Message(fields=fields, arrays=(prepared.model_input.image, *shown))


def _unpacked(answer: Message) -> Prepared:
    fields: dict[str, Any] = answer.fields
    image, *shown = answer.arrays
    assert isinstance(image, np.ndarray)
    return Prepared(
        content_sha256=bytes.fromhex(fields["sha256"]),
        header=_HEADER.validate_python(fields["header"]),
        model_input=preprocess.ModelInput(image=image, placement=Placement(**fields["placement"])),
        flags=tuple(fields["flags"]),
        preview=np.asarray(shown[0], dtype=np.float32) if shown else None,
    )
