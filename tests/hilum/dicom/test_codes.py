"""Our codes against pydicom's dictionaries of PS3.16."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes as dictionary

from hilum.dicom import terms

SAID = {
    "AnteroPosterior": "AP",
    "PosteroAnterior": "PA",
    "Frontal": None,
    "LateralProjection": "LATERAL",
    "LeftLateral": "LL",
    "RightLateral": "RL",
}
CHEST = {dictionary.SCT.Chest, dictionary.SCT.ThoracicStructure, dictionary.SCT.IntraThoracic,
         dictionary.SCT.Lung}  # fmt: skip


def _with(keyword: str, code: str, scheme: str) -> Dataset:
    item, ds = Dataset(), Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code, scheme
    setattr(ds, keyword, Sequence([item]))
    return ds


def _both(code: str) -> list[tuple[str, str]]:
    """A SNOMED CT code and the SRT identifier it replaces, if there was one."""
    old = mapping["SCT"].get(code)
    return [(code, "SCT"), *([(old, "SRT")] if old else [])]


def test_views_are_those_of_cid_4010() -> None:
    known = {code.value: name for name, code in dictionary.cid4010.concepts.items()}
    assert len(known) >= 40
    listed = {}
    for code, name in known.items():
        for value, scheme in _both(code):
            found = terms.view(_with("ViewCodeSequence", value, scheme))
            if name in SAID:
                assert found == SAID[name], name
                listed[value] = found
            else:
                assert found == f"CODE {value}", name
    assert listed == terms.VIEW_CODES, "there is no code here that the dictionary has not"


def test_chest_codes_are_those_of_the_dictionary() -> None:
    expected = {value for code in CHEST for value, _ in _both(code.value)}
    assert expected == terms.CHEST_CODES
    for value in expected:
        scheme = "SCT" if value.isdigit() else "SRT"
        assert terms.body_part(_with("AnatomicRegionSequence", value, scheme)) == "CHEST"


def test_other_parts_of_cid_4009_are_not_the_chest() -> None:
    others = {code.value for code in dictionary.cid4009.concepts.values()} - terms.CHEST_CODES
    assert len(others) > 80
    for value in others:
        found = terms.body_part(_with("AnatomicRegionSequence", value, "SCT"))
        assert found == f"CODE {value}"


@pytest.mark.parametrize("scheme", ["99ACME", "", "RADLEX"])
def test_private_schemes_say_nothing(scheme: str) -> None:
    assert terms.view(_with("ViewCodeSequence", "399067008", scheme)) is None
    assert terms.body_part(_with("AnatomicRegionSequence", "69536005", scheme)) is None
    assert terms.view(Dataset()) is None
