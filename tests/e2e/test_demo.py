"""`make run` as a user sees it: the bundled model, all films, twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def _demo(var: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hilum", "demo", "--var", str(var), *arguments]
    # Any folder: model and films come with hilum.
    return subprocess.Popen(
        command, cwd=var.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=500)
    return output


def _study(text: str) -> str:
    return next(part for part in text.split("/") if part.startswith("st_"))


def test_once_and_then_serving_until_told_to_stop(tmp_path: Path) -> None:
    first = _demo(tmp_path / "var", "--once")
    output = _ended(first)
    assert first.returncode == 0, output
    assert "policy.not_chest" in output
    assert "demonstration only, not for clinical use" in output
    assert "RG1_J2KR" in output
    overlays = sorted((tmp_path / "var" / "overlays").glob("*.png"))
    assert overlays, "RG1 shows several masses, and each sample its finding"
    for path in overlays:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert max(image.size) > 200
    # State is kept: the second start shows the same study, without scoring it again.
    with _demo(tmp_path / "var") as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "Serving until" in line:
                break
        text = "".join(lines)
        assert _study(text) == _study(output)
        worker_log = (tmp_path / "var" / "logs" / "worker.log").read_text()
        assert worker_log.count('"job.taken"') == 1
        address = next(word for word in text.split() if word.endswith("/docs"))
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"swagger" in answer.read().lower()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    deadline = time.monotonic() + 120
    while any(child.is_running() for child in children):
        assert time.monotonic() < deadline, "a child outlived the demonstration"
        time.sleep(0.1)


def test_score_as_a_subprocess(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hilum", "score", str(ROOT / "models" / "samples"), "--json"]
    done = subprocess.run(
        [*command, "--overlay-dir", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    refused = [line for line in lines if line["status"] != "scored"]
    # Beside the films the folder has its index and its provenance: refused, by name.
    assert {Path(line["source"]).name for line in refused} == {"samples.json", "PROVENANCE.md"}
    assert {line["error"]["code"] for line in refused} == {"dicom.not_dicom"}
    assert done.returncode == 3
    expected = {
        film["file"]: set(film["labels"])
        for film in json.loads((ROOT / "models/samples/samples.json").read_text())["films"]
    }
    scored = {Path(line["source"]).name: line for line in lines if line["status"] == "scored"}
    assert set(scored) == set(expected)
    for line in scored.values():
        assert line["notice"] == "demonstration only, not for clinical use"
        assert line["model"]["demonstration_only"] is True
    # The model is a demonstration, but it must know its own samples: the finding that is on a
    # film is among those it reports.
    hits = sum(
        bool({f["label"] for f in line["findings"]} & expected[name])
        for name, line in scored.items()
        if name != "no-finding.dcm"
    )
    assert hits >= 4
