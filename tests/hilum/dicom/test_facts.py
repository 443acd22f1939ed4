"""Where, when, with what and of whom a film was taken; what cannot be read is not given."""

from __future__ import annotations

from typing import Any

import pytest
from support.tiny_film import film

from hilum import dicom
from hilum.dicom.facts import Facts, clean
from hilum.settings import Limits

# The broken films are written with pydicom, which minds.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(Invalid value for VR|The value length):UserWarning"
)


def facts(*, identity: bool = False, **attributes: Any) -> Facts:
    data = film(1, **attributes)
    return dicom.open_film(data, Limits(), identity=identity).header.facts


def test_all_of_them() -> None:
    found = facts(
        InstitutionName="Sankt  Annen ",
        Manufacturer="Maker",
        ManufacturerModelName="Model\\Other",
        PatientSex="f",
        AcquisitionDate="20240501",
        AcquisitionTime="143059.25",
    )
    assert found == Facts(
        institution="Sankt Annen",
        manufacturer="Maker",
        manufacturer_model="Model",
        sex="F",
        acquisition_date="2024-05-01",
        acquisition_time="14:30:59",
    )
    assert repr(found) == "Facts()"


def test_none_of_them() -> None:
    assert facts() == Facts()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"AcquisitionDateTime": "20240501143000.5+0200"}, ("2024-05-01", "14:30:00")),
        ({"AcquisitionDateTime": "20240501"}, ("2024-05-01", None)),
        ({"ContentDate": "20240502", "StudyDate": "20240501"}, ("2024-05-02", None)),
        ({"StudyDate": "20240501", "StudyTime": "14"}, ("2024-05-01", "14:00:00")),
        ({"StudyDate": "2024.05.01", "StudyTime": "14:30:10"}, ("2024-05-01", "14:30:10")),
        # A time belongs to its own date.
        ({"StudyDate": "20240501", "SeriesTime": "1430"}, ("2024-05-01", None)),
        ({"AcquisitionDate": "20241399", "StudyDate": "20240501"}, ("2024-05-01", None)),
        ({"StudyDate": "20240501", "StudyTime": "9999"}, ("2024-05-01", None)),
    ],
)
def test_when(attributes: dict[str, str], expected: tuple[str, str | None]) -> None:
    found = facts(**attributes)
    assert (found.acquisition_date, found.acquisition_time) == expected


def test_a_sex_that_is_none() -> None:
    assert facts(PatientSex="FEMALE").sex is None


def test_identity_only_if_it_is_asked_for() -> None:
    assert facts(AccessionNumber="A1").identity is None
    found = facts(AccessionNumber="A1", identity=True).identity
    assert found is not None
    assert (found.accession_number, found.patient_id, found.patient_name) == (
        "A1",
        "TEST",
        "TEST^FILM",
    )
    assert repr(found) == "Identity()"
    header = dicom.open_film(film(1), Limits(), identity=True).header
    assert "TEST" not in repr(header)


def test_what_cannot_be_read_refuses_no_film() -> None:
    """Bytes of no character set, under a character set that does not exist."""
    data = film(1, InstitutionName="XXXX", SpecificCharacterSet="ISO_IR 100")
    broken = data.replace(b"XXXX", b"\xff\x00\x1b\xfe").replace(b"ISO_IR 100", b"ISO_IR 999")
    assert broken != data
    assert dicom.open_film(broken, Limits()).header.rows == 48


def test_clean() -> None:
    assert clean("a\x00b\n\tc \ud800 d\x1b", 64) == "a b c d"
    assert clean("x" * 100, 64) == "x" * 64
    assert clean(" \x00 ", 64) is None
    assert clean(None, 64) is None
