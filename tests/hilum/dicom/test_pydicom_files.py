"""Every file that comes with pydicom: decoded as pydicom decodes it, or refused for a reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, pixel_array

from hilum import dicom
from hilum.dicom.decode import decode_stored
from hilum.errors import DicomError, HilumError
from hilum.settings import Limits

FOLDER = Path(str(get_testdata_file("CT_small.dcm", download=False))).parent
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".py")
# 12-bit JPEG Extended, which no decoder reads that pydicom may use here; see test_decoders.py.
TWELVE_BITS = {"JPEG-lossy.dcm", "JPGExtended.dcm"}
MULTI_FRAME = {
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
    "examples_ybr_color.dcm",
    "rtdose.dcm",
    "rtdose_expb.dcm",
    "rtdose_rle.dcm",
}
BITMAPS = {"liver_1frame.dcm", "liver_expb_1frame.dcm"}
BROKEN = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "dicom.inconsistent_pixels",  # SIZ is spoilt
    "MR_truncated.dcm": "dicom.truncated",
    "badVR.dcm": "dicom.inconsistent_pixels",  # Number of Frames "1A"
    "meta_missing_tsyntax.dcm": "dicom.inconsistent_pixels",  # no Rows
    "nested_priv_SQ.dcm": "dicom.inconsistent_pixels",  # no Rows
}


def _opened(path: Path) -> dicom.DicomObject:
    return dicom.open_object(path.read_bytes(), Limits())


def _images() -> list[Path]:
    """Files that hold a single frame of integers."""
    left_out = {*TWELVE_BITS, *MULTI_FRAME, *BITMAPS, *BROKEN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            path
            for path in FILES
            if path.name not in left_out
            and pydicom.misc.is_dicom(path)
            and "PixelData" in pydicom.dcmread(path, specific_tags=["PixelData"])
        ]


IMAGES = _images()


def test_there_is_much_to_compare() -> None:
    assert len(IMAGES) >= 75


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # of broken values in its own files
@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(FOLDER))) for p in IMAGES])
def test_stored_values_are_those_of_pydicom(path: Path) -> None:
    opened = _opened(path)
    found = decode_stored(opened)
    expected = pixel_array(pydicom.dcmread(path), raw=found.ybr)
    assert np.array_equal(found.stored, expected)
    if opened.palette is not None:
        with_colour = apply_color_lut(expected, pydicom.dcmread(path))
        assert np.array_equal(opened.palette.apply(found.stored), with_colour)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", sorted(MULTI_FRAME))
def test_of_several_frames_the_first_is_read(name: str) -> None:
    opened = _opened(FOLDER / name)
    found = decode_stored(opened)
    whole = pydicom.dcmread(FOLDER / name)
    assert opened.header.frames == whole.NumberOfFrames > 1
    assert np.array_equal(found.stored, pixel_array(whole, index=0, raw=found.ybr))


@pytest.mark.parametrize("name", sorted(BITMAPS))
def test_what_is_no_film_is_refused(name: str) -> None:
    with pytest.raises(HilumError, match="Bits Allocated") as caught:
        _opened(FOLDER / name)
    assert caught.value.code == "dicom.unsupported_pixels"


@pytest.mark.parametrize(("name", "code"), BROKEN.items())
def test_broken_files_say_what_is_wrong(name: str, code: str) -> None:
    with pytest.raises(HilumError) as caught:
        dicom.decode(_opened(FOLDER / name))
    assert caught.value.code == code, caught.value


def test_every_other_file_is_refused_by_type() -> None:
    read = TWELVE_BITS | MULTI_FRAME
    rest = [path for path in FILES if path not in IMAGES and path.name not in read]
    assert len(rest) >= 75
    for path in rest:
        with pytest.raises(DicomError):
            dicom.decode(_opened(path))
