"""Where a model starts: what was asked for, or an error that says how to get it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from hilum.errors import ConfigurationError
from hilum.settings import S3Settings, Settings
from hilum.storage import open_store
from trainer import weights
from trainer.backbones import BACKBONES, build
from trainer.config import ModelConfig
from trainer.errors import WeightsDigestError, WeightsMissingError


def _asked(source: object, backbone: str = "resnet18", sha256: str | None = None) -> ModelConfig:
    return ModelConfig(
        backbone=backbone, weights=str(source), weights_sha256=sha256, label_schema="synthetic-v1"
    )


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    found: dict[str, Tensor] = models.resnet18(weights=None).state_dict()
    return found


def test_weights_from_a_file_are_used(
    state: dict[str, Tensor], settings: Settings, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    # As training scripts leave it: wrapped, from DDP, with a head of another width.
    wrapped = {f"module.{name}": value for name, value in state.items() if name != "fc.bias"}
    wrapped["module.fc.weight"] = torch.zeros(14, 512)
    torch.save({"state_dict": wrapped}, tmp_path / "mine.pth")
    for name in ("w.pth", "w.safetensors", "mine.pth"):
        loaded = weights.load(_asked(tmp_path / name), settings)
        assert loaded is not None
        data = (tmp_path / name).read_bytes()
        assert loaded.digest == hashlib.sha256(data).hexdigest()
        model = build("resnet18", 3, state=loaded.state)
        first = model.features[0].weight  # type: ignore[index]
        assert torch.equal(first, state["conv1.weight"])
    with pytest.raises(ConfigurationError, match="not those of alexnet"):
        build("alexnet", 3, state=loaded.state)


def test_files_that_are_no_weights_are_refused(
    state: dict[str, Tensor], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    for name in ("junk.pth", "empty.pth"):
        with pytest.raises(WeightsMissingError, match="not a PyTorch state dict"):
            weights.load(_asked(tmp_path / name), settings)
    with pytest.raises(WeightsMissingError, match="is not a state dict"):
        weights.load(_asked(tmp_path / "other.pth"), settings)
    save_file(state, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsMissingError, match="SafetensorError"):
        weights.load(_asked(tmp_path / "cut.safetensors"), settings)


def test_another_file_than_the_one_named_is_refused(
    state: dict[str, Tensor], settings: Settings, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert weights.load(_asked(tmp_path / "w.safetensors", sha256=digest), settings)
    with pytest.raises(WeightsDigestError, match=digest):
        weights.load(_asked(tmp_path / "w.safetensors", sha256="0" * 64), settings)


@contextmanager
def _server(body: bytes, declared: int) -> Iterator[str]:
    """Serves ``body`` under a header that promises ``declared`` bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(declared))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_download_is_whole_or_not_there(
    state: dict[str, Tensor],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.save(state, tmp_path / "file.pth")
    whole = (tmp_path / "file.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(whole).hexdigest()[:8]}.pth"
    folder = tmp_path / "hub" / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.get_weight(BACKBONES["resnet18"].weights)

    def served(body: bytes) -> object:
        with _server(body, len(whole)) as address:
            monkeypatch.setattr(published.value, "url", f"{address}/{name}", raising=False)
            return weights.load(_asked("torchvision"), settings)

    # Cut off in the middle, and damaged on the way.
    for body in (whole[:100_000], b"\0" * len(whole)):
        with pytest.raises(WeightsMissingError, match="could not download") as caught:
            served(body)
        assert name in caught.value.body()["next_step"]
        assert list(folder.iterdir()) == []
    found = served(whole)
    assert isinstance(found, weights.Pretrained)
    assert torch.equal(found.state["conv1.weight"], state["conv1.weight"])
    # The second time nothing is asked of the network.
    assert weights.load(_asked("torchvision"), settings) is not None


def test_without_network_and_file_the_error_says_how_to_get_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = models.get_weight(BACKBONES["alexnet"].weights)
    # Nobody listens on port 1.
    url = "http://127.0.0.1:1/alexnet-owt-7be5be79.pth"
    monkeypatch.setattr(published.value, "url", url, raising=False)
    with pytest.raises(WeightsMissingError, match="alexnet") as caught:
        weights.load(_asked("torchvision", "alexnet"), settings)
    step = caught.value.body()["next_step"]
    assert url in step
    assert str(tmp_path / "hub" / "checkpoints") in step


def test_random_has_to_be_asked_for(settings: Settings) -> None:
    assert weights.load(_asked("random"), settings) is None


def test_weights_from_s3_that_nobody_answers_for(settings: Settings) -> None:
    offline = settings.model_copy(
        update={
            "s3": settings.s3.model_copy(
                update={"endpoint_url": "http://127.0.0.1:1", "max_attempts": 1}
            )
        }
    )
    with pytest.raises(WeightsMissingError, match="cannot be read"):
        weights.load(_asked("s3://bucket/w.pth"), offline)


def test_weights_from_s3(
    state: dict[str, Tensor], settings: Settings, s3: S3Settings, bucket: str, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    stored = (tmp_path / "w.safetensors").read_bytes()
    there = settings.model_copy(update={"s3": s3})
    open_store(s3, settings.limits).write(f"s3://{bucket}/w.safetensors", stored)
    loaded = weights.load(_asked(f"s3://{bucket}/w.safetensors"), there)
    assert loaded is not None
    assert loaded.digest == hashlib.sha256(stored).hexdigest()
    assert all(torch.equal(loaded.state[name], value) for name, value in state.items())
    with pytest.raises(WeightsMissingError, match="cannot be read"):
        weights.load(_asked(f"s3://{bucket}/other.safetensors"), there)
