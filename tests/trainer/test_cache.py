"""The cache of prepared images: nothing decoded twice, nothing half written, nothing lost."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hilum.errors import StorageUnavailableError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.labels import SYNTHETIC
from hilum.settings import Limits, S3Settings
from hilum.storage import ObjectStore
from trainer import cache as folders
from trainer import data, manifest, prepare
from trainer.errors import BadImagesError, CacheWriteError, DataError
from trainer.manifest import Split

SPEC = PreprocessSpec(size=48)


def _left_out(cache: Path) -> list[dict[str, str]]:
    (report,) = cache.rglob(data.REPORT)
    with report.open() as file:
        return list(csv.DictReader(file))


def _no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a film was decoded again")

    monkeypatch.setattr(prepare, "model_input", refuse)


def test_processes_make_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    one = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "one", processes=1)
    two = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "two", processes=2)
    for split in data.SPLITS:
        assert one[split].images.tobytes() == two[split].images.tobytes()
        assert np.array_equal(one[split].sizes, two[split].sizes)


def test_a_corrected_manifest_decodes_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    records = manifest.read(dataset, SYNTHETIC)
    moved = [dataclasses.replace(records[0], split="test"), *records[1:-1]]
    other = dataset.with_name("corrected.csv")
    manifest.write(other, moved, SYNTHETIC)
    _no_decoding(monkeypatch)
    again = data.load(other, SYNTHETIC, SPEC, cache_dir=tmp_path)
    assert again["test"].records[0].uri == records[0].uri
    assert np.array_equal(again["test"].images[0], first["train"].images[0])
    assert np.array_equal(again["train"].images, first["train"].images[1:])


def test_the_same_manifest_beside_other_films_is_another_data_set(
    dataset: Path, tmp_path: Path
) -> None:
    first = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "cache")
    other = tmp_path / "other"
    other.mkdir()
    names = [record.uri for record in manifest.read(dataset, SYNTHETIC)]
    for name, turned in zip(names, reversed(names), strict=True):
        (other / name).write_bytes((dataset.parent / turned).read_bytes())
    (other / dataset.name).write_bytes(dataset.read_bytes())
    second = data.load(other / dataset.name, SYNTHETIC, SPEC, cache_dir=tmp_path / "cache")
    assert not np.array_equal(first["train"].images[0], second["train"].images[0])


def test_bad_images_are_listed_counted_and_left_out(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = dataset.parent
    (folder / "7.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (folder / "8.png").unlink()
    (folder / "9.png").write_bytes((folder / "50.png").read_bytes())  # of the test split
    with pytest.raises(BadImagesError, match="3 of 60 films cannot be used") as caught:
        data.load(
            dataset,
            SYNTHETIC,
            SPEC,
            cache_dir=tmp_path / "c",
            max_bad_fraction=2.5 / 60,
        )
    assert "png" not in caught.value.detail, "file names may hold what is nobody's business"
    splits = data.load(
        dataset,
        SYNTHETIC,
        SPEC,
        cache_dir=tmp_path / "c",
        max_bad_fraction=0.05,
    )
    assert [len(splits[split]) for split in data.SPLITS] == [33, 12, 12]
    assert "left out" in caplog.text
    assert "png" not in caplog.text
    assert [(row["line"], row["uri"], row["code"]) for row in _left_out(tmp_path / "c")] == [
        ("9", "7.png", "dicom.decode_failed"),
        ("10", "8.png", "storage.object_missing"),
        ("11", "9.png", "data.duplicate"),
    ]
    assert "labels differ" in _left_out(tmp_path / "c")[2]["detail"] or (
        splits["test"].records[2].targets == manifest.read(dataset, SYNTHETIC)[9].targets
    )
    # The allowance is asked again of a cache that is whole.
    with pytest.raises(BadImagesError):
        data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "c")


def test_a_repaired_image_is_taken_and_nothing_else_is_decoded(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = dataset.parent, tmp_path / "c"
    good = {name: (folder / name).read_bytes() for name in ("7.png", "8.png")}
    (folder / "7.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (folder / "8.png").unlink()
    (folder / "9.png").write_bytes((folder / "50.png").read_bytes())

    def load(allowed: float) -> dict[Split, data.SplitFilms]:
        return data.load(
            dataset,
            SYNTHETIC,
            SPEC,
            cache_dir=cache,
            processes=1,
            max_bad_fraction=allowed,
        )

    before = load(0.05)
    assert len(before["train"]) == 33
    # Nothing repaired: the folder stays as it is.
    (whole,) = cache.glob("*/*/whole.json")
    moment = whole.stat().st_mtime_ns
    load(0.05)
    assert whole.stat().st_mtime_ns == moment
    # What the error advises, one image at a time.
    with pytest.raises(BadImagesError, match="3 of 60"):
        load(0.04)
    (folder / "8.png").write_bytes(good["8.png"])
    decoded: list[str] = []
    prepare_film = prepare.Preparer.prepare

    def counting(self: Any, row: int) -> Any:
        decoded.append(Path(self._job.uris[row]).name)
        return prepare_film(self, row)

    monkeypatch.setattr(prepare.Preparer, "prepare", counting)
    after = load(0.04)
    assert len(after["train"]) == 34
    assert set(decoded) <= {"7.png", "8.png", "9.png"}, "the rest is copied"
    assert [row["uri"] for row in _left_out(cache)] == ["7.png", "9.png"]
    (folder / "7.png").write_bytes(good["7.png"])
    last = load(0.02)
    assert len(last["train"]) == 35, "the duplicate stays out"
    for split in ("val", "test"):
        assert np.array_equal(last[split].images, before[split].images)
    names = [record.uri for record in last["train"].records]
    fresh = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "new", max_bad_fraction=0.02)
    assert names == [record.uri for record in fresh["train"].records]
    assert np.array_equal(last["train"].images, fresh["train"].images)
    assert not list(cache.glob("*/.trial-*"))


def test_it_stops_early_when_too_much_is_bad(dataset: Path, tmp_path: Path) -> None:
    for n in range(30):
        (dataset.parent / f"{n}.png").unlink()
    seen: list[int] = []
    with pytest.raises(BadImagesError, match="2 of 60"):
        data.load(
            dataset,
            SYNTHETIC,
            SPEC,
            cache_dir=tmp_path,
            max_bad_fraction=0.02,
            progress=lambda done, _: seen.append(done),
        )
    assert max(seen) == 2


def test_a_store_that_is_down_is_no_fault_of_the_images(dataset: Path, tmp_path: Path) -> None:
    class Down(ObjectStore):
        def read(self, uri: str, *, max_bytes: int | None = None) -> bytes:
            if uri.endswith("/5.png"):
                raise StorageUnavailableError("No answer.")
            return super().read(uri, max_bytes=max_bytes)

    down = Down(S3Settings(), Limits(), allow_local=True)
    with pytest.raises(StorageUnavailableError):
        data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path, store=down)
    assert not list(tmp_path.rglob("whole.json"))
    splits = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    assert sum(map(len, splits.values())) == 60


SLOW = """
import sys, time
from pathlib import Path
from hilum.packages.labels import SYNTHETIC
from hilum.imaging.spec import PreprocessSpec
from trainer import data, prepare
made = prepare.model_input
def slow(opened, spec):
    time.sleep(0.05)
    return made(opened, spec)
prepare.model_input = slow
data.load(Path(sys.argv[1]), SYNTHETIC, PreprocessSpec(size=48), cache_dir=Path(sys.argv[2]))
"""


def test_after_sigkill_it_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(dataset), str(cache)])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            parts = list(cache.rglob("rows.part"))
            if parts and (np.fromfile(parts[0], folders.ROW)["state"] == folders.GOOD).sum() > 5:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (part,) = cache.rglob("rows.part")
    done = np.flatnonzero(np.fromfile(part, folders.ROW)["state"] == folders.GOOD)
    assert 5 < len(done) < 60
    # A row whose image never reached the disk is not believed.
    with part.with_name("images.part").open("r+b") as file:
        file.seek(-60 * 48 * 48, os.SEEK_END)
        file.write(bytes(48 * 48))
    decoded: list[int] = []
    made: Callable[..., object] = prepare.model_input

    def counted(*arguments: object) -> object:
        decoded.append(1)
        return made(*arguments)

    monkeypatch.setattr(prepare, "model_input", counted)
    resumed = data.load(dataset, SYNTHETIC, SPEC, cache_dir=cache)
    assert len(decoded) == 60 - len(done) + 1
    fresh = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "fresh")
    for split in data.SPLITS:
        assert np.array_equal(resumed[split].images, fresh[split].images)
    assert not list(cache.rglob("*.part"))


# A decode process whose decoder crashes on one film, as a C library does.
DEADLY = """
import os
from trainer import prepare
made = prepare.model_input
def deadly(opened, spec):
    if opened.header.rows == 63:
        os.abort()
    return made(opened, spec)
prepare.model_input = deadly
from hilum.sandbox.child import main
main()
"""


def test_a_film_that_kills_its_decoder_is_left_out(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(dataset.parent / "20.png") as film:
        film.crop((0, 0, 64, 63)).save(dataset.parent / "20.png")
    (dataset.parent / "7.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    deadly = partial(prepare.Decoders, program=("-c", DEADLY))
    monkeypatch.setattr(prepare, "Decoders", deadly)

    def load() -> int:
        splits = data.load(
            dataset,
            SYNTHETIC,
            SPEC,
            cache_dir=tmp_path,
            processes=2,
            max_bad_fraction=0.05,
        )
        return sum(map(len, splits.values()))

    assert load() == 58
    assert [(row["uri"], row["code"]) for row in _left_out(tmp_path)] == [
        ("7.png", "dicom.decode_failed"),
        ("20.png", "dicom.decoder_crashed"),
    ]
    assert load() == 58, "tried again, at no risk for this process"


FULL = """
import resource, sys
from pathlib import Path
from hilum.errors import HilumError
from hilum.packages.labels import SYNTHETIC
from hilum.imaging.spec import PreprocessSpec
from trainer import data
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    data.load(Path(sys.argv[1]), SYNTHETIC, PreprocessSpec(size=48), cache_dir=Path(sys.argv[2]))
except HilumError as error:
    print(error.code, error.transient, error.detail)
"""


def test_a_full_disk_is_said_at_once_and_leaves_nothing(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(dataset), str(cache), str(40 * 48 * 48)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("data.cache_write True There is no room"), done.stderr
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".lock"]
    splits = data.load(dataset, SYNTHETIC, SPEC, cache_dir=cache)
    assert sum(map(len, splits.values())) == 60


def test_a_disk_that_fills_up_at_the_end_keeps_what_is_done(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset.parent / "3.png").unlink()  # so that the file is copied without its row

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders.UnfinishedFolder, "_copy", full)
        with pytest.raises(CacheWriteError, match="no room"):
            data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path, max_bad_fraction=0.1)
    assert not list(tmp_path.rglob("whole.json"))
    _no_decoding(monkeypatch)
    splits = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path, max_bad_fraction=0.1)
    assert len(splits["train"]) == 35


def test_memory_is_given_back(tmp_path: Path) -> None:
    """In a process of its own, whose memory nothing else moves."""
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from trainer.cache import open_images

        def resident():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

        path = Path(sys.argv[1])
        file = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(2000, 1, 160, 160))
        file[:] = 7
        del file
        images, peak, before = open_images(path)[:1999], 0, resident()
        for start in range(0, 1999, 32):
            rows = np.arange(start, min(start + 32, 1999))
            assert images[rows].sum() == 7 * len(rows) * 160 * 160
            peak = max(peak, resident())
        print(peak - before)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "images.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 12_000, "KiB, of a file of 50,000"


def test_prepared_images_are_an_ordinary_array(dataset: Path, tmp_path: Path) -> None:
    train = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)["train"]
    assert train.images.shape == (36, 1, 48, 48)
    view = train.images[4:9]
    assert isinstance(view, folders.MappedImages)
    rows = train.images[np.array([3, 1])]
    assert type(rows) is np.ndarray
    assert np.array_equal(rows[1], train.images[1])
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def test_labels_that_a_split_lacks_are_flagged(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path)
    assert splits["val"].absent(SYNTHETIC) == ("Cardiomegaly", "Pneumothorax", "Consolidation")
    assert "split val has no positive of: Cardiomegaly" in caplog.text


def test_an_empty_split_is_said_before_anything_is_decoded(dataset: Path, tmp_path: Path) -> None:
    records = [r for r in manifest.read(dataset, SYNTHETIC) if r.split != "val"]
    manifest.write(dataset, records, SYNTHETIC)
    with pytest.raises(DataError, match="no film in split 'val'"):
        data.load(dataset, SYNTHETIC, SPEC, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
