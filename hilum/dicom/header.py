"""The header of a DICOM image: what hilum needs to know before and after it decodes the pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.uid import UID

from hilum.dicom import facts, terms
from hilum.dicom.facts import Facts
from hilum.dicom.syntaxes import NATIVE
from hilum.errors import (
    DicomError,
    InconsistentPixelsError,
    LimitExceededError,
    UnsupportedPixelsError,
)
from hilum.settings import Limits

_UID: Final = re.compile(r"[0-9.]{1,64}")

GREY: Final = {"MONOCHROME1", "MONOCHROME2"}
PALETTE: Final = "PALETTE COLOR"
# Three samples a pixel (PS3.3 C.7.6.3.1.2). The transformed ones exist only in codestreams, whose
# decoders give RGB. The partial ones are for video, and decoders do not know their range.
_COLOUR: Final = {"RGB", "YBR_FULL", "YBR_FULL_422"}
_COLOUR_ENCODED: Final = {"YBR_ICT", "YBR_RCT"}

COLOUR_CAPTURE: Final = "colour_capture"


@dataclass(frozen=True, kw_only=True)
class FilmHeader:
    """The header of one image. Its repr shows neither UIDs nor what the sender wrote as text."""

    # Empty or None if it is not given, as in a plain file.
    sop_instance_uid: str = field(default="", repr=False)
    series_instance_uid: str = field(default="", repr=False)
    study_instance_uid: str = field(default="", repr=False)
    sop_class_uid: str = field(default="", repr=False)
    transfer_syntax: str = field(default="", repr=False)
    modality: str | None = field(default=None, repr=False)  # (0008,0060)
    # (0018,0015), else from (0008,2218), and (0018,5101), else from (0054,0220); upper case
    body_part: str | None = field(default=None, repr=False)
    view: str | None = field(default=None, repr=False)
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    samples: int = 1  # a pixel: 1, or 3 of a colour capture
    planar: bool = False  # samples one after the other, not interleaved
    picture: Literal["png", "jpeg"] | None = None  # a plain file, no DICOM object
    frames: int = 1  # the first is read
    age_years: float | None = field(default=None, repr=False)  # of the patient, when it was taken
    burned_in: bool | None = None  # (0028,0301); None: not said
    for_processing: bool = False  # (0008,0068): the raw film
    facts: Facts = field(default=Facts(), repr=False)  # they do not affect the pixels
    flags: tuple[str, ...] = ()  # notes that go with every number of this film


def read(dataset: Dataset, syntax: UID, limits: Limits, *, identity: bool = False) -> FilmHeader:
    """Check the header of an image, before any pixel is decoded. With ``identity`` it says who the
    patient is, too.

    Raises:
        UnsupportedPixelsError: an image, but not one of integers of 8, 16 or 32 bits in a
            photometric interpretation that hilum reads.
        InconsistentPixelsError: attributes of the image pixel module contradict each other
            (PS3.3 C.7.6.3).
        LimitExceededError: Rows × Columns is above ``limits.max_pixels``.
        DicomError: there is no usable SOPInstanceUID.
    """
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    check_size(rows, columns, limits)
    frames = _number(dataset, "NumberOfFrames", default=1) or 1  # 0 in many objects with one frame
    if frames < 1:
        raise InconsistentPixelsError(f"Number of Frames (0028,0008) is {frames}.")
    samples = _number(dataset, "SamplesPerPixel", default=1)
    photometric = _photometric(dataset, samples, encapsulated=syntax not in NATIVE)
    allocated = _number(dataset, "BitsAllocated")
    stored = _number(dataset, "BitsStored", default=allocated)
    high = _number(dataset, "HighBit", default=stored - 1)
    if allocated not in {8, 16, 32}:
        raise UnsupportedPixelsError(
            f"Bits Allocated (0028,0100) is {allocated}; expected 8, 16 or 32."
        )
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise InconsistentPixelsError(
            f"Bits Stored (0028,0101) {stored} and High Bit (0028,0102) {high} do not fit "
            f"Bits Allocated (0028,0100) {allocated}."
        )
    signed = _number(dataset, "PixelRepresentation", default=0) == 1
    if signed and samples == 3:
        raise InconsistentPixelsError("Pixel Representation (0028,0103) is 1 for colour.")
    if photometric == "YBR_FULL_422" and syntax in NATIVE and (columns % 2 or allocated != 8):
        raise InconsistentPixelsError(
            f"YBR_FULL_422 needs an even number of columns of 8-bit samples; found {columns} "
            f"columns of {allocated} bits."
        )
    instance = _uid(dataset, "SOPInstanceUID")
    if not instance:
        raise DicomError("The object has no valid SOP Instance UID (0008,0018).")
    return FilmHeader(
        sop_instance_uid=instance,
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        transfer_syntax=str(syntax),
        modality=text(dataset, "Modality"),
        body_part=text(dataset, "BodyPartExamined") or terms.body_part(dataset),
        view=text(dataset, "ViewPosition") or terms.view(dataset),
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=signed,
        photometric=photometric,
        samples=samples,
        planar=_number(dataset, "PlanarConfiguration", default=0) == 1,
        frames=frames,
        age_years=facts.age_years(dataset),
        burned_in={"YES": True, "NO": False}.get(text(dataset, "BurnedInAnnotation") or ""),
        for_processing=text(dataset, "PresentationIntentType") == "FOR PROCESSING",
        facts=facts.read(dataset, identity=identity),
        flags=() if photometric in GREY else (COLOUR_CAPTURE,),
    )


def check_size(rows: int, columns: int, limits: Limits) -> None:
    """Refuse an empty or too large image, before anything is allocated for it.

    Raises:
        InconsistentPixelsError, LimitExceededError.
    """
    if rows < 1 or columns < 1:
        raise InconsistentPixelsError(
            f"Rows × Columns, (0028,0010) × (0028,0011), is {rows} × {columns}."
        )
    if rows * columns > limits.max_pixels:
        raise LimitExceededError(
            f"Rows × Columns is {rows} × {columns}; max_pixels is {limits.max_pixels}."
        )


def _photometric(dataset: Dataset, samples: int, *, encapsulated: bool) -> str:
    """Photometric Interpretation, if it is one that hilum reads and fits Samples per Pixel."""
    found = text(dataset, "PhotometricInterpretation")
    colour = _COLOUR | _COLOUR_ENCODED if encapsulated else _COLOUR
    expected = 3 if found in colour else 1 if found in {*GREY, PALETTE} else None
    if found is None or expected is None:
        known = ", ".join(sorted({*GREY, PALETTE} | colour))
        raise UnsupportedPixelsError(
            f"Photometric Interpretation (0028,0004) is not one that is read here; expected one "
            f"of {known}."
        )
    if samples != expected:
        raise InconsistentPixelsError(
            f"Samples per Pixel (0028,0002) is {samples}; {found} has {expected}."
        )
    return found


def text(dataset: Dataset, keyword: str) -> str | None:
    """A code string, upper case; ``None`` if absent or empty; the first of several."""
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str):
        value = value[0] if len(value) else None
    text = str(value or "").strip(" \0").upper()
    return text or None


def _uid(dataset: Dataset, keyword: str) -> str:
    text = str(dataset.get(keyword) or "").strip(" \0")
    return text if _UID.fullmatch(text) else ""


def _number(dataset: Dataset, keyword: str, *, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise InconsistentPixelsError(f"The image has no {keyword}.")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InconsistentPixelsError(f"{keyword} is not a single number.") from None
