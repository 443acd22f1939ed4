"""Which films a model may be asked about."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support.tiny_film import film

from hilum import dicom, policy
from hilum.errors import HilumError
from hilum.package import InputPolicy
from hilum.settings import Limits


def _check(rules: InputPolicy | None = None, **attributes: Any) -> tuple[str, ...]:
    header = dicom.open_object(film(1, **attributes), Limits()).header
    return policy.check(header, rules or InputPolicy())


def _coded(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "free text"
    return Sequence([item])


def test_a_frontal_chest_film_passes_without_a_flag() -> None:
    assert _check() == ()
    assert _check(Modality="CR", ViewPosition="AP", BodyPartExamined="CHEST") == ()


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": "CT"}, "policy.wrong_modality"),
        ({"Modality": None}, "policy.wrong_modality"),
        ({"BodyPartExamined": "EXTREMITY"}, "policy.not_chest"),
        ({"BodyPartExamined": "ABDOMEN"}, "policy.not_chest"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": _coded("69536005")},
         "policy.not_chest"),
        ({"ViewPosition": "LL"}, "policy.not_frontal"),
        ({"ViewPosition": "LATERAL"}, "policy.not_frontal"),
        ({"ViewPosition": None, "ViewCodeSequence": _coded("399067008")}, "policy.not_frontal"),
        ({"ViewPosition": None, "ViewCodeSequence": _coded("399182000")}, "policy.not_frontal"),
    ],
)  # fmt: skip
def test_what_is_something_else_is_refused(attributes: dict[str, Any], code: str) -> None:
    with pytest.raises(HilumError) as caught:
        _check(**attributes)
    assert caught.value.code == code


def test_what_is_not_said_is_flagged_or_refused_as_the_policy_has_it() -> None:
    silent = {"BodyPartExamined": None, "ViewPosition": None}
    assert _check(**silent) == ("body_part_unknown", "view_unknown")
    with pytest.raises(HilumError, match=r"policy\.not_chest"):
        _check(InputPolicy(unknown_body_part="refuse"), **silent)
    with pytest.raises(HilumError, match=r"policy\.not_frontal"):
        _check(InputPolicy(unknown_view="refuse"), **silent)


def test_codes_speak_where_the_code_string_is_missing() -> None:
    coded = {"BodyPartExamined": None, "AnatomicRegionSequence": _coded("51185008")}
    for view in ("399348003", "272479007"):  # AP, PA
        assert _check(**coded, ViewPosition=None, ViewCodeSequence=_coded(view)) == ()
    frontal = _coded("399033003")  # PA or AP
    assert _check(**coded, ViewPosition=None, ViewCodeSequence=frontal) == ("view_unknown",)


def test_free_text_is_neither_trusted_nor_repeated() -> None:
    placed = film(1, BodyPartExamined="A" * 16, StudyDescription="CHEST PA")
    data = placed.replace(b"A" * 16, b"SMITH^JOHN 1950 ")
    header = dicom.open_object(data, Limits()).header
    with pytest.raises(HilumError) as caught:
        policy.check(header, InputPolicy())
    assert "SMITH" not in str(caught.value)
