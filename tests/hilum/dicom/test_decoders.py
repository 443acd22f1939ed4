"""Every row of docs/understand/decoders.csv, and that the committed tables have these rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support import dcmtk, decode_table
from support.dcmtk import Record
from support.decode_cases import Case, check
from support.decode_table import Pair, check_pair


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.syntax}, {case.kind}") for case in decode_table.cases()]
)
def test_decoded_values(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("pair", [pytest.param(p, id=p.one) for p in decode_table.PAIRS])
def test_real_files(pair: Pair) -> None:
    check_pair(pair)


@pytest.mark.parametrize(
    "record", [pytest.param(record, id=record.name) for record in dcmtk.records()]
)
def test_dcmtk_decodes_the_same(record: Record) -> None:
    dcmtk.check(record)


def test_dcmtk_was_asked_about_every_encoding_it_knows() -> None:
    found = {record.name.partition(" | ")[0] for record in dcmtk.records()}
    assert len(found) == 9
    assert "JPEG Extended | MONOCHROME2, 12 bits" in {record.name for record in dcmtk.records()}
    record = next(dcmtk.records())
    with pytest.raises(AssertionError):
        dcmtk.check(dataclasses.replace(record, pixels=record.pixels + 2))


def test_a_wrong_value_would_show() -> None:
    """The check itself: one value off by one more than allowed fails."""
    case = next(decode_table.cases())
    spoilt = np.array(case.expected)
    spoilt[3, 4] ^= 1
    with pytest.raises(AssertionError):
        check(dataclasses.replace(case, expected=spoilt))
    with pytest.raises(AssertionError, match="liar"):
        check(dataclasses.replace(case, others={"liar": lambda _: spoilt}))


def test_the_tables_are_up_to_date() -> None:
    page = decode_table.PAGE.read_text(encoding="utf-8")
    assert page == decode_table.page(page), "run `make decoders`"
    details = decode_table.DETAILS.read_text(encoding="utf-8")
    assert details == decode_table.details(), "run `make decoders`"
