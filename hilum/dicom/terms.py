"""Terms of the standard for modalities, views and body parts; ``terms.csv`` lists them.

A code string holds whatever the sender wrote: a name fits into 16 characters as well as a body
part. Only these terms may be repeated in a text. Kinds in the table:

- ``modality``: Modality (0008,0060), PS3.3 C.7.3.1.1.1 and PS3.16 CID 33, and DR.
- ``view``: View Position (0018,5101), PS3.3 C.8.1.1.1, views of breasts, and names in common use.
- ``body_part``: Body Part Examined (0018,0015), PS3.16 annex L, as far as radiographs show them
  (CID 4009), and names in common use.
- ``view_code`` and ``body_part_code``: codes of CID 4010 and 4009, as SNOMED CT identifiers and as
  the retired SRT ones. A frontal view that may be PA or AP means nothing.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from importlib.resources import files
from typing import Final

from pydicom.dataset import Dataset


def _read() -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = defaultdict(dict)
    for row in csv.DictReader(files(__package__).joinpath("terms.csv").read_text().splitlines()):
        found[row["kind"]][row["term"]] = row["means"] or None
    return found


_TERMS: Final = _read()
MODALITIES: Final = frozenset(_TERMS["modality"])
VIEWS: Final = frozenset(_TERMS["view"])
BODY_PARTS: Final = frozenset(_TERMS["body_part"])
VIEW_CODES: Final = _TERMS["view_code"]
CHEST_CODES: Final = frozenset(_TERMS["body_part_code"])
# A code of a standard scheme that is not listed is another view or part. A code of a private
# scheme says nothing.
_STANDARD: Final = {"SCT", "SRT", "SNM3"}


def view(dataset: Dataset) -> str | None:
    """View Code Sequence (0054,0220) as a View Position; ``None`` if it says nothing."""
    code = _code(dataset, "ViewCodeSequence")
    return None if code is None else VIEW_CODES.get(code, f"CODE {code}")


def body_part(dataset: Dataset) -> str | None:
    """Anatomic Region Sequence (0008,2218) as a body part; ``None`` if it says nothing."""
    code = _code(dataset, "AnatomicRegionSequence")
    # The meaning beside a code is free text, so only known codes are read.
    return None if code is None else "CHEST" if code in CHEST_CODES else f"CODE {code}"


def _code(dataset: Dataset, keyword: str) -> str | None:
    """The code of the first item, if its scheme is a standard one (PS3.3 section 8.8)."""
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    scheme = str(sequence[0].get("CodingSchemeDesignator") or "").strip(" \0").upper()
    code = str(sequence[0].get("CodeValue") or "").strip(" \0").upper()
    return code if code and scheme in _STANDARD else None
