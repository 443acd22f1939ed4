"""``hilum score`` as its users see it: outputs, files, exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pydicom.data import get_testdata_file
from support import tiny_package
from support.tiny_film import film

from hilum.cli import main
from hilum.commands.score_report import printable, status_of
from hilum.deidentify.pseudonyms import Pseudonyms
from hilum.errors import EngineFailedError, NotChestError, UnexpectedError
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline.admit import sure_doubts, warning
from hilum.pipeline.cache import evict
from hilum.settings import Limits, PreparedSettings, S3Settings
from hilum.storage import open_store

HILUM = str(Path(sys.executable).with_name("hilum"))
LABELS = ["Cardiomegaly", "Effusion", "Pneumothorax", "Nodule/Mass", "Consolidation", "No Finding"]


@pytest.fixture
def hilum(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``hilum score`` with the tiny model; all it may write lies in ``tmp_path``."""
    monkeypatch.setenv("HILUM_MODEL_URI", str(tiny_folder))
    monkeypatch.setenv("HILUM_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(main, ["score", *map(str, arguments)])
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder with films and with what else such folders hold."""
    folder = tmp_path / "films"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "1.dcm").write_bytes(film(1))
    (folder / "2.dcm").write_bytes(film(2)[:400])
    (folder / "3.dcm").write_bytes(b"")
    (folder / "b" / "1.dcm").write_bytes(film(3))
    (folder / "b" / "hand.dcm").write_bytes(film(4, BodyPartExamined="HAND"))
    (folder / "b" / "notes.txt").write_text("not a film")
    (folder / ".hidden" / "5.dcm").write_bytes(film(5))
    return folder


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_film_as_json(hilum: Any, tmp_path: Path, tiny: Any) -> None:
    (tmp_path / "a.dcm").write_bytes(film(1))
    result = hilum(tmp_path / "a.dcm", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    (line,) = lines(result)
    assert line["source"] == str(tmp_path / "a.dcm")
    assert line["status"] == "scored"
    assert line["sop_instance_uid"]
    assert (line["rows"], line["columns"]) == (48, 40)
    assert list(line["probabilities"]) == LABELS
    assert line["findings"] == [
        {"label": label, "probability": p, "threshold": 0.5}
        for label, p in line["probabilities"].items()
        if p >= 0.5 and label != "No Finding"
    ]
    assert line["findings"]
    assert line["model"] == {
        "name": "tiny",
        "version": "1.0.0",
        "digest": tiny.digest,
        "demonstration_only": True,
    }
    assert line["engine"] == "onnxruntime-cpu"
    assert line["notice"] == "demonstration only, not for clinical use"
    assert line["error"] is None


def test_a_folder_reports_every_file_in_order(hilum: Any, films: Path) -> None:
    result = hilum(films, "--json")
    assert result.exit_code == 3
    found = lines(result)
    assert [Path(line["source"]).relative_to(films).as_posix() for line in found] == [
        "1.dcm",
        "2.dcm",
        "3.dcm",
        "b/1.dcm",
        "b/hand.dcm",
        "b/notes.txt",
    ]
    assert [line["status"] for line in found] == [
        "scored",
        "refused",
        "refused",
        "scored",
        "refused",
        "refused",
    ]
    codes = [line["error"]["code"] if line["error"] else None for line in found]
    assert codes[0] is codes[3] is None
    assert codes[2] == "dicom.empty"
    assert codes[4:] == ["policy.not_chest", "dicom.not_dicom"]
    assert len({frozenset(line) for line in found}) == 1  # every line has the same keys
    assert result.stderr == "2 scored, 4 refused\n"
    assert "TEST^FILM" not in result.output


def test_text_for_people(hilum: Any, films: Path) -> None:
    one = hilum(films / "1.dcm")
    assert one.exit_code == 0
    shown = one.stdout.splitlines()
    assert shown[0] == "*** demonstration only, not for clinical use ***"
    for label in LABELS:
        assert any(label in line for line in shown)
    many = hilum(films)
    assert many.exit_code == 3
    shown = many.stdout.splitlines()
    assert shown[0] == "*** demonstration only, not for clinical use ***"
    assert len(shown) == 1 + 6
    assert "refused [policy.not_chest]" in shown[5]
    refused = hilum(films / "3.dcm")
    assert refused.exit_code == 3
    assert "Upload the object again" in refused.stdout
    assert "TEST^FILM" not in one.output + many.output + refused.output


def test_a_model_that_is_no_demonstration_has_no_notice(
    hilum: Any, films: Path, tmp_path: Path
) -> None:
    tiny_package.build(tmp_path / "real", demonstration_only=False)
    text = hilum(films / "1.dcm", "--model", tmp_path / "real")
    assert "demonstration" not in text.stdout
    (line,) = lines(hilum(films / "1.dcm", "--model", tmp_path / "real", "--json"))
    assert line["notice"] is None


def test_nothing_to_do_is_wrong_use(hilum: Any, films: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    film_path = films / "1.dcm"
    cases: dict[tuple[object, ...], str] = {
        (tmp_path / "none.dcm",): "storage.object_missing",
        (tmp_path / "empty",): "storage.object_missing",
        ("ftp://host/x",): "storage.invalid_uri",
        ("s3://b ad/x",): "storage.invalid_uri",
        (film_path, "--model", tmp_path / "none"): "package.missing",
        (film_path, "--model", films): "package.missing",
    }
    for arguments, code in cases.items():
        text = hilum(*arguments)
        assert text.exit_code == 2, arguments
        assert f"[{code}]" in text.stderr
        assert ("folder has no files" in text.stderr) == (arguments == (tmp_path / "empty",))
        assert text.stdout == ""
        as_json = hilum(*arguments, "--json")
        assert as_json.exit_code == 2
        assert [line["error"]["code"] for line in lines(as_json)] == [code]


def test_overlays(hilum: Any, films: Path, tmp_path: Path) -> None:
    (films / "b" / "large.dcm").write_bytes(film(6, rows=1500, columns=700))
    out = tmp_path / "new" / "overlays"
    result = hilum(films, "--json", "--overlay-dir", out)
    written = {Path(name) for line in lines(result) for name in line["overlays"]}
    assert written == set(out.iterdir())
    for line in lines(result):
        assert len(line["overlays"]) == len(line["findings"])
        for name in line["overlays"]:
            assert (line["sop_instance_uid"] or "-") not in name
    # Two films called 1.dcm keep their own files.
    assert len({path.name.split(".")[1] for path in written if path.name.startswith("1.")}) == 2
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert image.width == (478 if path.name.startswith("large") else 40)
    # The same run again replaces its own files.
    hilum(films, "--overlay-dir", out)
    assert set(out.iterdir()) == written


def test_overlays_of_labels_asked_for(hilum: Any, films: Path, tmp_path: Path) -> None:
    chosen = ("--overlay-label", "Nodule/Mass", "--overlay-label", "No Finding")
    result = hilum(films / "1.dcm", "--overlay-dir", tmp_path / "o", *chosen)
    assert result.exit_code == 0
    names = sorted(path.name.partition("-")[2] for path in (tmp_path / "o").iterdir())
    assert names == ["No_Finding.png", "Nodule_Mass.png"]
    unknown = hilum(films / "1.dcm", "--overlay-dir", tmp_path / "p", "--overlay-label", "Elbow")
    assert unknown.exit_code == 2
    assert "Nodule/Mass" in unknown.stderr
    assert hilum(films / "1.dcm", "--overlay-label", "Effusion").exit_code == 2
    (tmp_path / "file").write_text("in the way")
    assert hilum(films / "1.dcm", "--overlay-dir", tmp_path / "file").exit_code == 2


def test_films_in_s3(
    hilum: Any, s3: S3Settings, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.access_key_id is not None
    assert s3.secret_access_key is not None
    monkeypatch.setenv("HILUM_S3__ENDPOINT_URL", str(s3.endpoint_url))
    monkeypatch.setenv("HILUM_S3__ACCESS_KEY_ID", s3.access_key_id)
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", s3.secret_access_key.get_secret_value())
    store = open_store(s3, Limits())
    store.write(f"s3://{bucket}/in/1.dcm", film(1))
    store.write(f"s3://{bucket}/in/sub/2.dcm", film(2))
    store.write(f"s3://{bucket}/in2/3.dcm", b"not a film")
    found = lines(hilum(f"s3://{bucket}/in", "--json"))
    assert [line["source"] for line in found] == [
        f"s3://{bucket}/in/1.dcm",
        f"s3://{bucket}/in/sub/2.dcm",
    ]
    one = hilum(f"s3://{bucket}/in/1.dcm", "--json")
    assert one.exit_code == 0
    assert lines(one)[0]["probabilities"] == found[0]["probabilities"]
    assert hilum(f"s3://{bucket}", "--json").exit_code == 3
    assert "[storage.object_missing]" in hilum(f"s3://{bucket}/none").stderr
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", "wrong")
    refused = hilum(f"s3://{bucket}/in", "--json")
    assert refused.exit_code == 2
    assert lines(refused)[0]["error"]["code"] == "storage.credentials_rejected"


def test_the_real_films_as_a_subprocess(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG3_UNCR.dcm"):
        path = get_testdata_file(name, download=False)
        assert isinstance(path, str)
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        [HILUM, "score", str(tmp_path), "--model", str(tiny_folder), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == "2 scored, 1 refused\n"
    packed, plain, extremity = map(json.loads, done.stdout.splitlines())
    assert packed["probabilities"] == plain["probabilities"]
    assert packed["status"] == plain["status"] == "scored"
    assert extremity["error"]["code"] == "policy.not_chest"
    assert extremity["probabilities"] is None


def test_ctrl_c_in_the_middle(tiny_folder: Path, tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:03}.dcm").write_bytes(film(i))
    endless = tmp_path / "more"
    for i in range(200):
        (endless / str(i)).mkdir(parents=True)
        for j in range(10):
            (endless / str(i) / f"{j}.dcm").symlink_to(tmp_path / "000.dcm")
    errors = tmp_path / ".errors"
    with errors.open("w") as stderr:
        child = subprocess.Popen(
            [HILUM, "score", str(tmp_path), "--model", str(tiny_folder), "--json"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert child.stdout is not None
    with child.stdout as stdout:
        assert json.loads(stdout.readline())["status"] == "scored"
        child.send_signal(signal.SIGINT)
        rest = stdout.read().splitlines()
    assert child.wait(60) == 130
    assert errors.read_text().splitlines()[-1] == "Stopped."
    assert "Traceback" not in errors.read_text()
    assert len(rest) < 2000
    assert all(json.loads(line)["status"] == "scored" for line in rest)


@pytest.fixture
def leg(tmp_path: Path) -> Path:
    """A real film of a leg, whose header says that it is a chest."""
    path = get_testdata_file("RG3_UNCR.dcm", download=False)
    ds = pydicom.dcmread(str(path))
    ds.BodyPartExamined, ds.ViewPosition, ds.Modality = "CHEST", "PA", "DX"
    (tmp_path / "leg").mkdir()
    ds.save_as(tmp_path / "leg" / "leg.dcm")
    return tmp_path / "leg"


def test_a_sure_doubt_stands_beside_the_numbers(hilum: Any, leg: Path, tmp_path: Path) -> None:
    tiny_package.build(tmp_path / "looks", policy=InputPolicy())
    model = ("--model", tmp_path / "looks")
    one = hilum(leg, *model)
    assert one.exit_code == 3
    shown = one.stdout.splitlines()
    numbers = [line for line in shown if any(line[4:].startswith(label) for label in LABELS)]
    assert len(numbers) == len(LABELS)
    assert all(line.endswith("not_chest") for line in numbers)
    said = shown.index("*** not_chest: The picture looks like no chest film. ***")
    assert said < shown.index(numbers[0])
    (line,) = lines(hilum(leg, *model, "--json", "--overlay-dir", tmp_path / "o"))
    assert (line["status"], line["doubts"]) == ("scored", ["not_chest"])
    assert "not_chest" in line["flags"]
    with Image.open(line["overlays"][0]) as image:
        band = np.asarray(image)[1024:]
    assert len(band) > 2 * max(10, band.shape[1] // 36), "a line more than the notice has"
    chest = get_testdata_file("RG1_UNCR.dcm", download=False)
    shutil.copy(str(chest), leg / "good.dcm")
    many = hilum(leg, *model)
    assert many.exit_code == 3
    assert many.stderr == "2 scored, 1 doubtful\n"
    assert "leg.dcm: [not_chest] " in many.stdout
    assert "good.dcm: [" not in many.stdout
    refusing = InputPolicy(pixels=PixelPolicy(not_chest="refuse"))
    tiny_package.build(tmp_path / "refusing", policy=refusing)
    (_, line) = lines(hilum(leg, "--model", tmp_path / "refusing", "--json"))
    assert line["error"]["code"] == "policy.not_chest"
    assert "not_chest" in CliRunner().invoke(main, ["score", "--help"]).output


def test_what_is_only_maybe_wrong_is_no_doubt() -> None:
    flags = ("view_unknown", "maybe_not_chest", "maybe_mirrored")
    assert sure_doubts((*flags, "inverted")) == ("inverted",)
    assert sure_doubts(flags) == ()
    assert warning(flags) is None


def test_status_tells_whether_another_try_may_help() -> None:
    assert status_of(NotChestError("x")) == "refused"
    assert status_of(EngineFailedError("x")) == "failed"
    assert status_of(UnexpectedError("x")) == "failed"


def test_file_names_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\n.dcm") == "a\ufffd[2Jb\ufffd.dcm"
    assert printable("Jürgen\udcff.dcm") == "Jürgen\ufffd.dcm"


def test_what_leaves_names_nobody(
    hilum: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "DOE^JANE", tmp_path / "out"
    folder.mkdir()
    (folder / "JANE.dcm").write_bytes(film(1))
    (folder / "broken.dcm").write_bytes(film(2)[:400])
    refused = hilum(folder, "--json", "--deidentify")
    assert refused.exit_code == 2
    assert "HILUM_DEIDENTIFY__SECRET" in refused.output
    monkeypatch.setenv("HILUM_DEIDENTIFY__SECRET", "s" * 32)
    result = hilum(folder, "--json", "--deidentify", "--overlay-dir", out)
    assert result.exit_code == 3
    plain = lines(hilum(folder, "--json"))
    for line, known in zip(lines(result), plain, strict=True):
        assert line["source"] == Pseudonyms("s" * 32).token("source", known["source"])
        assert line["status"] == known["status"]
        assert line["probabilities"] == known["probabilities"]
    (scored,) = [line for line in lines(result) if line["status"] == "scored"]
    (told,) = [line for line in plain if line["status"] == "scored"]
    assert scored["sop_instance_uid"] == Pseudonyms("s" * 32).uid(told["sop_instance_uid"])
    assert scored["overlays"]
    for text in (result.stdout, *(path.name for path in out.iterdir())):
        assert "JANE" not in text.replace(str(out), "")
        assert told["sop_instance_uid"] not in text
        assert told["content_sha256"] not in text
    shown = hilum(folder, "--deidentify")
    assert "JANE" not in shown.stdout


def test_scores_from_the_cache_are_the_same(
    hilum: Any, s3: S3Settings, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3, Limits())
    for n in (1, 2):
        store.write(f"s3://{bucket}/films/{n}.dcm", film(n))
    assert s3.secret_access_key is not None
    monkeypatch.setenv("HILUM_S3__ENDPOINT_URL", str(s3.endpoint_url))
    monkeypatch.setenv("HILUM_S3__ACCESS_KEY_ID", str(s3.access_key_id))
    monkeypatch.setenv("HILUM_S3__SECRET_ACCESS_KEY", s3.secret_access_key.get_secret_value())
    expected = hilum(f"s3://{bucket}", "--json").stdout
    monkeypatch.setenv("HILUM_PREPARED__MODE", "on")
    assert hilum(f"s3://{bucket}", "--json").exit_code == 2, "not without a secret"
    monkeypatch.setenv("HILUM_PREPARED__SECRET", "s" * 40)
    assert hilum(f"s3://{bucket}", "--json").stdout == expected
    assert hilum(f"s3://{bucket}", "--json").stdout == expected, "entries are no films"
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert evict(store, PreparedSettings(), bucket, before=soon) == 2
