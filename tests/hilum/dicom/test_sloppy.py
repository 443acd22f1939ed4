"""Careless framing is no reason to refuse a film, on either path; bytes that are missing are."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from support import colour_cases, decode_cases, sloppy
from support.encodings import rewritten
from support.fuzz.hostile import element, part10

from hilum import dicom
from hilum.dicom import elements
from hilum.dicom.decode import stored_values
from hilum.errors import HilumError
from hilum.settings import Limits

LIMITS = Limits()
KINDS = dict(sloppy.kinds())
SIDE = 64
SAMPLES = Path(__file__).parents[3] / "models" / "samples"


def code(data: bytes, side: int | None = None) -> str | None:
    try:
        dicom.decode(dicom.open_film(data, LIMITS), side=side)
    except HilumError as error:
        return error.code
    return None


@pytest.mark.parametrize("name", KINDS)
def test_a_habit_costs_nothing(name: str) -> None:
    opened = dicom.open_film(KINDS[name], LIMITS)
    assert np.array_equal(stored_values(opened), sloppy.PIXELS)
    right = dicom.decode(dicom.open_film(sloppy.plain(), LIMITS))
    assert np.array_equal(dicom.decode(opened).pixels, right.pixels)
    less = dicom.decode(opened, side=SIDE)
    middle = less.pixels[2:-2, 2:-2].mean()
    assert max(less.pixels.shape) < sloppy.ROWS
    assert abs(middle - right.pixels[8:-8, 8:-8].mean()) < 0.01


def samples() -> list[bytes]:
    folder = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix in {".dcm", ""}]
    cases = (decode_cases.natives, decode_cases.run_lengths, decode_cases.lossless,
             decode_cases.lossy, colour_cases.captures, colour_cases.pictures)  # fmt: skip
    small = [path for path in files if path.stat().st_size < 300_000]
    found = [path.read_bytes() for path in (*small, *SAMPLES.glob("*.dcm"))]
    return found + [case.data for kind in cases for case in kind()]


def test_both_paths_take_and_refuse_the_same() -> None:
    taken = 0
    for data in samples():
        assert code(data) == code(data, side=24), data[:400]
        taken += code(data) is None
    assert taken > 130


@pytest.mark.parametrize("name", ["JPEG 2000", "HTJ2K", "JPEG-LS", "JPEG", "RLE"])
@pytest.mark.parametrize("missing", [4, 30, 500])
def test_what_is_cut_is_refused(name: str, missing: int) -> None:
    syntax, frame = sloppy.frames()[name]
    whole = sloppy.film(frame, syntax)
    for side in (None, SIDE):
        assert code(whole[: -8 - missing], side) == "dicom.truncated"
        assert code(sloppy.film(frame[:-missing], syntax), side) in {
            "dicom.truncated",
            "dicom.decode_failed",
        }


def test_an_rle_segment_with_another_row() -> None:
    row = bytes(range(1, 1 + sloppy.COLUMNS))
    more = sloppy.rle(*(sloppy.packed(part + row) for part in sloppy.halves()))
    assert code(sloppy.film(more, RLELossless)) == "dicom.inconsistent_pixels"
    less = sloppy.rle(*(sloppy.packed(part[:-9]) for part in sloppy.halves()))
    assert code(sloppy.film(less, RLELossless)) == "dicom.truncated"


def test_a_deflated_film_that_is_cut() -> None:
    whole = rewritten(sloppy.plain(), DeflatedExplicitVRLittleEndian)
    assert code(whole[:-900]) == "dicom.truncated"


# --- what an error says -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reportsi.dcm", "rtstruct.dcm", "rtplan.dcm", "test-SR.dcm",
                                  "DICOMDIR", "DICOMDIR-nooffset"])  # fmt: skip
def test_objects_without_pixels_are_not_cut_short(name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert code(Path(str(path)).read_bytes()) == "dicom.no_pixel_data"


def test_a_report_that_ends_in_a_sequence() -> None:
    item = Dataset()
    item.TextValue = "x"
    data = rewritten(sloppy.plain(), ExplicitVRLittleEndian, ContentSequence=[item])
    body = element(0x8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.88.67\0")
    open_ended = body + element(
        0x40, 0xA730, b"SQ", b"\xfe\xff\0\xe0\xff\xff\xff\xff" + element(0x40, 0xA160, b"UT", b"ab")
        + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0", 0xFFFFFFFF)  # fmt: skip
    assert code(data) is None
    for tail in (b"", bytes(200), b"\x01\x02" * 40, b"\r\n", b"\x1a"):
        assert code(part10(open_ended + tail)) == "dicom.no_pixel_data"
    assert code(part10(open_ended[:-20])) == "dicom.truncated"


@pytest.mark.parametrize("tail", [b"\r\n", b" " * 40, b"\xff" * 40, b"<html></html>" * 4])
def test_bytes_behind_an_implicit_object_without_pixels(tail: bytes) -> None:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3"
    ds.Modality, ds.ContentDescription = "SR", "x"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    assert code(out.getvalue() + tail) == "dicom.no_pixel_data"
    assert code(out.getvalue()[:-1]) == "dicom.truncated"


def test_more_elements_than_any_film_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the parser is no fault of the network."""
    monkeypatch.setattr(elements, "_MOST", 5000)
    many = element(0x29, 0x10, b"LO", b"x ") * 5001
    assert code(part10(many)) == "dicom.limit_exceeded"


@pytest.mark.parametrize(
    ("name", "at", "says"),
    [
        ("JPEG 2000", b"\xff\x52", "within COD \\(FF52\\)|after SIZ \\(FF51\\)"),
        ("JPEG 2000", b"\xff\x90", "SOT \\(FF90\\)"),
        ("JPEG-LS", b"\xff\xda", "LSE \\(FFF8\\)|SOS \\(FFDA\\)"),
        ("JPEG", b"\xff\xc4", "DHT \\(FFC4\\)"),
    ],
)
def test_which_part_of_a_codestream_is_broken(name: str, at: bytes, says: str) -> None:
    syntax, frame = sloppy.frames()[name]
    place = frame.index(at)
    broken = frame[: place + 2] + b"\xff\xf0" + frame[place + 4 :]
    with pytest.raises(HilumError, match=says) as caught:
        dicom.decode(dicom.open_film(sloppy.film(broken, syntax), LIMITS))
    assert caught.value.code == "dicom.decode_failed"


def test_what_the_decoder_says_no_to_has_a_place() -> None:
    syntax, frame = sloppy.frames()["JPEG-LS"]
    spoilt = frame[: len(frame) // 2] + b"\xff\x80" * 30 + frame[len(frame) // 2 + 60 :]
    with pytest.raises(HilumError, match=r"after SOS \(FFDA\)") as caught:
        dicom.decode(dicom.open_film(sloppy.film(spoilt, syntax), LIMITS))
    assert caught.value.code == "dicom.decode_failed"


def test_lenience_is_no_way_round_the_limits() -> None:
    """Runs without end behind an RLE segment are not decoded without end."""
    high, low = (bytes(imagecodecs.packbits_encode(part)) for part in sloppy.halves())
    bomb = sloppy.film(sloppy.rle(high + b"\x81\0" * 500_000, low), RLELossless)
    tracemalloc.start()
    assert code(bomb) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(bomb), "and not the 64 MB that it says"
