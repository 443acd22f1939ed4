"""Who films are of: sealed for one place, found by exact search, unreadable without the secret."""

from __future__ import annotations

import pytest

from hilum.db.identity import IdentityVault, open_vault
from hilum.errors import ConfigurationError
from hilum.settings import IdentitySettings

SECRET = "s" * 40
NAME = "Müller^Anna"
SHA = b"1" * 32


@pytest.fixture
def vault() -> IdentityVault:
    return IdentityVault(SECRET)


def test_a_value_comes_back(vault: IdentityVault) -> None:
    sealed = vault.seal(NAME, field="patient_name", tenant="north", instance=SHA)
    again = IdentityVault(SECRET)
    assert again.open(sealed.data, field="patient_name", tenant="north", instance=SHA) == NAME
    assert NAME.encode() not in sealed.data
    other = vault.seal(NAME, field="patient_name", tenant="north", instance=SHA)
    assert sealed.data != other.data, "a nonce each"
    assert sealed.hash == other.hash
    assert len(sealed.hash) == 32


def test_it_opens_nowhere_else(vault: IdentityVault) -> None:
    data = vault.seal("4711", field="patient_id", tenant="north", instance=SHA).data
    wrong = [
        lambda: vault.open(data, field="accession_number", tenant="north", instance=SHA),
        lambda: vault.open(data, field="patient_id", tenant="south", instance=SHA),
        lambda: vault.open(data, field="patient_id", tenant="north", instance=b"2" * 32),
        lambda: vault.open(data[:-1], field="patient_id", tenant="north", instance=SHA),
        lambda: vault.open(b"", field="patient_id", tenant="north", instance=SHA),
        lambda: IdentityVault("t" * 40).open(
            data, field="patient_id", tenant="north", instance=SHA
        ),
    ]
    for step in wrong:
        with pytest.raises(ConfigurationError, match="HILUM_IDENTITY__SECRET") as caught:
            step()
        assert "4711" not in str(caught.value)


def test_searching(vault: IdentityVault) -> None:
    def same(one: str, other: str) -> bool:
        hashes = (vault.hash(text, field="patient_name", tenant="north") for text in (one, other))
        return len({*hashes}) == 1

    assert same("MÜLLER^ANNA^^^", " Müller^Anna")
    assert not same("Müller^Anna", "Müller^Ann")
    places = [("patient_id", "north"), ("accession_number", "north"), ("patient_id", "south")]
    hashes = {vault.hash("1", field=field, tenant=t) for field, t in places}  # type: ignore[arg-type]
    assert len(hashes) == 3
    assert IdentityVault("t" * 40).hash("1", field="patient_id", tenant="north") not in hashes


def test_the_setting() -> None:
    assert open_vault(IdentitySettings()) is None
    for secret in (None, "short"):
        settings = IdentitySettings.model_validate({"store": True, "secret": secret})
        with pytest.raises(ConfigurationError, match="HILUM_IDENTITY__SECRET needs at least 32"):
            open_vault(settings)
    assert open_vault(IdentitySettings.model_validate({"store": True, "secret": SECRET}))
