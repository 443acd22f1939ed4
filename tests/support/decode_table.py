"""``make decoders``: check every kind of input and write down what was checked.

The page ``docs/understand/films.md`` gets one row for each transfer syntax, between two comments;
``decoders.csv`` beside it gets a row for each case. The tests check the same and compare both.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.data import get_testdata_file
from support import colour_cases, dcmtk, decode_cases
from support.decode_cases import Case, check

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.settings import Limits

PAGE: Final = Path(__file__).parents[2] / "docs/understand/films.md"
DETAILS: Final = PAGE.with_name("decoders.csv")
_START, _END = "<!-- decoders: `make decoders` -->\n", "<!-- /decoders -->"
_COLUMNS = ("evidence", "input", "pixels", "decoded by", "verified against", "result")
# The cases in colour say some names more shortly.
_SHORT: Final = {
    "JPEG Lossless SV1": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
    "JPEG 2000 Lossless": "JPEG 2000 Image Compression (Lossless Only)",
    "JPEG 2000": "JPEG 2000 Image Compression",
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two files of one image."""

    kind: str
    one: str
    other: str
    origin: str
    bound: int = 0


PAIRS = [
    *(
        Pair(kind=kind, one=f"{name}_{one}", other=f"{name}_{other}", origin="NEMA")
        for one, other, how in [("J2KR", "UNCR", "reversible"), ("J2KI", "UNCI", "irreversible")]
        for name, kind in [
            ("RG1", f"JPEG 2000, {how}: chest film, MONOCHROME1, 15 bits"),
            ("RG3", f"JPEG 2000, {how}: extremity, MONOCHROME1, 10 bits"),
            ("MR2", f"JPEG 2000, {how}: MONOCHROME2, 12 bits"),
            ("693", f"JPEG 2000, {how}: MONOCHROME2, 14 bits, signed"),
            ("US1", f"JPEG 2000, {how}: colour, 8 bits"),
        ]
    ),
    Pair(kind="JPEG 2000: MONOCHROME2, 16 bits, signed", one="JPEG2000", other="JPEG2000_UNC",
         origin="NEMA"),
    Pair(kind="JPEG Extended: MONOCHROME2, 12 bits", one="JPGExtended", other="JPEG-LL",
         origin="NEMA (JPEG Lossless)", bound=40),
    Pair(kind="JPEG Baseline: RGB, Adobe marker", one="SC_rgb_dcmtk_+eb+cr",
         other="SC_rgb_dcmtk_ebcr_dcmd", origin="DCMTK"),
    *(
        Pair(kind=f"JPEG Baseline: YBR_FULL{more}", one=f"SC_rgb_dcmtk_+eb+cy+{name}",
             other=f"SC_rgb_dcmtk_ebcy{name}_dcmd", origin="DCMTK")
        for name, more in [("n1", ", 4:2:0"), ("n2", ", 4:2:2"), ("np", "_422, 4:2:0"),
                           ("s2", "_422, 4:2:2"), ("s4", ", 4:4:4")]
    ),
    Pair(kind="JPEG Baseline: RGB, no marker", one="SC_rgb_jpeg", other="SC_rgb_jpeg_dcmd",
         origin="DCMTK"),
    Pair(kind="JPEG 2000: RGB", one="SC_rgb_gdcm_KY", other="SC_rgb_gdcm2k_uncompressed",
         origin="GDCM"),
    Pair(kind="RLE: RGB", one="SC_rgb_rle", other="SC_rgb", origin="pydicom"),
    Pair(kind="RLE: MONOCHROME2, 32 bits", one="rtdose_rle_1frame", other="rtdose_1frame",
         origin="pydicom"),
    Pair(kind="Planar Configuration 1", one="color-pl", other="color-px", origin="NEMA"),
]  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them, in the order of the table."""
    return chain(
        decode_cases.natives(),
        decode_cases.run_lengths(),
        decode_cases.lossless(),
        decode_cases.lossy(),
        colour_cases.captures(),
        colour_cases.pictures(),
    )


def check_pair(pair: Pair) -> None:
    """Decode both files.

    Raises:
        AssertionError: a value differs by more than the pair allows.
    """
    one, other = (_stored(name).astype(np.int64) for name in (pair.one, pair.other))
    assert one.shape == other.shape
    assert int(np.abs(one - other).max()) <= pair.bound


def details() -> str:
    """The CSV: a row for each case, each pair of real files, and each file that DCMTK decoded."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for case in cases():
        against = ", ".join(["encoded pixels", *case.others])
        rows.writerow(
            ["encoded", case.syntax, case.kind, case.decoder, against, _result(case.bound)]
        )
    for pair in PAIRS:
        kind, _, pixels = pair.kind.partition(": ")
        against = f"{pair.other} of {pair.origin}"
        rows.writerow([f"file {pair.one}", kind, pixels, "", against, _result(pair.bound)])
    for record in dcmtk.records():
        syntax, _, pixels = record.name.partition(" | ")
        rows.writerow(["encoded", syntax, pixels, "", dcmtk.VERSION, _result(record.bound)])
    return out.getvalue()


def table() -> str:
    """The page's table: a row for each transfer syntax and kind of file."""
    by_syntax: dict[str, list[Case]] = {}
    for case in cases():
        by_syntax.setdefault(_SHORT.get(case.syntax, case.syntax), []).append(case)
    recorded = {record.name.partition(" | ")[0] for record in dcmtk.records()}
    rows = ["| input | pixels | decoded by | verified against | values |", "|---|---|---|---|---|"]
    for syntax, found in by_syntax.items():
        others = dict.fromkeys(chain.from_iterable(case.others for case in found))
        against = ["encoded pixels", *others, *(["DCMTK"] if syntax in recorded else [])]
        bounds = sorted({case.bound for case in found})
        values = _result(bounds[0]) + (f" to {bounds[-1]}" if len(bounds) > 1 else "")
        row = (syntax, _pixels(found), found[0].decoder, ", ".join(against), values)
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """``text`` with the table between its two comments as it should be."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    assert end, f"{PAGE} has lost the comments around its table"
    return before + start + table() + end + after


def _pixels(found: list[Case]) -> str:
    """The kinds in a few words: grey depths together, then each other kind."""
    depths: dict[str, set[int]] = {"": set(), "signed ": set()}
    others: dict[str, None] = {}
    for case in found:
        grey = re.fullmatch(r"MONOCHROME2, (\d+) bits(, signed)?", case.kind)
        if grey:
            depths["signed " if grey[2] else ""].add(int(grey[1]))
        else:
            others[case.kind.replace(", 8 bits", "")] = None
    greys = [
        f"{sign}{', '.join(map(str, sorted(bits)))} bits" for sign, bits in depths.items() if bits
    ]
    return "; ".join([*(["grey of " + " and ".join(greys)] if greys else []), *others])


def _stored(name: str) -> np.ndarray:
    path = get_testdata_file(f"{name}.dcm", download=False)
    assert path is not None, f"{name} comes with pydicom or pydicom-data"
    return stored_values(dicom.open_object(Path(str(path)).read_bytes(), Limits()))


def _result(bound: int) -> str:
    return f"within {bound}" if bound else "exact"


def main() -> None:
    for case in cases():
        check(case)
    for pair in PAIRS:
        check_pair(pair)
    for record in dcmtk.records():
        dcmtk.check(record)
    DETAILS.write_text(details(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
