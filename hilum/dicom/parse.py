"""Parse bytes into a DICOM object, within limits, and with a typed error for every failure."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hilum.dicom import elements, frames, header
from hilum.dicom.elements import UNDEFINED_LENGTH, Element, Source
from hilum.dicom.greyscale import PLAIN, Greyscale
from hilum.dicom.header import FilmHeader
from hilum.dicom.palette import Palette
from hilum.dicom.syntaxes import NATIVE
from hilum.errors import (
    DicomError,
    EmptyObjectError,
    ExecutablePreambleError,
    HilumError,
    InconsistentPixelsError,
    LimitExceededError,
    NoPixelDataError,
    NotDicomError,
    ObjectTooLargeError,
    TruncatedError,
    UnsupportedPixelsError,
)
from hilum.settings import Limits

_PREAMBLE: Final = 128
_MAGIC: Final = b"DICM"
_GZIP: Final = b"\x1f\x8b"
# How programs begin: DOS and Windows, ELF, Mach-O, scripts, archives.
_PROGRAMS: Final = (
    b"MZ", b"\x7fELF", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!", b"PK\x03\x04",
)  # fmt: skip

# pydicom quotes values of the data set in its logs and warnings. They may be patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
_warnings_lock = threading.Lock()  # the filters of warnings belong to the whole process


@dataclass(frozen=True, kw_only=True)
class DicomObject:
    """A parsed image; its pixels are still encoded."""

    header: FilmHeader
    greyscale: Greyscale = field(repr=False)
    # As encoded, a view of the object's bytes; the whole file of a PNG or JPEG.
    pixel_data: bytes | memoryview = field(repr=False)
    pixel_vr: str
    palette: Palette | None = field(default=None, repr=False)
    extended_offsets: bytes | None = field(default=None, repr=False)  # (7FE0,0001)


def open_object(data: Source, limits: Limits, *, identity: bool = False) -> DicomObject:
    """Like :func:`hilum.dicom.open_film`, for DICOM objects only.

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
    with _typed_errors():
        dataset, syntax, source, pixel_data = _parse(data, limits)
        frames.adopt(dataset)
        # Everything is read here: pydicom converts a value on first access, and may then warn or
        # fail with a text that quotes the value.
        found = header.read(dataset, syntax, limits, identity=identity)
        # The greyscale pipeline does not apply to colour (PS3.3 C.11.2.1.2, C.7.6.3.1.2).
        how = Greyscale.read(dataset, found) if found.photometric in header.GREY else PLAIN
        coloured = found.photometric == header.PALETTE
        palette = Palette.read(dataset, found) if coloured else None
        mended = how.flags if palette is None else palette.flags
        code = pixel_data.code or b"OW"  # implicit VR: PS3.5 A.1
        return DicomObject(
            header=replace(found, flags=found.flags + mended),
            greyscale=how,
            palette=palette,
            pixel_data=_value(pixel_data, source, native=syntax in NATIVE),
            pixel_vr=code.decode("ascii"),
            extended_offsets=_bytes(dataset.get("ExtendedOffsetTable")),
        )


def open_head(
    data: Source, limits: Limits, *, complete: bool, identity: bool = False
) -> FilmHeader | None:
    """The header of an object of which ``data`` is the beginning; ``None`` if Pixel Data does not
    begin within it, so that more is needed.

    Args:
        data: the first bytes of the file.
        limits: of one object.
        complete: whether ``data`` is the whole file.
        identity: the header says who the film is of, too.

    Raises:
        DicomError: as :func:`open_object`, but for what only the pixels could show.
    """
    if not data:
        raise EmptyObjectError("The object is empty.")
    with _typed_errors():
        try:
            dataset, syntax, _, _ = _parse(data, limits)
        except (NotDicomError, ExecutablePreambleError):
            raise
        except (DicomError, EOFError, struct.error):
            if complete:
                raise
            return None
        frames.adopt(dataset)
        return header.read(dataset, syntax, limits, identity=identity)


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Every failure becomes one of hilum's errors; pydicom warns nobody."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
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


def _parse(data: Source, limits: Limits) -> tuple[Dataset, UID, Source, Element]:
    """The data set, its transfer syntax, the bytes that its positions refer to, and Pixel Data."""
    meta, start = _file_meta(data)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")).strip(" \0"))
    if not syntax:
        syntax = _guess(data, start)
    source, cut = data, False
    if syntax == DeflatedExplicitVRLittleEndian:
        (source, cut), start = _inflate(memoryview(data)[start:], limits.max_inflated_bytes), 0
    if start >= len(source):
        raise TruncatedError("The file ends after its meta information.")
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    read = elements.read(source, start, implicit=implicit, little=little)
    dataset = read.dataset
    dataset.set_original_encoding(implicit, little, None)
    if read.pixel_data is None:
        if cut or read.cut or not len(dataset):
            raise TruncatedError("The data set ends within an element.")
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise UnsupportedPixelsError("The image has floating-point pixels, (7FE0,0008/0009).")
        if read.end < len(source) and "Rows" in dataset and any(source[read.end :]):
            raise DicomError("The data set is damaged before Pixel Data (7FE0,0010).")
        raise NoPixelDataError("The object has no Pixel Data (7FE0,0010).")
    if "SOPClassUID" not in dataset and "SOPClassUID" in meta:
        raise DicomError("The data set has no SOP Class UID (0008,0016).")
    return dataset, syntax, source, read.pixel_data


def _value(element: Element, source: Source, *, native: bool) -> memoryview:
    """The value of Pixel Data (7FE0,0010), not copied. Encapsulated pixels extend to the end of the
    file; their own structure says where they end."""
    if native and element.length == UNDEFINED_LENGTH:
        raise InconsistentPixelsError(
            "Pixel Data (7FE0,0010) has no length, as encapsulated pixels; Transfer Syntax UID "
            "(0002,0010) says that they are native."
        )
    if native and element.end > len(source) + 1:  # it may lack the byte that makes it even
        raise TruncatedError(
            f"Pixel Data (7FE0,0010) declares {element.length} bytes; "
            f"{len(source) - element.start} are left."
        )
    end = len(source) if element.length == UNDEFINED_LENGTH else element.end
    return memoryview(source)[element.start : end]


def _file_meta(data: Source) -> tuple[Dataset, int]:
    """The file meta information (PS3.10 section 7.1) and where the data set starts.

    Files without preamble or meta information, as older software wrote them, are read if they start
    with an element with which such files start.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        if bytes(data[:8]).startswith(_PROGRAMS):
            raise ExecutablePreambleError(
                "The preamble (PS3.10 section 7.1) begins like a program; expected zeros or TIFF."
            )
        start = _PREAMBLE + 4
    elif bytes(data[:2]) in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}:
        start = 0
    elif len(data) < _PREAMBLE + 4 and not any(data):
        raise TruncatedError("The file ends within its preamble.")
    else:
        raise NotDicomError("There is no DICM prefix at byte 128 (PS3.10 section 7.1).")
    meta = elements.read(data, start, implicit=False, little=True, group=2)
    if meta.cut:
        raise TruncatedError("The file ends within its meta information.")
    return meta.dataset, meta.end


def _guess(data: Source, start: int) -> UID:
    """The transfer syntax of a data set without meta information, from its first element."""
    if data[start : start + 2] == b"\x00\x08":
        return ExplicitVRBigEndian
    representation = bytes(data[start + 4 : start + 6])
    explicit = representation.isalpha() and representation.isupper()
    return ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian


def _inflate(data: Source, limit: int) -> tuple[bytes, bool]:
    """Inflate a raw deflate stream (PS3.5 section A.5), or one in the envelope of zlib or gzip (RFC
    1950 and 1952), as some software writes it. Returns at most ``limit`` bytes, and whether the
    stream ends too early."""
    if data[:2] == _GZIP:  # a raw stream cannot begin so
        return _inflated(data, zlib.MAX_WBITS + 16, limit)
    try:
        return _inflated(data, -zlib.MAX_WBITS, limit)
    except DicomError:
        envelope = len(data) > 2 and data[0] & 0xF == zlib.DEFLATED
        if not envelope or (data[0] << 8 | data[1]) % 31 or data[1] & 0x20:
            raise
    return _inflated(data[2:], -zlib.MAX_WBITS, limit)


def _inflated(data: Source, window: int, limit: int) -> tuple[bytes, bool]:
    stream = zlib.decompressobj(window)
    try:
        inflated = stream.decompress(data, limit + 1)
    except zlib.error:
        raise DicomError("The deflated data set is damaged.") from None
    if len(inflated) > limit:
        raise LimitExceededError(f"The data set inflates to more than {limit} bytes.")
    return inflated, not stream.eof
