"""Bytes become a DICOM object: bounded, and with every failure as a typed error."""

from __future__ import annotations

import logging
import threading
import warnings
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hilum.dicom import header
from hilum.dicom.greyscale import PLAIN, Greyscale
from hilum.dicom.header import FilmHeader
from hilum.dicom.palette import Palette
from hilum.errors import (
    DicomError,
    EmptyObjectError,
    HilumError,
    LimitExceededError,
    NotDicomError,
    ObjectTooLargeError,
    TruncatedError,
)
from hilum.settings import Limits

_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF  # PS3.5 section 7.1.1

# pydicom quotes values of the data set in what it logs and warns of: patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
_warnings_lock = threading.Lock()  # the list of filters belongs to the whole process


@dataclass(frozen=True, kw_only=True)
class DicomObject:
    """A parsed image; its pixels are still encoded."""

    header: FilmHeader
    greyscale: Greyscale = field(repr=False)
    pixel_data: bytes = field(repr=False)  # as encoded; the whole file of a PNG or JPEG
    pixel_vr: str
    palette: Palette | None = field(default=None, repr=False)


def open_object(data: bytes, limits: Limits) -> DicomObject:
    """Parse ``data`` and check everything that can be checked without decoding pixels.

    Raises:
        EmptyObjectError, NotDicomError, TruncatedError, NoPixelDataError,
        UnsupportedPixelsError, InconsistentPixelsError, LimitExceededError, DicomError,
        ObjectTooLargeError.
    """
    if not data:
        raise EmptyObjectError("The object is empty.")
    if len(data) > limits.max_object_bytes:
        raise ObjectTooLargeError(
            f"The object has {len(data)} bytes; max_object_bytes is {limits.max_object_bytes}."
        )
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset, syntax = _parse(data, limits)
            # Everything is read here: pydicom converts a value when it is first looked at, and
            # may warn or fail with that value in its text.
            found = header.read(dataset, syntax, limits)
            element = dataset["PixelData"]
            # The greyscale pipeline has no say over colour (PS3.3 C.11.2.1.2, C.7.6.3.1.2).
            grey = found.photometric in header.GREY
            return DicomObject(
                header=found,
                greyscale=Greyscale.read(dataset, found) if grey else PLAIN,
                palette=Palette.read(dataset, found)
                if found.photometric == header.PALETTE
                else None,
                pixel_data=bytes(element.value or b""),
                pixel_vr=str(element.VR),
            )
        except HilumError:
            raise
        except EOFError:
            raise TruncatedError("The data set ends within an element.") from None
        except MemoryError:
            raise LimitExceededError("The data set needs more memory than there is.") from None
        except RecursionError:
            raise DicomError("Sequences are nested too deeply.") from None
        except Exception as error:  # pydicom raises whatever a broken file provokes
            raise DicomError(f"The data set cannot be parsed ({type(error).__name__}).") from None


def _parse(data: bytes, limits: Limits) -> tuple[Dataset, UID]:
    meta, start = _file_meta(data)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")).strip(" \0"))
    if not syntax:
        syntax = _guess(data, start)
    body = data[start:]
    if syntax == DeflatedExplicitVRLittleEndian:
        body = _inflate(body, limits.max_inflated_bytes)
    if not body:
        raise TruncatedError("The file ends after its meta information.")
    dataset = read_dataset(
        BytesIO(body), syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    )
    dataset.set_original_encoding(
        syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian, None
    )
    if "PixelData" not in dataset and _cut_short(dataset, len(body)):
        raise TruncatedError("The data set ends within an element.")
    if "SOPClassUID" not in dataset and "SOPClassUID" in meta:
        raise DicomError("The data set has no SOP Class UID (0008,0016).")
    return dataset, syntax


def _cut_short(dataset: Dataset, size: int) -> bool:
    """Whether the ``size`` bytes that ``dataset`` was read from end in the middle of an element."""
    if not len(dataset):  # pydicom drops every element if the last one is cut
        return True
    elements = [element for element in dataset.values() if isinstance(element, RawDataElement)]
    last = max(elements, key=lambda element: element.value_tell, default=None)
    if last is None or last.length == _UNDEFINED_LENGTH:
        return False
    return last.value_tell + last.length != size


def _file_meta(data: bytes) -> tuple[Dataset, int]:
    """The file meta information (PS3.10 section 7.1) and where the data set starts.

    Files without preamble or without meta information are read as older software wrote them, if
    they start with an element that such a file starts with.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        start = _PREAMBLE + 4
    elif data[:2] in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}:
        start = 0
    elif len(data) < _PREAMBLE + 4 and not data.strip(b"\0"):
        raise TruncatedError("The file ends within its preamble.")
    else:
        raise NotDicomError("There is no DICM prefix at byte 128 (PS3.10 section 7.1).")
    stream = BytesIO(data)
    stream.seek(start)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    return meta, stream.tell()


def _guess(data: bytes, start: int) -> UID:
    """The transfer syntax of a data set without meta information, from its first element."""
    if data[start : start + 2] == b"\x00\x08":
        return ExplicitVRBigEndian
    representation = data[start + 4 : start + 6]
    explicit = representation.isalpha() and representation.isupper()
    return ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian


def _inflate(data: bytes, limit: int) -> bytes:
    """PS3.5 section A.5: a raw deflate stream; never more than ``limit`` bytes of it."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error:
        raise DicomError("The deflated data set is damaged.") from None
    if len(inflated) > limit:
        raise LimitExceededError(f"The data set inflates to more than {limit} bytes.")
    if not stream.eof:
        raise TruncatedError("The deflated data set ends too early.")
    return inflated
