"""Coded views and body parts (PS3.16 CID 4010 "DX View", CID 4009 "DX Anatomy Imaged").

SNOMED CT identifiers and the retired SRT ones; each entry is checked against pydicom's
dictionaries by the tests.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

# A code of a standard scheme that is not listed is another view or part. A code of a private
# scheme says nothing.
_STANDARD: Final = {"SCT", "SRT", "SNM3"}

VIEWS: Final[dict[str, str | None]] = {
    "399348003": "AP",
    "R-10206": "AP",
    "272479007": "PA",
    "R-40888": "PA",
    "399033003": None,  # frontal, PA or AP is not said
    "R-10202": None,
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
    "399173006": "LL",
    "R-10236": "LL",
    "399198007": "RL",
    "R-10232": "RL",
}
CHEST: Final = {
    "816094009",  # chest
    "51185008",  # thoracic structure
    "T-D3000",
    "43799004",  # intra-thoracic, chest cavity
    "T-D3200",
    "39607008",  # lung
    "T-28000",
}


def view(dataset: Dataset) -> str | None:
    """View Code Sequence (0054,0220) as a View Position; ``None`` if it says nothing."""
    code = _code(dataset, "ViewCodeSequence")
    return None if code is None else VIEWS.get(code, f"CODE {code}")


def body_part(dataset: Dataset) -> str | None:
    """Anatomic Region Sequence (0008,2218) as a body part; ``None`` if it says nothing."""
    code = _code(dataset, "AnatomicRegionSequence")
    # The meaning is free text, so that only known codes speak.
    return None if code is None else "CHEST" if code in CHEST else f"CODE {code}"


def _code(dataset: Dataset, keyword: str) -> str | None:
    """The first item's code, if its scheme is a standard one (PS3.3 section 8.8)."""
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    scheme = str(sequence[0].get("CodingSchemeDesignator") or "").strip(" \0").upper()
    code = str(sequence[0].get("CodeValue") or "").strip(" \0").upper()
    return code if code and scheme in _STANDARD else None
