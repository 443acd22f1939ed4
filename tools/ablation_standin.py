"""``python -m tools.ablation_standin`` makes weights to fine-tune from where ImageNet weights are
not available.

No package index ships ImageNet weights, and an ablation with frozen random features would show
nothing. So every backbone learns, on the same number of pictures drawn by this program, which
shapes and textures are on them. No picture shows anything like a chest. The result is a state dict
in torchvision's form, which the recipe loads like ImageNet's. It is far weaker, and the JSON file
beside it says so.

ResNet-152 starts as the ResNet-50 of the same call with its further blocks set to the identity
(Net2DeeperNet; Chen, Goodfellow, Shlens, ICLR 2016) and trains on from there. From random weights
it learns almost nothing from the pictures that a CPU can process.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hilum.files import write_atomically
from trainer.backbones import Normalise, backbone
from trainer.metrics import auroc, mean_defined

SHAPES: Final = ("disc", "ring", "square", "frame", "triangle", "cross", "bar", "blob")
TEXTURES: Final = ("level", "upright", "rising", "falling", "checks", "fine", "coarse", "ramp")
ATTRIBUTES: Final = SHAPES + TEXTURES
_OUTPUTS: Final = 1000  # of ImageNet's head, which loading drops; only the first are trained
_HELD_OUT: Final = 400

Float32Array = npt.NDArray[np.float32]


def pictures(
    count: int, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Float32Array]:
    """``count`` pictures uint8 ``[N, 1, size, size]`` and which :data:`ATTRIBUTES` are on them,
    float32 ``[N, 16]``."""
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    targets = np.zeros((count, len(ATTRIBUTES)), dtype=np.float32)
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    for n in range(count):
        canvas = np.full((size, size), rng.uniform(0.25, 0.75), dtype=np.float32)
        for k in rng.choice(len(TEXTURES), rng.integers(0, 3), replace=False):
            canvas += rng.uniform(0.06, 0.2) * _texture(TEXTURES[k], x, y, size, rng)
            targets[n, len(SHAPES) + k] = 1
        for k in rng.choice(len(SHAPES), rng.integers(0, 4), replace=False):
            sign = 1 if rng.random() < 0.5 else -1
            canvas += sign * rng.uniform(0.12, 0.45) * _shape(SHAPES[k], x, y, rng)
            targets[n, k] = 1
        canvas += rng.normal(0, 0.02, canvas.shape)
        images[n, 0] = np.clip(canvas * 255, 0, 255)
    return images, targets


def _texture(
    name: str, x: Float32Array, y: Float32Array, size: int, rng: np.random.Generator
) -> Float32Array:
    """A texture of amplitude one, ``[size, size]``."""
    if name in ("fine", "coarse"):
        cells = size if name == "fine" else int(rng.integers(4, 9))
        noise = torch.from_numpy(rng.normal(0, 0.7, (1, 1, cells, cells)).astype(np.float32))
        return np.asarray(F.interpolate(noise, (size, size), mode="bicubic")[0, 0].numpy())
    turn = {"level": 0.0, "upright": 0.5, "rising": 0.25, "falling": 0.75}.get(name)
    pitch, phase = 2 * np.pi * rng.uniform(4, 11), rng.uniform(0, 2 * np.pi)
    if turn is not None:
        angle = np.pi * (turn + rng.uniform(-0.06, 0.06))
        return np.asarray(np.sin(pitch * (x * np.sin(angle) + y * np.cos(angle)) + phase))
    if name == "checks":
        return np.asarray(np.sign(np.sin(pitch * x + phase) * np.sin(pitch * y + phase)))
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(2 * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)))


def _shape(name: str, x: Float32Array, y: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A soft-edged mask of a shape, values in [0, 1], ``[size, size]``."""
    radius, angle = rng.uniform(0.09, 0.24), rng.uniform(0, 2 * np.pi)
    dx, dy = x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8)
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    far = np.hypot(u, v)
    square = np.maximum(abs(u), abs(v))
    if name == "blob":
        return np.asarray(np.exp(-((far / (0.6 * radius)) ** 2)))
    inside = {
        "disc": radius - far,
        "ring": 0.25 * radius - abs(far - 0.8 * radius),
        "square": radius - square,
        "frame": 0.25 * radius - abs(square - 0.8 * radius),
        "triangle": radius / 2 - np.maximum(v, abs(u) * 0.87 - v / 2),
        "cross": np.where(square < radius, 0.25 * radius - np.minimum(abs(u), abs(v)), -1),
        "bar": np.minimum(0.15 * radius - abs(v), 1.6 * radius - abs(u)),
    }[name]
    return np.asarray(1 / (1 + np.exp(-np.clip(inside * 150, -30, 30))), dtype=np.float32)


def deepen(shallow: dict[str, Tensor], deep: nn.Module) -> dict[str, Tensor]:
    """The state of ``deep``, a ResNet, that computes what the shallower ResNet ``shallow`` does.

    A block that ``shallow`` lacks adds nothing: its last batch normalisation has the scale 0.
    """
    state = {name: torch.clone(value) for name, value in deep.state_dict().items()}
    for name, value in state.items():
        if name in shallow:
            state[name] = torch.clone(shallow[name])
        elif name.endswith("bn3.weight"):
            state[name] = torch.zeros_like(value)
    return state


def learn(
    name: str,
    *,
    count: int,
    size: int,
    seed: int,
    start: dict[str, Tensor] | None = None,
    batch: int = 32,
    rate: float = 1e-3,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train backbone ``name`` on ``count`` pictures of ``size`` px.

    Returns its state dict in torchvision's form, and a description of it.
    """
    begin = time.monotonic()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    extra = {"aux_logits": True, "init_weights": True} if name == "inception_v3" else {}
    net = backbone(name).build(weights=None, num_classes=_OUTPUTS, **extra)
    if start is not None:
        net.load_state_dict(deepen(start, net))
    # InceptionV3's auxiliary head needs larger inputs, so it is not trained.
    body = net if name != "inception_v3" else _without_auxiliary(net)
    model = nn.Sequential(Normalise(*backbone(name).normalisation), body).to(
        memory_format=torch.channels_last
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps, warmup = count // batch, max(1, count // batch // 20)
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            progress = max(0.0, (step - warmup) / max(1, steps - warmup))
            factor = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = rate * min((step + 1) / warmup, factor)
        images, targets = (torch.from_numpy(part) for part in pictures(batch, size, rng))
        logits = model(images)[:, : len(ATTRIBUTES)]
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            click.echo(f"{name} step {step}/{steps}, loss {loss.item():.3f}", err=True)
    found = _held_out(model, size)
    known = {
        "backbone": name,
        "what": "stand-in for ImageNet weights: shapes and textures drawn by a program",
        "pictures": steps * batch,
        "deepened_from": "resnet50" if start is not None else None,
        "size": size,
        "seed": seed,
        "held_out_macro_auroc": found,
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }
    return {key: value.contiguous() for key, value in net.state_dict().items()}, known


def _held_out(model: nn.Module, size: int) -> float | None:
    """Macro AUROC on pictures that were not used for training."""
    model.eval()
    images, targets = pictures(_HELD_OUT, size, np.random.default_rng(2**31))
    with torch.no_grad():
        parts = [model(part) for part in torch.split(torch.from_numpy(images), 50)]
    logits = torch.cat(parts).numpy()
    return mean_defined([auroc(targets[:, k], logits[:, k]) for k in range(len(ATTRIBUTES))])


def _without_auxiliary(net: nn.Module) -> nn.Module:
    assert isinstance(net, models.Inception3)
    return _Main(net)


class _Main(nn.Module):
    """InceptionV3 without its auxiliary head, weights shared."""

    def __init__(self, net: models.Inception3) -> None:
        super().__init__()
        skipped = ("AuxLogits",)
        self.parts = nn.ModuleList(m for n, m in net.named_children() if n not in skipped)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts[:-2]:
            x = part(x)
        *_, dropout, linear = self.parts
        out: Tensor = linear(dropout(x.flatten(1)))
        return out


def _batches(backbones: tuple[str, ...]) -> Iterator[str]:
    """ResNet-50 comes before ResNet-152, which starts from it."""
    yield from sorted(backbones, key=lambda name: (name == "resnet152", name))


@click.command()
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path))
@click.option(
    "--backbone", "names", multiple=True, help="Backbone to train. Repeatable.  [default: all four]"
)
@click.option("--pictures", "count", default=12_000, show_default=True)
@click.option(
    "--deep-pictures",
    default=3_000,
    show_default=True,
    help="Number of further pictures for ResNet-152.",
)
@click.option(
    "--size", default=64, show_default=True, help="Side of the pictures for the ResNets, pixels."
)
@click.option(
    "--wide", default=80, show_default=True, help="The same for AlexNet and InceptionV3 (≥ 75)."
)
@click.option("--seed", default=0, show_default=True)
def main(  # noqa: PLR0917 -- click passes them by name
    folder: Path,
    names: tuple[str, ...],
    count: int,
    deep_pictures: int,
    size: int,
    wide: int,
    seed: int,
) -> None:
    """Write FOLDER/BACKBONE.pth and .json for every backbone of the ablation."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = names or ("alexnet", "resnet50", "resnet152", "inception_v3")
    for name in _batches(wanted):
        deep = name == "resnet152"
        start = torch.load(folder / "resnet50.pth", weights_only=True) if deep else None
        # AlexNet has no batch normalisation and diverges with the larger rate.
        rate = 2e-4 if name == "alexnet" else 1e-3
        state, known = learn(
            name,
            count=deep_pictures if deep else count,
            size=size if name.startswith("resnet") else wide,
            seed=seed,
            start=start,
            rate=rate,
        )
        out = BytesIO()
        torch.save(state, out)
        write_atomically(folder / f"{name}.pth", out.getvalue())
        write_atomically(folder / f"{name}.json", (json.dumps(known, indent=2) + "\n").encode())
        click.echo(json.dumps(known))


if __name__ == "__main__":
    main()
