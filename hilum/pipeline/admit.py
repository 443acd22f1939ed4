"""May this model be asked about this film? First from the header, before any pixel is read; then
from the picture that the model would see.

What the header says to be something else is refused; what it does not say is flagged or refused,
as the package's policy has it. Free text (study and series descriptions) has no say. What the
picture looks like is :mod:`hilum.filmcheck`'s to find and the policy's to judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hilum.dicom import FilmHeader, terms
from hilum.errors import (
    BlankFilmError,
    BurnedInError,
    ForProcessingError,
    InvertedFilmError,
    LateralViewError,
    MirroredFilmError,
    MultiFrameError,
    NotApplicableError,
    NotChestError,
    PlainImageError,
    RotatedFilmError,
    UnderAgeError,
    WrongModalityError,
)
from hilum.filmcheck import Doubt, Name
from hilum.packages.manifest import Action, InputPolicy, LookAction, PixelPolicy
from hilum.pipeline.stages import Examination, Ready

BODY_PART_UNKNOWN = "body_part_unknown"
VIEW_UNKNOWN = "view_unknown"
PLAIN_IMAGE = "plain_image"
FIRST_FRAME = "first_frame"
UNDER_AGE = "under_age"
AGE_UNKNOWN = "age_unknown"
BURNED_IN = "burned_in_annotation"
FOR_PROCESSING = "for_processing"
# What stands for PNG and JPEG files among a policy's modalities.
OTHER = "OTHER"

_LOOKS: Final[dict[Name, tuple[type[NotApplicableError], str]]] = {
    "blank": (BlankFilmError, "The film has fewer than three greys where the model looks."),
    "not_chest": (NotChestError, "The picture looks like no chest film."),
    "not_frontal": (LateralViewError, "The picture looks like a lateral chest film."),
    "inverted": (InvertedFilmError, "The picture looks inverted: bone is dark."),
    "rotated": (RotatedFilmError, "The picture lies on its side or upside down"),
    "mirrored": (MirroredFilmError, "Left and right seem to be exchanged."),
}


def admit(examination: Examination, policy: InputPolicy) -> Ready:
    """The image, which the model may score.

    Raises:
        NotApplicableError: it must not; a subclass says why.
        DicomError: its pixels could not be decoded.
    """
    flags = check(examination.header, policy)
    if examination.failure is not None:
        raise examination.failure
    assert examination.model_input is not None  # or the line above would have raised
    return Ready(
        content_sha256=examination.content_sha256,
        header=examination.header,
        model_input=examination.model_input,
        flags=flags + check_pixels(examination.doubts, examination.header, policy.pixels),
        preview=examination.preview,
    )


def sure_doubts(flags: Iterable[str]) -> tuple[str, ...]:
    """Those of a result's ``flags`` that put its numbers in doubt for sure: ``not_chest``, but
    not ``maybe_not_chest``. They are shown beside the numbers, wherever these are."""
    return tuple(flag for flag in flags if flag in _LOOKS)


def warning(flags: Iterable[str]) -> str | None:
    """One line for people about :func:`sure_doubts`; ``None`` if there are none."""
    found = sure_doubts(flags)
    details = (f"{flag}: {_LOOKS[flag][1].rstrip('.')}." for flag in found)  # type: ignore[index]
    return " ".join(details) if found else None


def check(header: FilmHeader, policy: InputPolicy) -> tuple[str, ...]:
    """The flags that belong to every number of this film, such as ``view_unknown``.

    Raises:
        PlainImageError: a PNG or JPEG file, and OTHER is not one of ``policy.modalities``.
        WrongModalityError: not one of ``policy.modalities``.
        MultiFrameError: several frames, and the policy does not take the first.
        NotChestError: another body part, or none is given and the policy refuses that.
        LateralViewError: another view, or none is given and the policy refuses that.
        UnderAgeError: as ``policy.under_age`` and ``policy.unknown_age`` have it.
        BurnedInError, ForProcessingError: as their policies have it.
    """
    return (
        *header.flags,
        *_kind(header, policy),
        *_part(header, policy),
        *_age(header, policy),
        *_said(
            bool(header.burned_in),
            policy.burned_in,
            BURNED_IN,
            BurnedInError("Burned In Annotation (0028,0301) is YES."),
        ),
        *_said(
            header.for_processing,
            policy.for_processing,
            FOR_PROCESSING,
            ForProcessingError("Presentation Intent Type (0008,0068) is FOR PROCESSING."),
        ),
    )


def check_pixels(
    found: Iterable[Doubt], header: FilmHeader, policy: PixelPolicy
) -> tuple[str, ...]:
    """The flags for what is wrong with the picture of a film that passed :func:`check`:
    ``inverted`` if that is sure, else ``maybe_inverted``.

    Raises:
        NotApplicableError: a subclass for what is sure and to be refused.
    """
    flags = []
    for doubt in found:
        action: LookAction = getattr(policy, doubt.name)
        if action == "off":
            continue
        if action == "refuse_unless_stated":
            stated = header.body_part if doubt.name == "not_chest" else header.view
            action = "refuse" if stated is None else "flag"
        if action == "refuse" and doubt.sure:
            kind, detail = _LOOKS[doubt.name]
            raise kind(f"{detail}, by {doubt.turn} degrees." if doubt.turn else detail)
        flags.append(doubt.name if doubt.sure else f"maybe_{doubt.name}")
    return tuple(flags)


def _kind(header: FilmHeader, policy: InputPolicy) -> Iterable[str]:
    if header.picture is not None:
        if OTHER not in policy.modalities:
            raise PlainImageError(
                f"This is a {header.picture.upper()} file; expected a DICOM object of modality "
                f"{' or '.join(policy.modalities)}."
            )
        yield PLAIN_IMAGE
    elif header.modality not in policy.modalities:
        raise WrongModalityError(
            f"Modality (0008,0060) is {_shown(header.modality, terms.MODALITIES)}; "
            f"expected {' or '.join(policy.modalities)}."
        )
    if header.frames > 1:
        if policy.multi_frame == "refuse":
            raise MultiFrameError(
                f"Number of Frames (0028,0008) is {header.frames}; expected a single frame."
            )
        yield FIRST_FRAME


def _part(header: FilmHeader, policy: InputPolicy) -> Iterable[str]:
    if header.body_part is None:
        if policy.unknown_body_part == "refuse":
            raise NotChestError("Body Part Examined (0018,0015) is not given.")
        yield BODY_PART_UNKNOWN
    elif header.body_part not in policy.body_parts:
        raise NotChestError(
            f"Body Part Examined (0018,0015) is {_shown(header.body_part, terms.BODY_PARTS)}; "
            f"expected {' or '.join(policy.body_parts)}."
        )
    if header.view is None:
        if policy.unknown_view == "refuse":
            raise LateralViewError("View Position (0018,5101) is not given.")
        yield VIEW_UNKNOWN
    elif header.view not in policy.views:
        raise LateralViewError(
            f"View Position (0018,5101) is {_shown(header.view, terms.VIEWS)}; "
            f"expected {' or '.join(policy.views)}."
        )


def _age(header: FilmHeader, policy: InputPolicy) -> Iterable[str]:
    """Neither the age nor the date of birth goes into a text."""
    least = policy.min_age_years
    if least is None:
        return ()
    if header.age_years is None:
        error = UnderAgeError(
            f"Patient's Age (0010,1010) is not given and does not follow from dates; the model is "
            f"for {least:g} years and more."
        )
        return _said(True, policy.unknown_age, AGE_UNKNOWN, error)
    error = UnderAgeError(f"The patient is younger than the {least:g} years the model is made for.")
    return _said(header.age_years < least, policy.under_age, UNDER_AGE, error)


def _said(true: bool, action: Action, flag: str, error: NotApplicableError) -> Iterable[str]:
    if not true or action == "off":
        return ()
    if action == "refuse":
        raise error
    return (flag,)


def _shown(value: str | None, terms: frozenset[str]) -> str:
    """A word of the standard is safe to repeat; anything else in its place may name a patient."""
    if value is None:
        return "missing"
    return value if value in terms else "another value"
