"""A data set in a real S3 server, from its objects to prepared splits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from hilum.errors import CredentialsRejectedError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from hilum.settings import Limits, S3Settings
from hilum.storage import open_store
from trainer import data, manifest
from trainer.datasets import dicom_table

SAMPLE = Path(__file__).parents[3] / "models" / "samples" / "no-finding.dcm"
SPEC = PreprocessSpec(size=32)


def test_from_objects_to_splits(s3: S3Settings, bucket: str, tmp_path: Path) -> None:
    store = open_store(s3, Limits(), allow_local=True)
    rows = []
    for n in range(12):
        dataset = pydicom.dcmread(SAMPLE)
        dataset.PatientID, uid = f"MRN-{n // 2}", f"1.2.3.{n}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        out = io.BytesIO()
        dataset.save_as(out)
        store.write(f"s3://{bucket}/cxr/{n // 2}/film {n}.dcm", out.getvalue())
        rows.append({"sop_instance_uid": uid, **dict.fromkeys(SYNTHETIC.labels, str(n % 2))})
    store.write(f"s3://{bucket}/cxr-other/film.dcm", b"of another prefix")
    name = dicom_table.pseudonym(b"k" * 32)
    films, others = dicom_table.scan(f"s3://{bucket}/cxr", store, name)
    assert (len(films), others) == (12, 0)
    records, missing = dicom_table.records(films, rows, SYNTHETIC, name=name)
    assert missing == 0
    path = tmp_path / "manifest.parquet"
    manifest.write(path, records, SYNTHETIC)
    splits = data.load(path, SYNTHETIC, SPEC, cache_dir=tmp_path / "cache", store=store)
    assert sum(map(len, splits.values())) == 12
    assert {
        r.uri.startswith(f"s3://{bucket}/cxr/") for s in splits.values() for r in s.records
    } == {True}
    # The same film from a file: the same bytes.
    local = tmp_path / "local.csv"
    first = splits["train"].records[0]
    (tmp_path / "film.dcm").write_bytes(store.read(first.uri))
    sized = [r for s in splits.values() for r in s.records]
    manifest.write(
        local,
        [
            manifest.Record(
                uri="film.dcm" if r is first else r.uri,
                patient=r.patient,
                split=r.split,
                targets=r.targets,
            )
            for r in sized
        ],
        SYNTHETIC,
    )
    again = data.load(local, SYNTHETIC, SPEC, cache_dir=tmp_path / "second", store=store)
    assert np.array_equal(again["train"].images, splits["train"].images)


def test_wrong_keys_end_the_run_and_blame_no_image(
    s3: S3Settings, bucket: str, tmp_path: Path
) -> None:
    open_store(s3, Limits()).write(f"s3://{bucket}/a.dcm", SAMPLE.read_bytes())
    records = [
        manifest.Record(uri=f"s3://{bucket}/{n}.dcm", patient=n, split=split, targets=(0.0,) * 6)
        for n, split in (("a", "train"), ("b", "val"), ("c", "test"))
    ]
    path = tmp_path / "m.csv"
    manifest.write(path, records, SYNTHETIC)
    wrong = s3.model_copy(update={"access_key_id": "nobody"})
    store = open_store(wrong, Limits())
    with pytest.raises(CredentialsRejectedError):
        data.load(path, SYNTHETIC, SPEC, cache_dir=tmp_path / "cache", store=store)
    assert not list(tmp_path.rglob("whole.json"))
