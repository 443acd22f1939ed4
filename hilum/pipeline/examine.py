"""From the bytes of one object to all that is known of it.

This is the part of the pipeline that touches what strangers send: parsing, decoding, preprocessing.
It runs in a decode process (:mod:`hilum.sandbox`) where films are served, and in this process where
they are one's own (training, tests). Everything that it gives is small.
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
    """Parse, decode and preprocess one DICOM object, PNG or JPEG; from any number of threads. What
    the header is enough to refuse is not decoded. An error after the header was read is in
    ``failure``.

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
        # Decoded by itself, so that who looks at it does not change the numbers.
        shown = preview(opened, side) if side else None
    except DicomError as error:
        return replace(known, failure=error)
    decoded = (
        replace(known, grey=stage) if isinstance(stage, Grey) else replace(known, model_input=stage)
    )
    return replace(_look(decoded, options), preview=shown)


def complete(kept: Examination, options: ExamineOptions) -> Examination | None:
    """What :func:`examine` gives, from what was kept of it; ``None``: the film itself is needed,
    because nothing was decoded when it was refused, and now it would not be refused."""
    if kept.stage is not None:
        return _look(kept, options)
    return kept if _is_refused(kept, options) else None


def examiner(options: ExamineOptions, decoders: Decoders | None) -> Examiner:
    """:func:`examine` in one of ``decoders``, with the errors of
    :meth:`hilum.sandbox.pool.Decoders.ask` beside its own; ``None``: in this process."""
    if decoders is None:
        return lambda data, *, urgent=False: examine(_view(data), options)
    fields = {"task": "examine", "options": options.model_dump_json()}

    def ask(data: bytes | SharedBytes, *, urgent: bool = False) -> Examination:
        answer = decoders.ask(Message(fields=fields, arrays=(data,)), urgent=urgent)
        return codec.unpack(answer.fields, answer.arrays)

    return ask


def answer(request: Message) -> Message:
    """What a decode process does with the request of an :func:`examiner`."""
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
    """Whether its header is enough to refuse it."""
    try:
        admit.check(known.header, options.policy)
    except NotApplicableError:
        return True
    return False


def _look(decoded: Examination, options: ExamineOptions) -> Examination:
    """Make the model's input of a film's stage, and check its picture."""
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
