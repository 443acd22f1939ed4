"""torchxrayvision's ResNet-50 as a package, against torchxrayvision itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torchvision import models

from export import xrv
from export.cli import import_
from export.errors import ExportError
from export.package import Identity
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.packages.load import verify
from hilum.packages.manifest import Manifest
from trainer.errors import WeightsMissingError

ROOT = Path(__file__).parents[2]
_NAME = "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt"  # torchxrayvision's, in its cache
_IDENTITY = Identity(name="xrv", version="1", intended_use="A test.", licence="Mine.")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded random weights in torchxrayvision's form, with statistics that keep signals alive."""
    torch.manual_seed(0)
    net = models.resnet50(weights=None, num_classes=18)
    net.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 1, 128, 128) * 600)
        net.fc.weight.mul_(3)
    path = tmp_path_factory.mktemp("xrv") / _NAME
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def package(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    target = tmp_path_factory.mktemp("xrv") / "package"
    film = ROOT / "models" / "samples" / "effusion.dcm"
    return target, xrv.build(weights, target, _IDENTITY, films=film)


@pytest.fixture(scope="module")
def theirs(weights: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import, of its own dependencies
        import torchxrayvision

        return torchxrayvision.models.ResNet(
            weights="resnet50-res512-all", cache_dir=f"{weights.parent}/"
        )


def test_the_same_numbers_as_torchxrayvision(
    package: tuple[Path, Manifest], theirs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import torchxrayvision

    target, manifest = package
    labels = [label for label in theirs.targets if label in manifest.label_set.labels]
    assert manifest.label_set.labels == tuple(labels), "its order"
    rows = [theirs.targets.index(label) for label in labels]
    assert not torch.isnan(theirs.op_threshs[rows]).any()
    assert int(torch.isnan(theirs.op_threshs).sum()) == len(theirs.targets) - len(rows) == 2
    points = [manifest.operating_points[label].threshold for label in labels]
    assert points == pytest.approx(theirs.op_threshs[rows].tolist(), abs=1e-7)

    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (2, 1, 512, 512), dtype=np.uint8)
    image[1] //= 2
    found = OnnxRuntimeEngine(verify(target)).run(image)
    with torch.no_grad():
        # Its own normalisation, from 0 … 255 to -1024 … 1024.
        normal = np.stack([torchxrayvision.datasets.normalize(one, 255) for one in image])
        expected = theirs(torch.from_numpy(normal).float())[:, rows]
        # Its forward pass maps operating points to one half; so does this, of our numbers.
        probability = torch.from_numpy(np.array(found.probability))
        mapped = torchxrayvision.models.op_norm(probability, theirs.op_threshs[rows])
    assert float(expected.std()) > 0.05, "numbers that say something"
    assert float((mapped - expected).abs().max()) <= 1e-5
    assert torch.equal(probability >= torch.tensor(points), expected >= 0.5)
    assert found.cam.shape == (2, 16, *manifest.cam_grid)
    assert "not to be normalized" not in capsys.readouterr().out


def test_where_it_comes_from_is_in_the_package(
    weights: Path, package: tuple[Path, Manifest]
) -> None:
    target, manifest = package
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest.training_data_digest == digest
    assert manifest.licence == "Mine."
    figures = json.loads((target / "metrics.json").read_text())
    assert figures["weights_sha256"] == digest
    assert figures["test"] is None
    card = (target / "MODEL_CARD.md").read_text()
    assert digest in card
    assert "Lung Lesion" in card
    assert (manifest.input.size, manifest.preprocess.size) == (512, 512)


def test_weights_saved_from_its_module_are_the_same(weights: Path, theirs: Any) -> None:
    state = torch.load(weights, weights_only=True)
    wrapped = xrv.classifier(theirs.state_dict())
    plain = xrv.classifier(state)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[name])


def test_what_is_something_else_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not hold the weights of"):
        xrv.classifier(models.resnet18(weights=None).state_dict())
    run = CliRunner().invoke(
        import_, ["xrv", str(tmp_path / "none.pt"), "--to", str(tmp_path / "out")]
    )
    assert isinstance(run.exception, WeightsMissingError)
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(ExportError, match="no readable film"):
        xrv.golden_images(tmp_path)
    busy = tmp_path / "busy"
    busy.mkdir()
    shutil.copy(tmp_path / "notes.txt", busy)
    with pytest.raises(ExportError, match="neither empty nor"):
        xrv.build(weights, busy, _IDENTITY, films=ROOT / "models" / "samples")
    assert [path.name for path in busy.iterdir()] == ["notes.txt"]
