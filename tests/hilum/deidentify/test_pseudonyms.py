"""Pseudonyms: valid UIDs, the same for the same, different otherwise."""

from __future__ import annotations

import uuid

import pytest
from pydantic import SecretStr
from pydicom.uid import UID

from hilum.deidentify.pseudonyms import Pseudonyms, open_pseudonyms
from hilum.errors import ConfigurationError
from hilum.settings import DeidentifySettings

REAL = "1.3.51.0.7.1719308034.48186.25456.43325.47350.43268.57341"
NAMES = Pseudonyms("a" * 32)


def test_a_pseudonym_is_a_uid_and_a_uuid() -> None:
    found = NAMES.uid(REAL)
    assert UID(found).is_valid
    assert len(found) <= 64
    as_uuid = uuid.UUID(int=int(found.removeprefix("2.25.")))
    assert (as_uuid.version, as_uuid.variant) == (8, uuid.RFC_4122)


def test_the_same_for_the_same_only() -> None:
    assert NAMES.uid(REAL) == Pseudonyms("a" * 32).uid(REAL)
    others = {NAMES.uid(REAL), NAMES.uid(REAL + "1"), Pseudonyms("b" * 32).uid(REAL)}
    assert len(others) == 3
    # Pinned: what was given out once must be found again.
    assert NAMES.uid("1.2.3") == "2.25.249694072435865821782667133877295938118"


def test_no_uid_no_pseudonym() -> None:
    assert NAMES.uid("") == ""


def test_tokens_of_addresses() -> None:
    token = NAMES.token("source", "s3://bucket/DOE^JANE/1.dcm")
    assert token.startswith("source-")
    assert "DOE" not in token
    assert token != NAMES.token("content", "s3://bucket/DOE^JANE/1.dcm")
    assert NAMES.token("source", "odd\udcff")  # a file name that is no UTF-8


@pytest.mark.parametrize("secret", [None, SecretStr("too short")])
def test_not_without_a_secret(secret: SecretStr | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_pseudonyms(DeidentifySettings(secret=secret))
    assert "too short" not in str(caught.value)
