"""``hilum manifest`` on small data sets that look like the real ones."""

from __future__ import annotations

import csv
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import CHESTXRAY14, CHEXPERT, COVID_TB_PNEUMONIA, SYNTHETIC
from trainer import data, manifest
from trainer.datasets import dicom_table
from trainer.datasets.cli import manifest as command
from trainer.errors import DataError, PatientLeakError

SAMPLES = Path(__file__).parents[3] / "models" / "samples"
SPEC = PreprocessSpec(size=32)

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(command, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def _film(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 256, (40, 32), dtype=np.uint8)
    Image.fromarray(grey).save(path)


def _usable(path: Path, schema: object, cache: Path) -> int:
    splits = data.load(path, schema, SPEC, cache_dir=cache)  # type: ignore[arg-type]
    return sum(len(split) for split in splits.values())


@pytest.fixture
def chestxray14(tmp_path: Path) -> Path:
    """Sixteen patients of two films, as the archives unpack."""
    folder = tmp_path / "nih"
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    labels = ("No Finding", "Mass|Nodule", "Hernia", "Effusion")
    for n in range(32):
        name = f"{n // 2:08d}_{n % 2:03d}.png"
        _film(folder / f"images_{1 + n // 16:03d}" / "images" / name, n)
        rows.append(
            f"{name},{labels[n % 4]},0,{n // 2},{40 + n},M,{'AP' if n % 3 else 'PA'},1,1,.1,.1"
        )
        lists["test_list.txt" if n >= 24 else "train_val_list.txt"].append(name)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000015_001.png,Infiltrate,3,4,10,12,,,\n"
    )
    for name, images in lists.items():
        (folder / name).write_text("\n".join(images) + "\n")
    return folder


def test_chestxray14(chestxray14: Path, tmp_path: Path, run: Run) -> None:
    target = tmp_path / "m.parquet"
    result = run("chestxray14", chestxray14, "--to", target, "--val-share", "0.25")
    assert result.exit_code == 0, result.output
    assert str(target) in result.output
    records = manifest.read(target, CHESTXRAY14)
    assert [sum(r.split == s for r in records) for s in data.SPLITS] == [18, 6, 8]
    (boxed,) = [record for record in records if record.boxes]
    assert boxed.uri == "nih/images_002/images/00000015_001.png"
    assert (boxed.boxes[0].label, boxed.boxes[0].y1) == ("Infiltration", 16.0)
    assert _usable(target, CHESTXRAY14, tmp_path / "cache") == 32


def test_chestxray14_with_images_missing(chestxray14: Path, tmp_path: Path, run: Run) -> None:
    (chestxray14 / "images_001" / "images" / "00000001_000.png").unlink()
    target = tmp_path / "m.csv"
    with pytest.raises(DataError, match="1 of 32 images are not below"):
        run("chestxray14", chestxray14, "--to", target)
    assert not target.exists()
    assert run("chestxray14", chestxray14, "--to", target, "--allow-missing").exit_code == 0
    assert len(manifest.read(target, CHESTXRAY14)) == 31
    (chestxray14 / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"no test_list\.txt"):
        run("chestxray14", chestxray14, "--to", target, "--allow-missing")


def test_chexpert(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "CheXpert-small-copied"
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT.labels]
    for name, patients in (("train", range(20)), ("valid", range(90, 94))):
        with (folder.mkdir(exist_ok=True) or (folder / f"{name}.csv")).open("w") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for n in patients:
                for view in ("frontal", "lateral"):
                    path = f"{name}/patient{n:05d}/study1/view1_{view}.jpg"
                    _film(folder / path, 2 * n + (view == "lateral"))
                    values = ["1.0" if n % 3 == 0 else "-1.0" if n % 3 == 1 else ""] * 14
                    where = [view.title(), "AP" if view == "frontal" else ""]
                    table.writerow([f"CheXpert-v1.0-small/{path}", "Female", 60, *where, *values])
    target = tmp_path / "chexpert.csv"
    arguments = ("--uncertain", "zeros", "--uncertain-label", "Edema=ones", "--val-share", "0.2")
    assert run("chexpert", folder, "--to", target, *arguments).exit_code == 0
    records = manifest.read(target, CHEXPERT)
    assert len(records) == 24
    unsure = [r for r in records if r.split == "train" and int(r.patient[-2:]) % 3 == 1]
    assert {r.targets[CHEXPERT.index("Edema")] for r in unsure} == {1.0}
    assert {r.targets[CHEXPERT.index("Fracture")] for r in unsure} == {0.0}
    assert _usable(target, CHEXPERT, tmp_path / "cache") == 24
    assert run("chexpert", folder, "--to", target, "--uncertain-label", "Edema").exit_code == 2


def test_a_folder_for_each_class(tmp_path: Path, run: Run) -> None:
    radiography, tuberculosis = tmp_path / "radiography", tmp_path / "tb-set"
    for n in range(12):
        _film(radiography / "COVID" / "images" / f"COVID-{n}.png", n)
        _film(radiography / "COVID" / "masks" / f"COVID-{n}.png", 1000 + n)
        _film(radiography / "Normal" / "images" / f"Normal-{n}.png", 100 + n)
        _film(radiography / "Viral Pneumonia" / "images" / f"VP-{n}.png", 200 + n)
        _film(radiography / "Lung_Opacity" / "images" / f"LO-{n}.png", 300 + n)
        _film(tuberculosis / "Tuberculosis" / f"TB-{n}.jpg", 400 + n)
    target = tmp_path / "mixed.csv"
    with pytest.raises(DataError, match="'Lung_Opacity' is not a class"):
        run("folders", radiography, tuberculosis, "--to", target)
    result = run("folders", radiography, tuberculosis, "--to", target, "--skip", "Lung_Opacity")
    assert "patient of 48 of 48 films is unknown" in result.output
    records = manifest.read(target, COVID_TB_PNEUMONIA)
    assert {record.site for record in records} == {"radiography", "tb-set"}
    for split in data.SPLITS:
        totals = np.sum([r.targets for r in records if r.split == split], axis=0)
        assert totals.min() >= 1, "every class in every split"
    assert np.sum([r.targets for r in records], axis=0).tolist() == [12, 12, 12, 12]
    assert _usable(target, COVID_TB_PNEUMONIA, tmp_path / "cache") == 48


def test_a_set_with_splits_of_its_own(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "chest_xray"
    for n in range(16):
        part = "test" if n >= 12 else "train"
        for k, name in enumerate(("NORMAL", "PNEUMONIA")):
            for film in range(2):
                _film(
                    root / part / name / f"person{n}{k}_bacteria_{film}.jpeg", 8 * n + 2 * k + film
                )
    target = tmp_path / "k.csv"
    assert run("folders", root, "--to", target, "--patient", r"person(\d+)_").exit_code == 0
    records = manifest.read(target, COVID_TB_PNEUMONIA)
    assert sum(r.split == "test" for r in records) == 16
    assert {len([s for s in records if s.patient == r.patient]) for r in records} == {2}
    _film(root / "test" / "NORMAL" / "person00_bacteria_9.jpeg", 999)
    with pytest.raises(PatientLeakError, match="1 patients"):
        run("folders", root, "--to", target, "--patient", r"person(\d+)_")
    assert run("folders", root, "--to", target, "--patient", r"person\d+").exit_code == 2


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Twelve objects of six patients, and a file that is none."""
    folder = tmp_path / "pacs"
    for n in range(12):
        dataset = pydicom.dcmread(sorted(SAMPLES.glob("*.dcm"))[n % 6])
        dataset.PatientID, dataset.PatientSex = f"MRN-{n // 2}", "FM"[n % 2]
        dataset.PatientAge, dataset.ViewPosition = f"{50 + n:03d}Y", "AP" if n % 4 else "PA"
        uid = f"1.2.3.{n}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        path = folder / f"study{n // 2}" / f"{n}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another byte somewhere, so that no two films are the same file.
        dataset.save_as(path)
    (folder / "README.txt").write_text("not a film")
    return folder


def _labels(path: Path, key: str, names: list[str], **more: list[str]) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([key, *SYNTHETIC.labels, *more])
        for n, name in enumerate(names):
            values = ["1" if n % 3 == 0 else "0", "", "0", "0.5", "0", "0"]
            out.writerow([name, *values, *(column[n] for column in more.values())])
    return path


def test_dicom_with_a_table(films: Path, tmp_path: Path, run: Run) -> None:
    table = _labels(tmp_path / "labels.csv", "file", [f"study{n // 2}/{n}.dcm" for n in range(12)])
    target = tmp_path / "pacs.csv"
    arguments = (films, table, "--to", target, "--schema", "synthetic-v1")
    result = run("dicom", *arguments, "--site", "north")
    assert result.exit_code == 0, result.output
    assert "1 objects are not DICOM" in result.output
    text = target.read_text()
    assert "MRN" not in text
    assert "1.2.3" not in text
    records = manifest.read(target, SYNTHETIC)
    assert len({record.patient for record in records}) == 6
    assert {record.site for record in records} == {"north"}
    assert {record.view for record in records} == {"PA", "AP"}
    assert {record.age for record in records} == set(range(50, 62))
    assert all(np.isnan(record.targets[1]) for record in records)
    key = target.with_suffix(".key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert _usable(target, SYNTHETIC, tmp_path / "cache") == 12
    # The same key, the same names; another key, others.
    run("dicom", *arguments, "--site", "north")
    assert target.read_text() == text
    run("dicom", *arguments, "--pseudonym-key", tmp_path / "other.key")
    assert {r.patient for r in manifest.read(target, SYNTHETIC)}.isdisjoint(
        {r.patient for r in records}
    )


def test_dicom_by_uid_with_splits_of_the_table(films: Path, tmp_path: Path, run: Run) -> None:
    split = ["train"] * 6 + ["val"] * 2 + ["test"] * 5
    names = [f"1.2.3.{n}" for n in range(12)] + ["1.2.3.99"]
    table = _labels(tmp_path / "l.csv", "sop_instance_uid", names, split=split)
    target = tmp_path / "pacs.parquet"
    arguments = ("dicom", films, table, "--to", target, "--schema", "synthetic-v1")
    with pytest.raises(DataError, match="1 of 13 rows have no film"):
        run(*arguments)
    assert run(*arguments, "--allow-missing").exit_code == 0
    records = manifest.read(target, SYNTHETIC)
    assert [sum(r.split == s for r in records) for s in data.SPLITS] == [6, 2, 4]
    _labels(
        tmp_path / "l.csv",
        "sop_instance_uid",
        names[:12],
        split=["train"] + split[1:5] + ["val"] * 7,
    )
    with pytest.raises(PatientLeakError):
        run(*arguments)


def test_dicom_in_s3_keeps_its_addresses(films: Path) -> None:
    """Against the port's contract; the store itself is tested with a real one."""
    store = _Bucket(films)
    found, others = dicom_table.scan("s3://films/pacs", store, dicom_table.pseudonym(b"k" * 32))  # type: ignore[arg-type]
    assert others == 1
    assert {film.record.uri for film in found} == {
        f"s3://films/pacs/study{n // 2}/{n}.dcm" for n in range(12)
    }
    assert found[0].file.startswith("study")
    assert "MRN" not in repr(found)
    assert "1.2.3" not in repr(found)


class _Bucket:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def iter_uris(self, prefix: str) -> list[str]:
        paths = sorted(path for path in self._folder.rglob("*") if path.is_file())
        return [f"{prefix}/{path.relative_to(self._folder)}" for path in paths]

    def read(self, uri: str) -> bytes:
        return (self._folder / uri.removeprefix("s3://films/pacs/")).read_bytes()


COLUMNS = ",".join(SYNTHETIC.labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.dcm\n", "lacks the columns: Cardiomegaly"),
        (f"name,{COLUMNS}\nx,0,0,0,0,0,0\n", "file or sop_inst"),
        (f"file,{COLUMNS}\n", "has no row"),
        (
            f"file,{COLUMNS}\nstudy0/0.dcm,yes,0,0,0,0,0\n",
            "Line 2 of the table: a label",
        ),
        (f"file,{COLUMNS}\nstudy0/0.dcm,3,0,0,0,0,0\n", "Line 2 of the table: a label"),
    ],
)
def test_tables_of_labels_that_do_not_fit(
    films: Path, tmp_path: Path, run: Run, text: str, message: str
) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(HilumError, match=message):
        run(
            "dicom",
            films,
            tmp_path / "l.csv",
            "--to",
            tmp_path / "m.csv",
            "--schema",
            "synthetic-v1",
        )


def test_show_checks_and_converts(dataset: Path, run: Run) -> None:
    result = run("show", dataset, "--schema", "synthetic-v1")
    assert "60 images" in result.output
    assert "Split val has no positive of Cardiomegaly" in result.output
    parquet = dataset.with_suffix(".parquet")
    assert run("show", dataset, "--schema", "synthetic-v1", "--to", parquet).exit_code == 0
    one, two = manifest.read(dataset, SYNTHETIC), manifest.read(parquet, SYNTHETIC)
    assert str(one) == str(two)
    with pytest.raises(DataError, match="does not fit schema 'chestxray14-v1': it lacks Atel"):
        run("show", dataset, "--schema", "chestxray14-v1")
