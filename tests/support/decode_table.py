"""``python -m support.decode_table FILE`` checks every kind of input and writes the table of what
was checked. The tests check the same and compare the table (``docs/dicom-support.md``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom.data import get_testdata_file
from support import colour_cases, dcmtk, decode_cases
from support.decode_cases import Case, check

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.settings import Limits

INTRODUCTION = """\
# What is decoded, and how that is known

Written by `make decoders` and checked row by row by the tests
(`tests/hilum/dicom/test_decoders.py`); how pixels become a film is in [dicom.md](dicom.md).

**Exact** means every stored value (of a colour capture: every grey). **Within *n*** is the bound
that the test holds for a lossy encoding, in units of the row's bits. *Encoded pixels* are those
that the test had encoded.

GDCM, Pillow, pylibjpeg-openjpeg and pyjpegls are other builds of libraries of the same families
(OpenJPEG, CharLS, libjpeg); OpenJPH and pydicom are other code. For lossless encodings the encoded
pixels themselves are the stronger witness. DCMTK (below) has RLE and byte order of its own, CharLS,
and an older branch of libjpeg, which is the second decoder of 12-bit JPEG Extended.

| input | pixels | decoded by | verified against | result |
|---|---|---|---|---|
"""

REAL = """
## Real files

Of the NEMA sample set and pydicom's own test files; the second file is uncompressed and was made
by the software named, not by what decodes here. Besides these, every single-frame image among
pydicom's test files is compared with pydicom's `pixel_array`
(`tests/hilum/dicom/test_pydicom_files.py`).

| input | file | equals | made by | result |
|---|---|---|---|---|
"""


BY_DCMTK = f"""
## {dcmtk.VERSION}

The same files as above, as its tools decode them; recorded, because it is no Python package
(`python -m support.dcmtk`). *Within 1*: two inverse DCTs round differently.

| input | pixels | result |
|---|---|---|
"""


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


def written() -> str:
    """The table."""
    rows = [
        f"| {case.syntax} | {case.kind} | {case.decoder} | "
        f"{', '.join(['encoded pixels', *case.others])} | {_result(case.bound)} |"
        for case in cases()
    ]
    pairs = [
        f"| {pair.kind} | `{pair.one}` | `{pair.other}` | {pair.origin} | {_result(pair.bound)} |"
        for pair in PAIRS
    ]
    recorded = [f"| {record.name} | {_result(record.bound)} |" for record in dcmtk.records()]
    parts = [INTRODUCTION, rows, REAL, pairs, BY_DCMTK, recorded]
    return "".join(part if isinstance(part, str) else "\n".join(part) + "\n" for part in parts)


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
    Path(sys.argv[1]).write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()
