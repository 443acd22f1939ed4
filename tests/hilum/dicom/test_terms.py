"""The words of the standard, against the lists of it that pydicom ships."""

from __future__ import annotations

import re

from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from hilum.dicom import terms

# Defined terms that abbreviate a meaning of PS3.16.
PARTS = {
    "ANKLE": "ankle joint",
    "ARM": "upper arm",
    "CALF": "structure of calf of leg (body structure)",
    "CHESTABDPELVIS": "chest, abdomen and pelvis",
    "CSPINE": "cervical spine",
    "CTSPINE": "cervico-thoracic spine",
    "ELBOW": "elbow joint",
    "IAC": "internal auditory canal",
    "JAW": "jaw region",
    "LEG": "lower leg",
    "LSPINE": "lumbar spine",
    "LSSPINE": "lumbo-sacral spine",
    "NECKCHESTABDPELV": "neck, chest, abdomen and pelvis",
    "ORBIT": "orbital structure",
    "SSPINE": "sacrum",
    "TLSPINE": "thoraco-lumbar spine",
    "TMJ": "temporomandibular joint",
    "TSPINE": "thoracic spine",
    "WHOLEBODY": "entire body",
    "WRIST": "wrist joint",
}
VIEWS = {
    "AP": "antero-posterior",
    "PA": "postero-anterior",
    "LL": "left lateral",
    "RL": "right lateral",
    "RLD": "right lateral decubitus",
    "LLD": "left lateral decubitus",
    "RLO": "right oblique",
    "LLO": "left oblique",
    "CC": "cranio-caudal",
    "FB": "caudo-cranial",
    "ISO": "inferomedial to superolateral oblique",
    "LM": "latero-medial",
    "LMO": "latero-medial oblique",
    "ML": "medial-lateral",
    "MLO": "medio-lateral oblique",
    "SIO": "superolateral to inferomedial oblique",
    "XCC": "exaggerated cranio-caudal projection (qualifier value)",
    "XCCL": "cranio-caudal exaggerated laterally",
    "XCCM": "cranio-caudal exaggerated medially",
    "AXIAL": "axial",
    "LATERAL": "lateral",
    "OBLIQUE": "oblique",
}
ONLY_IN_THE_FIELD = {"DR", "RIBS", "DECUBITUS", "LAT", "LORDOTIC"}

MEANINGS = {
    meaning.lower()
    for scheme in ("SCT", "DCM")
    for coded in concepts[scheme].values()
    for meaning, _ in coded.values()
}


def of(cid: int) -> dict[str, str]:
    """The codes of a context group with their meanings."""
    return {
        code: meaning
        for scheme, names in cid_concepts[cid].items()
        for name in names
        for code, (meaning, cids) in concepts[scheme][name].items()
        if cid in cids
    }


def bare(meaning: str) -> str:
    return re.sub(r"[^A-Z]", "", re.sub(r"\bAND\b", "", meaning.upper()))


def test_modalities_are_those_of_cid_33() -> None:
    assert set(of(33)) == terms.MODALITIES - ONLY_IN_THE_FIELD


def test_body_parts_are_words_of_the_standard() -> None:
    known = {bare(meaning) for meaning in MEANINGS}
    assert set(PARTS.values()) | set(VIEWS.values()) <= MEANINGS
    assert terms.BODY_PARTS - ONLY_IN_THE_FIELD - set(PARTS) <= known
    assert set(PARTS) <= terms.BODY_PARTS
    films = {meaning.upper() for meaning in of(4009).values() if " " not in meaning}
    assert films <= terms.BODY_PARTS


def test_views_are_words_of_the_standard() -> None:
    assert set(VIEWS) == terms.VIEWS - ONLY_IN_THE_FIELD
    mammography = set(of(4014).values()) - {"tissue specimen from breast"}
    assert mammography <= set(VIEWS.values())
