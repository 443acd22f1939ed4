"""What of a header goes into SQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, time

from support.tiny_film import film

from hilum import dicom
from hilum.db.identity import IdentityVault
from hilum.pipeline.instances import new_instance
from hilum.pipeline.load import Seen
from hilum.settings import Limits

URI = "s3://films/a/1.dcm"
DATA = film(
    1, AcquisitionDate="20240501", AcquisitionTime="1430", InstitutionName="Annen", PatientSex="F"
)
SEEN = Seen(
    header=dicom.open_film(DATA, Limits(), identity=True).header,
    content_sha256=b"1" * 32,
    etag='"e1"',
)


def test_the_facts() -> None:
    found = new_instance(SEEN, URI, tenant="north", vault=None)
    assert (found.rows, found.columns, found.modality, found.view) == (48, 40, "DX", "PA")
    assert (found.uri, found.source, found.etag) == (URI, "films", '"e1"')
    assert (found.acquisition_date, found.acquisition_time) == (date(2024, 5, 1), time(14, 30))
    assert (found.institution, found.sex) == ("Annen", "F")
    assert found.sop_instance_uid == SEEN.header.sop_instance_uid


def test_who_it_is_of_only_with_a_vault() -> None:
    found = new_instance(SEEN, URI, tenant="north", vault=None)
    assert (found.accession_number, found.patient_id, found.patient_name) == (None, None, None)
    vault = IdentityVault("s" * 40)
    kept = new_instance(SEEN, URI, tenant="north", vault=vault)
    assert kept.accession_number is None, "there is none"
    assert kept.patient_name is not None
    name = vault.open(
        kept.patient_name.data, field="patient_name", tenant="north", instance=b"1" * 32
    )
    assert name == "TEST^FILM"


def test_a_header_that_no_decode_process_of_ours_would_send() -> None:
    """It may have been taken over: nothing of it can break the statement."""
    facts = replace(
        SEEN.header.facts,
        acquisition_date="yesterday",
        acquisition_time="25:00",
        institution="x\x00" * 500,
        sex="female",
    )
    header = replace(SEEN.header, facts=facts, view="V" * 500, modality="\x00")
    found = new_instance(replace(SEEN, header=header), URI, tenant="north", vault=None)
    assert (found.acquisition_date, found.acquisition_time) == (None, None)
    assert (found.modality, found.view, found.sex) == (None, "V" * 32, "f")
    assert found.institution is not None
    assert len(found.institution) <= 64
    assert "\x00" not in found.institution
