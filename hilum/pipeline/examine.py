"""Examine the bytes of one object: parse, decode and preprocess it, and check its picture.

This part of the pipeline handles untrusted data. For films of others it runs in a decode process
(:mod:`hilum.sandbox`), for one's own films (training, tests) in this process. Its results are
small.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from hilum import filmcheck
from hilum.dicom import open_film
from hilum.errors import DicomError, NotApplicableError
from hilum.imaging.rendering import preview
from hilum.imaging.transform import Grey, decode_to_stage, input_from_stage
from hilum.packages.manifest import PixelPolicy
from hilum.pipeline import admit, codec
from hilum.pipeline.stages import Examination, ExamineOptions
from hilum.sandbox.pool import Decoders
from hilum.sandbox.shared import SharedBytes, mapped
from hilum.sandbox.wire import Message


class Examiner(Protocol):
    """Examines an object, an ``urgent`` one with the decode processes reserved for such."""

    def __call__(self, data: bytes | SharedBytes, *, urgent: bool = False) -> Examination: ...


def examine(data: bytes | memoryview, options: ExamineOptions) -> Examination:
    """Parse, decode and preprocess one DICOM object, PNG or JPEG. Threads may call it at once.

    An object that the policy refuses by its header is not decoded. An error that occurs after the
    header was read is returned as ``failure``.

    Raises:
        DicomError: there is no usable header; a subclass says why.
    """
    opened = open_film(data, options.limits, identity=options.identity)
    known = Examination(content_sha256=hashlib.sha256(data).digest(), header=opened.header)
    if _is_refused(known, options):
        return known
    side = options.preview_side
    try:
        stage = decode_to_stage(opened, options.preprocess)
        # Decoded separately, so that a preview does not change the numbers.
        shown = preview(opened, side) if side else None
    except DicomError as error:
        return replace(known, failure=error)
    decoded = (
        replace(known, grey=stage) if isinstance(stage, Grey) else replace(known, model_input=stage)
    )
    return replace(_look(decoded, options), preview=shown)


def complete(kept: Examination, options: ExamineOptions) -> Examination | None:
    """Complete a cached examination to what :func:`examine` gives. ``None`` if the film itself is
    needed: it was refused before anything was decoded, and is not refused any more."""
    if kept.stage is not None:
        return _look(kept, options)
    return kept if _is_refused(kept, options) else None


def examiner(options: ExamineOptions, decoders: Decoders | None) -> Examiner:
    """Return a function like :func:`examine` that runs in one of ``decoders``, and also raises the
    errors of :meth:`hilum.sandbox.pool.Decoders.ask`. ``None`` runs it in this process."""
    if decoders is None:
        return lambda data, *, urgent=False: examine(_view(data), options)
    fields = {"task": "examine", "options": options.model_dump_json()}

    def ask(data: bytes | SharedBytes, *, urgent: bool = False) -> Examination:
        answer = decoders.ask(Message(fields=fields, arrays=(data,)), urgent=urgent)
        return codec.unpack(answer.fields, answer.arrays)

    return ask


def answer(request: Message) -> Message:
    """Answer the request of an :func:`examiner`, in a decode process."""
    (data,) = request.arrays
    assert isinstance(data, bytes | memoryview)
    fields, arrays = codec.pack(examine(data, _options(request.fields["options"])))
    return Message(fields=fields, arrays=arrays)


def _view(data: bytes | SharedBytes) -> bytes | memoryview:
    if isinstance(data, bytes):
        return data
    sealed = data.sealed()
    return sealed if isinstance(sealed, bytes) else mapped(*sealed)


def _is_refused(known: Examination, options: ExamineOptions) -> bool:
    """Whether the policy refuses it by its header alone."""
    try:
        admit.check(known.header, options.policy)
    except NotApplicableError:
        return True
    return False


def _look(decoded: Examination, options: ExamineOptions) -> Examination:
    """Turn the stage of a film into model input, and check its picture."""
    assert decoded.stage is not None
    found = input_from_stage(decoded.stage, options.preprocess)
    off = options.policy.pixels == PixelPolicy.nothing()
    return replace(
        decoded,
        model_input=found,
        doubts=() if off else filmcheck.doubts(found),
        grey=decoded.grey if options.keep else None,
    )


@lru_cache(maxsize=8)
def _options(text: str) -> ExamineOptions:
    return ExamineOptions.model_validate_json(text)
