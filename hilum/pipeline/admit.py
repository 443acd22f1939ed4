"""Decide whether a model may score a film: first by the header, before any pixel is read, and then
by the picture that the model would see.

A film whose header contradicts the policy is refused. What the header does not say is flagged or
refused, as the package's policy says. Free text (study and series descriptions) is not used.
:mod:`hilum.filmcheck` looks at the picture; the policy says what follows from its doubts.
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

# The modality of PNG and JPEG files in a policy.
OTHER = "OTHER"
# Field of the header, its DICOM attribute, the terms for it, and the error for another value.
_STATED: Final = (
    ("body_part", "Body Part Examined (0018,0015)", terms.BODY_PARTS, NotChestError),
    ("view", "View Position (0018,5101)", terms.VIEWS, LateralViewError),
)
_LOOKS: Final[dict[Name, tuple[type[NotApplicableError], str]]] = {
    "blank": (BlankFilmError, "The film has fewer than three greys where the model looks."),
    "not_chest": (NotChestError, "The picture looks like no chest film."),
    "not_frontal": (LateralViewError, "The picture looks like a lateral chest film."),
    "inverted": (InvertedFilmError, "The picture looks inverted: bone is dark."),
    "rotated": (RotatedFilmError, "The picture lies on its side or upside down"),
    "mirrored": (MirroredFilmError, "Left and right seem to be exchanged."),
}


def admit(examination: Examination, policy: InputPolicy) -> Ready:
    """Return the image, if the model may score it.

    Raises:
        NotApplicableError: the model must not score it; a subclass says why.
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
    """The flags of a result that surely put its numbers in doubt: ``not_chest``, but not
    ``maybe_not_chest``. They are shown wherever the numbers are."""
    return tuple(flag for flag in flags if flag in _LOOKS)


def warning(flags: Iterable[str]) -> str | None:
    """One line for people about the :func:`sure_doubts`; ``None`` if there are none."""
    found = sure_doubts(flags)
    details = (f"{flag}: {_LOOKS[flag][1].rstrip('.')}." for flag in found)  # type: ignore[index]
    return " ".join(details) if found else None


def check(header: FilmHeader, policy: InputPolicy) -> tuple[str, ...]:
    """Check the header. Returns the flags of every number of this film, such as ``view_unknown``.

    Raises:
        PlainImageError: it is a PNG or JPEG file, and OTHER is not one of ``policy.modalities``.
        WrongModalityError: its modality is not one of ``policy.modalities``.
        MultiFrameError: it has several frames, and the policy does not accept the first.
        NotChestError: it shows another body part, or the policy refuses films that do not say.
        LateralViewError: it shows another view, or the policy refuses films that do not say.
        UnderAgeError: ``policy.under_age`` or ``policy.unknown_age`` refuses it.
        BurnedInError, ForProcessingError: the policy for these refuses it.
    """
    return (
        *header.flags,
        *_kind(header, policy),
        *_stated(header, policy),
        *_age(header, policy),
        *_said(
            bool(header.burned_in),
            policy.burned_in,
            "burned_in_annotation",
            BurnedInError("Burned In Annotation (0028,0301) is YES."),
        ),
        *_said(
            header.for_processing,
            policy.for_processing,
            "for_processing",
            ForProcessingError("Presentation Intent Type (0008,0068) is FOR PROCESSING."),
        ),
    )


def check_pixels(
    found: Iterable[Doubt], header: FilmHeader, policy: PixelPolicy
) -> tuple[str, ...]:
    """Judge the doubts about the picture of a film that passed :func:`check`. Returns a flag for
    each: ``inverted`` if it is sure, else ``maybe_inverted``.

    Raises:
        NotApplicableError: a doubt is sure and the policy refuses it; the subclass names it.
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
        yield "plain_image"
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
        yield "first_frame"


def _stated(header: FilmHeader, policy: InputPolicy) -> Iterable[str]:
    """Compare body part and view with the policy."""
    for field, name, known, error in _STATED:
        value, allowed = getattr(header, field), getattr(policy, f"{field}s")
        if value is None:
            if getattr(policy, f"unknown_{field}") == "refuse":
                raise error(f"{name} is not given.")
            yield f"{field}_unknown"
        elif value not in allowed:
            raise error(f"{name} is {_shown(value, known)}; expected {' or '.join(allowed)}.")


def _age(header: FilmHeader, policy: InputPolicy) -> Iterable[str]:
    """Compare the age with the policy. No text mentions the age or the date of birth."""
    least = policy.min_age_years
    if least is None:
        return ()
    if header.age_years is None:
        error = UnderAgeError(
            f"Patient's Age (0010,1010) is not given and does not follow from dates; the model is "
            f"for {least:g} years and more."
        )
        return _said(True, policy.unknown_age, "age_unknown", error)
    error = UnderAgeError(f"The patient is younger than the {least:g} years the model is made for.")
    return _said(header.age_years < least, policy.under_age, "under_age", error)


def _said(true: bool, action: Action, flag: str, error: NotApplicableError) -> Iterable[str]:
    if not true or action == "off":
        return ()
    if action == "refuse":
        raise error
    return (flag,)


def _shown(value: str | None, terms: frozenset[str]) -> str:
    """Repeat only terms of the standard; any other value may name a patient."""
    if value is None:
        return "missing"
    return value if value in terms else "another value"
