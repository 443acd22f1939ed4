"""What hilum needs to know of a DICOM image before and after its pixels are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import UID

from hilum.errors import (
    DicomError,
    InconsistentPixelsError,
    LimitExceededError,
    NoPixelDataError,
    UnsupportedPixelsError,
)
from hilum.settings import Limits

_UID = re.compile(r"[0-9.]{1,64}")

# View codes (PS3.16 CID 4010 «DX View»), SNOMED CT and the retired SRT identifiers.
_VIEW_CODES = {
    "399348003": "PA",
    "R-10214": "PA",
    "399348003 ": "PA",
    "272479007": "PA",
    "272460009": "PA",
    "399067008": "LATERAL",
    "R-10202": "LATERAL",
    "399273009": "LL",
    "R-10236": "LL",
    "399198007": "RL",
    "R-10232": "RL",
    "399033003": "AP",
    "R-10206": "AP",
}
# Anatomic regions of a chest film (PS3.16 CID 4009 «DX Anatomy Imaged»).
_CHEST_CODES = {"51185008", "T-D3000", "43799004", "39607008", "T-28000"}


@dataclass(frozen=True, kw_only=True)
class FilmHeader:
    """The header of one image. Its repr shows no UID."""

    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    sop_class_uid: str
    transfer_syntax: str
    modality: str | None  # (0008,0060)
    body_part: str | None  # (0018,0015), else from (0008,2218); upper case
    view: str | None  # (0018,5101), else from (0054,0220); upper case
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str


def read(dataset: Dataset, syntax: UID, limits: Limits) -> FilmHeader:
    """Check the image's header, before any pixel is decoded.

    Raises:
        NoPixelDataError: not an image.
        UnsupportedPixelsError: an image, but not a single greyscale frame of 8 or 16 bits.
        InconsistentPixelsError: attributes of the image pixel module contradict each other
            (PS3.3 C.7.6.3).
        LimitExceededError: Rows × Columns is above ``limits.max_pixels``.
        DicomError: there is no usable SOPInstanceUID.
    """
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise UnsupportedPixelsError("The image has floating-point pixels, (7FE0,0008/0009).")
        raise NoPixelDataError("The object has no Pixel Data (7FE0,0010).")
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise InconsistentPixelsError(f"Rows × Columns is {rows} × {columns}.")
    if rows * columns > limits.max_pixels:
        raise LimitExceededError(
            f"Rows × Columns is {rows} × {columns}; max_pixels is {limits.max_pixels}."
        )
    photometric = _text(dataset, "PhotometricInterpretation") or "none"
    samples = _number(dataset, "SamplesPerPixel", default=1)
    if samples != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise UnsupportedPixelsError(
            f"Photometric Interpretation with {samples} samples a pixel is not greyscale; "
            "expected MONOCHROME1 or MONOCHROME2."
        )
    frames = _number(dataset, "NumberOfFrames", default=1)
    if frames > 1:
        raise UnsupportedPixelsError(f"Number of Frames is {frames}; expected a single frame.")
    allocated = _number(dataset, "BitsAllocated")
    stored = _number(dataset, "BitsStored", default=allocated)
    high = _number(dataset, "HighBit", default=stored - 1)
    if allocated not in {8, 16}:
        raise UnsupportedPixelsError(f"Bits Allocated is {allocated}; expected 8 or 16.")
    if not (1 <= stored <= allocated and stored - 1 <= high < allocated):
        raise InconsistentPixelsError(
            f"Bits Stored {stored} and High Bit {high} do not fit Bits Allocated {allocated}."
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
        modality=_text(dataset, "Modality"),
        body_part=_body_part(dataset),
        view=_view(dataset),
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=_number(dataset, "PixelRepresentation", default=0) == 1,
        photometric=photometric,
    )


def _body_part(dataset: Dataset) -> str | None:
    if (text := _text(dataset, "BodyPartExamined")) is not None:
        return text
    code = _first_code(dataset, "AnatomicRegionSequence")
    if code is None:
        return None
    # The meaning is free text, so that only known codes speak; another code is another part.
    return "CHEST" if code in _CHEST_CODES else f"CODE {code}"


def _view(dataset: Dataset) -> str | None:
    if (text := _text(dataset, "ViewPosition")) is not None:
        return text
    code = _first_code(dataset, "ViewCodeSequence")
    return None if code is None else _VIEW_CODES.get(code)


def _first_code(dataset: Dataset, keyword: str) -> str | None:
    sequence = dataset.get(keyword)
    return _text(sequence[0], "CodeValue") if sequence else None


def _text(dataset: Dataset, keyword: str) -> str | None:
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
