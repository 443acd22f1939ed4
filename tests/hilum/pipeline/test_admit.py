"""Which films a model may be asked about."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support.tiny_film import film

from hilum import dicom
from hilum.errors import HilumError
from hilum.filmcheck import Doubt, Name
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline import admit
from hilum.settings import Limits


def _check(rules: InputPolicy | None = None, **attributes: Any) -> tuple[str, ...]:
    header = dicom.open_object(film(1, **attributes), Limits()).header
    return admit.check(header, rules or InputPolicy())


def _coded(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "free text"
    return Sequence([item])


def test_a_frontal_chest_film_passes_without_a_flag() -> None:
    assert _check() == ()
    assert _check(Modality="CR", ViewPosition="AP", BodyPartExamined="CHEST") == ()
    assert _check(Modality="DR", BurnedInAnnotation="NO", PatientAge="003Y") == ()


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": "CT"}, "policy.wrong_modality"),
        ({"Modality": None}, "policy.wrong_modality"),
        ({"Modality": "RF"}, "policy.wrong_modality"),
        ({"NumberOfFrames": 2}, "policy.multi_frame"),
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
        admit.check(header, InputPolicy())
    assert "SMITH" not in str(caught.value)


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": "DOE JANE 1950"},
        {"ViewPosition": "DOE_JANE"},
        {"Modality": "DOE"},
        {"BodyPartExamined": None, "AnatomicRegionSequence": _coded("DOE")},
        {"ViewPosition": None, "ViewCodeSequence": _coded("DOE")},
    ],
)
def test_a_name_in_a_code_string_is_not_repeated(attributes: dict[str, Any]) -> None:
    header = dicom.open_object(film(1, **attributes), Limits()).header
    assert "DOE" not in repr(header)
    with pytest.raises(HilumError, match="is another value; expected") as caught:
        admit.check(header, InputPolicy())
    assert "DOE" not in str(caught.value)


def test_words_of_the_standard_are() -> None:
    for attributes, said in (
        ({"BodyPartExamined": "SKULL"}, "is SKULL; expected CHEST"),
        ({"ViewPosition": "LLD"}, "is LLD; expected PA"),
        ({"Modality": "CT"}, "is CT; expected CR"),
        ({"Modality": None}, "is missing; expected CR"),
    ):
        with pytest.raises(HilumError, match=said):
            _check(**attributes)


def test_radiofluoroscopy_only_where_the_policy_lists_it() -> None:
    assert _check(InputPolicy(modalities=("CR", "DX", "RF")), Modality="RF") == ()


def test_of_several_frames_the_first_if_the_policy_says_so() -> None:
    rules = InputPolicy(multi_frame="first")
    assert _check(rules, NumberOfFrames=2) == ("first_frame",)
    assert _check(rules, NumberOfFrames=1) == ()


@pytest.mark.parametrize(
    ("attributes", "flag", "rule", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", "burned_in",
         "policy.burned_in_annotation"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing", "for_processing",
         "policy.for_processing"),
    ],
)  # fmt: skip
def test_flagged_refused_or_let_be(
    attributes: dict[str, Any], flag: str, rule: str, code: str
) -> None:
    assert _check(**attributes) == (flag,)
    assert _check(InputPolicy.model_validate({rule: "off"}), **attributes) == ()
    with pytest.raises(HilumError) as caught:
        _check(InputPolicy.model_validate({rule: "refuse"}), **attributes)
    assert caught.value.code == code


ADULTS = InputPolicy(min_age_years=18)


@pytest.mark.filterwarnings("ignore:Invalid value")  # pydicom, as we write an old date
@pytest.mark.parametrize(
    ("attributes", "young"),
    [
        ({"PatientAge": "017Y"}, True),
        ({"PatientAge": "018Y"}, False),
        ({"PatientAge": "215M"}, True),
        ({"PatientAge": "217M"}, False),
        ({"PatientAge": "003D"}, True),
        ({"PatientAge": "040W"}, True),
        ({"PatientBirthDate": "20040615", "StudyDate": "20220614"}, True),
        ({"PatientBirthDate": "20040615", "StudyDate": "20220615"}, False),
        ({"PatientBirthDate": "2004.06.15", "StudyDate": "20220615"}, False),
        # The age when the film was taken, not when the study was begun; the age given counts.
        ({"PatientBirthDate": "20040615", "StudyDate": "20220614", "AcquisitionDate": "20220620"},
         False),
        ({"PatientAge": "017Y", "PatientBirthDate": "19500101", "StudyDate": "20220614"}, True),
        ({"PatientAge": "", "PatientBirthDate": "19500101", "StudyDate": "20220614"}, False),
    ],
)  # fmt: skip
def test_patients_too_young_for_the_model(attributes: dict[str, Any], young: bool) -> None:
    flagging = ADULTS.model_copy(update={"under_age": "flag"})
    assert _check(flagging, **attributes) == (("under_age",) if young else ())
    if not young:
        assert _check(ADULTS, **attributes) == ()
        return
    with pytest.raises(HilumError) as caught:
        _check(ADULTS, **attributes)
    assert caught.value.code == "policy.under_age"
    for value in attributes.values():
        assert value not in str(caught.value), "neither age nor dates in texts"


@pytest.mark.filterwarnings("ignore:(Invalid value|The value length)")  # pydicom, as we write
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientAge": "17"},
        {"PatientAge": "999Y"},
        {"PatientBirthDate": "20040615"},
        {"PatientBirthDate": "20041315", "StudyDate": "20220614"},
        {"PatientBirthDate": "20240615", "StudyDate": "20220614"},
    ],
)
def test_an_age_that_is_not_said(attributes: dict[str, Any]) -> None:
    assert _check(ADULTS, **attributes) == ("age_unknown",)
    assert _check(ADULTS.model_copy(update={"unknown_age": "off"}), **attributes) == ()
    with pytest.raises(HilumError, match=r"policy\.under_age"):
        _check(ADULTS.model_copy(update={"unknown_age": "refuse"}), **attributes)
    assert _check(**attributes) == (), "no matter to a model for all ages"


def _looked(*doubts: Doubt, rules: PixelPolicy | None = None, **attributes: Any) -> tuple[str, ...]:
    header = dicom.open_object(film(1, **attributes), Limits()).header
    return admit.check_pixels(doubts, header, rules or PixelPolicy())


@pytest.mark.parametrize("name", ["blank", "not_chest", "not_frontal", "inverted", "rotated"])
def test_what_the_picture_looks_like(name: Name) -> None:
    sure, unsure = Doubt(name=name, sure=True), Doubt(name=name, sure=False)
    refusing, flagging = (PixelPolicy.model_validate({name: how}) for how in ("refuse", "flag"))
    with pytest.raises(HilumError) as caught:
        _looked(sure, rules=refusing)
    assert caught.value.code == f"policy.{name}"
    assert _looked(unsure, rules=refusing) == (f"maybe_{name}",)
    assert _looked(sure, unsure, rules=flagging) == (name, f"maybe_{name}")
    assert _looked(sure, unsure, rules=PixelPolicy.nothing()) == ()


def test_header_and_picture_may_contradict_each_other() -> None:
    """By default a sure picture refuses where the header is silent, and flags where it is not."""
    chest, frontal = Doubt(name="not_chest", sure=True), Doubt(name="not_frontal", sure=True)
    assert _looked(chest, frontal) == ("not_chest", "not_frontal")
    with pytest.raises(HilumError, match=r"policy\.not_chest"):
        _looked(chest, BodyPartExamined=None)
    with pytest.raises(HilumError, match=r"policy\.not_frontal"):
        _looked(frontal, ViewPosition=None)
    assert _looked(chest, ViewPosition=None) == ("not_chest",)
    maybe = Doubt(name="not_chest", sure=False)
    assert _looked(maybe, BodyPartExamined=None) == ("maybe_not_chest",)


def test_a_mirrored_film_is_only_ever_flagged() -> None:
    doubt = Doubt(name="mirrored", sure=False)
    assert _looked(doubt) == ("maybe_mirrored",)
    assert _looked(doubt, rules=PixelPolicy(mirrored="off")) == ()


def test_a_rotated_film_says_by_how_much() -> None:
    with pytest.raises(HilumError, match="by 90 degrees"):
        _looked(Doubt(name="rotated", sure=True, turn=90))
