"""Bytes become a DICOM object: bounded, and with every failure as a typed error."""

from __future__ import annotations

import logging
import threading
import warnings
import zlib
from dataclasses import dataclass, field, replace
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

from hilum.dicom import frames, header
from hilum.dicom.greyscale import PLAIN, Greyscale
from hilum.dicom.header import FilmHeader
from hilum.dicom.palette import Palette
from hilum.dicom.syntaxes import NATIVE
from hilum.errors import (
    DicomError,
    EmptyObjectError,
    ExecutablePreambleError,
    HilumError,
    LimitExceededError,
    NotDicomError,
    ObjectTooLargeError,
    TruncatedError,
)
from hilum.settings import Limits

_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"
# What makes the preamble the start of a program: DOS and Windows, ELF, Mach-O, scripts, archives.
_PROGRAMS: Final = (
    b"MZ",
    b"\x7fELF",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"#!",
    b"PK\x03\x04",
)
_PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = b"\xfe\xff\x00\xe0"
_DEFERRED: Final = 1 << 20  # longer values are not read; Pixel Data is found in place
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF  # PS3.5 section 7.1.1

# pydicom quotes values of the data set in what it logs and warns of: patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
_warnings_lock = threading.Lock()  # the list of filters belongs to the whole process


@dataclass(frozen=True, kw_only=True)
class DicomObject:
    """A parsed image; its pixels are still encoded."""

    header: FilmHeader
    greyscale: Greyscale = field(repr=False)
    # As encoded; the whole file of a PNG or JPEG. Native pixels are a view of the file's bytes.
    pixel_data: bytes | memoryview = field(repr=False)
    pixel_vr: str
    palette: Palette | None = field(default=None, repr=False)
    extended_offsets: bytes | None = field(default=None, repr=False)  # (7FE0,0001)


def open_object(data: bytes, limits: Limits, *, identity: bool = False) -> DicomObject:
    """Parse ``data`` and check everything that can be checked without decoding pixels.

    Args:
        data: the file.
        limits: of one object.
        identity: the header says who the film is of, too.

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
            dataset, syntax, source = _parse(data, limits)
            frames.adopt(dataset)
            # Everything is read here: pydicom converts a value when it is first looked at, and
            # may warn or fail with that value in its text.
            found = header.read(dataset, syntax, limits, identity=identity)
            pixels, vr = _pixel_data(dataset, source)
            # The greyscale pipeline has no say over colour (PS3.3 C.11.2.1.2, C.7.6.3.1.2).
            how = Greyscale.read(dataset, found) if found.photometric in header.GREY else PLAIN
            coloured = found.photometric == header.PALETTE
            palette = Palette.read(dataset, found) if coloured else None
            mended = how.flags if palette is None else palette.flags
            return DicomObject(
                header=replace(found, flags=found.flags + mended),
                greyscale=how,
                palette=palette,
                pixel_data=pixels if syntax in NATIVE else bytes(pixels),
                pixel_vr=vr,
                extended_offsets=_bytes(dataset.get("ExtendedOffsetTable")),
            )
        except HilumError:
            raise
        except EOFError:
            raise TruncatedError("The data set ends within an element.") from None
        except MemoryError:
            raise LimitExceededError("The data set needs more memory than there is.") from None
        except RecursionError:
            raise DicomError("Sequences (PS3.5 section 7.5) are nested too deeply.") from None
        except Exception as error:  # pydicom raises whatever a broken file provokes
            raise DicomError(f"The data set cannot be parsed ({type(error).__name__}).") from None


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _parse(data: bytes, limits: Limits) -> tuple[Dataset, UID, bytes]:
    """The data set, its transfer syntax, and the bytes that its positions count in."""
    meta, start = _file_meta(data)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")).strip(" \0"))
    if not syntax:
        syntax = _guess(data, start)
    source = data
    if syntax == DeflatedExplicitVRLittleEndian:
        source, start = _inflate(data[start:], limits.max_inflated_bytes), 0
    if start >= len(source):
        raise TruncatedError("The file ends after its meta information.")
    stream = BytesIO(source)
    stream.seek(start)
    dataset = read_dataset(
        stream,
        syntax == ImplicitVRLittleEndian,
        syntax != ExplicitVRBigEndian,
        defer_size=_DEFERRED,
    )
    dataset.set_original_encoding(
        syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian, None
    )
    if "PixelData" not in dataset and _cut_short(dataset, len(source)):
        raise TruncatedError("The data set ends within an element.")
    if "SOPClassUID" not in dataset and "SOPClassUID" in meta:
        raise DicomError("The data set has no SOP Class UID (0008,0016).")
    return dataset, syntax, source


def _pixel_data(dataset: Dataset, source: bytes) -> tuple[bytes | memoryview, str]:
    """The value of Pixel Data (7FE0,0010), not copied if it is a large native one, and its VR."""
    elements: dict[int, object] = dict(dataset.items())  # any other look at it would read it
    raw = elements[_PIXEL_DATA]
    if not isinstance(raw, RawDataElement) or raw.value is not None:
        element = dataset[_PIXEL_DATA]
        return bytes(element.value or b""), str(element.VR)
    if raw.length == _UNDEFINED_LENGTH:
        end = _end_of_items(source, raw.value_tell)
    else:
        end = raw.value_tell + raw.length
    if end > len(source):
        raise TruncatedError(
            f"Pixel Data (7FE0,0010) declares {raw.length} bytes; {len(source) - raw.value_tell} "
            "are left."
        )
    return memoryview(source)[raw.value_tell : end], raw.VR or "OW"  # implicit VR: PS3.5 A.1


def _end_of_items(source: bytes, at: int) -> int:
    """Where the items that begin at ``at`` end (PS3.5 section A.4): at their delimiter, or where
    there is neither an item nor a delimiter."""
    while source[at : at + 4] == _ITEM:
        at += 8 + int.from_bytes(source[at + 4 : at + 8], "little")
    return min(at, len(source))


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
        if data.startswith(_PROGRAMS):
            raise ExecutablePreambleError(
                "The preamble (PS3.10 section 7.1) begins like a program; expected zeros or TIFF."
            )
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
