"""AlexNet, ResNet and InceptionV3 with their heads replaced, open at the Grad-CAM layer.

Every model takes films as they are stored, uint8 ``[N, 1, S, S]``; scaling, the normalisation of
the ImageNet weights and the replication to three channels are inside, once. ``S`` is the
backbone's native size unless the configuration says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hilum.errors import ConfigurationError, UnknownBackboneError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_AUXILIARY_GRID = 17  # least side of the grid that InceptionV3's auxiliary head can work on


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What is known about one architecture."""

    build: Callable[..., nn.Module]
    native_size: int
    channels: int  # of the Grad-CAM layer
    grid: int  # side of the Grad-CAM map at the native size
    weights: str  # torchvision's name of the ImageNet weights


BACKBONES: dict[str, Backbone] = {
    "alexnet": Backbone(
        build=models.alexnet,
        native_size=224,
        channels=256,
        grid=13,
        weights="AlexNet_Weights.IMAGENET1K_V1",
    ),
    "resnet18": Backbone(
        build=models.resnet18,
        native_size=224,
        channels=512,
        grid=7,
        weights="ResNet18_Weights.IMAGENET1K_V1",
    ),
    "resnet50": Backbone(
        build=models.resnet50,
        native_size=224,
        channels=2048,
        grid=7,
        weights="ResNet50_Weights.IMAGENET1K_V2",
    ),
    "resnet152": Backbone(
        build=models.resnet152,
        native_size=224,
        channels=2048,
        grid=7,
        weights="ResNet152_Weights.IMAGENET1K_V2",
    ),
    "inception_v3": Backbone(
        build=models.inception_v3,
        native_size=299,
        channels=2048,
        grid=8,
        weights="Inception_V3_Weights.IMAGENET1K_V1",
    ),
}


def backbone(name: str) -> Backbone:
    """What is known about ``name``.

    Raises:
        UnknownBackboneError: hilum does not know it.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        known = ", ".join(BACKBONES)
        raise UnknownBackboneError(f"Unknown backbone {name!r}; known: {known}.") from None


class Normalise(nn.Module):
    """uint8 ``[N, 1, S, S]`` to float32 ``[N, 3, S, S]`` as ImageNet weights expect it."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
        std = torch.tensor(_STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Broadcasting over the channels is the replication."""
        return image.to(self.scale.dtype) * self.scale + self.shift


class PooledHead(nn.Module):
    """Global average pooling and one linear layer (ResNet, InceptionV3)."""

    def __init__(self, channels: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, outputs)

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return self.linear

    def forward(self, activation: Tensor) -> Tensor:
        """``[N, C, h, w]`` to logits ``[N, K]``."""
        logits: Tensor = self.linear(self.dropout(activation.mean(dim=(2, 3))))
        return logits


class AlexNetHead(nn.Module):
    """AlexNet after its last convolution: pooling and three linear layers."""

    def __init__(self, hidden1: nn.Linear, hidden2: nn.Linear, outputs: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)
        self.resize = nn.AdaptiveAvgPool2d((6, 6))
        self.dropout1 = nn.Dropout(0.5)
        self.hidden1 = hidden1
        self.dropout2 = nn.Dropout(0.5)
        self.hidden2 = hidden2
        self.linear = nn.Linear(hidden2.out_features, outputs)

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return self.linear

    def hidden(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        """Both hidden layers after their ReLU, ``[N, 4096]`` each."""
        pooled = self.resize(self.pool(activation)).flatten(1)
        first = F.relu(self.hidden1(self.dropout1(pooled)))
        return first, F.relu(self.hidden2(self.dropout2(first)))

    def forward(self, activation: Tensor) -> Tensor:
        """``[N, 256, h, w]`` to logits ``[N, K]``."""
        logits: Tensor = self.linear(self.hidden(activation)[1])
        return logits


class InceptionFeatures(nn.Module):
    """InceptionV3 up to Mixed_7c; in training it keeps what the auxiliary head needs."""

    def __init__(self, net: models.Inception3) -> None:
        super().__init__()
        self.lower = nn.Sequential(
            net.Conv2d_1a_3x3,
            net.Conv2d_2a_3x3,
            net.Conv2d_2b_3x3,
            net.maxpool1,
            net.Conv2d_3b_1x1,
            net.Conv2d_4a_3x3,
            net.maxpool2,
            net.Mixed_5b,
            net.Mixed_5c,
            net.Mixed_5d,
            net.Mixed_6a,
            net.Mixed_6b,
            net.Mixed_6c,
            net.Mixed_6d,
            net.Mixed_6e,
        )
        self.upper = nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, S, S]`` to ``[N, 2048, h, w]``."""
        activation: Tensor = self.upper(self.lower(x))
        return activation


Kind = Literal["multi_label", "multi_class"]


class Classifier(nn.Module):
    """A backbone with a head of ``outputs`` logits.

    ``features`` ends at the layer Grad-CAM is taken of; ``head`` does the rest. In training
    InceptionV3 also has ``auxiliary``, the head of Szegedy et al. 2016, section 4.
    """

    def __init__(
        self,
        name: str,
        features: nn.Module,
        head: PooledHead | AlexNetHead,
        auxiliary: nn.Module | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.normalise = Normalise()
        self.features = features
        self.head = head
        self.auxiliary = auxiliary

    def activation(self, image: Tensor) -> Tensor:
        """uint8 ``[N, 1, S, S]`` to the Grad-CAM layer ``[N, C, h, w]``."""
        activation: Tensor = self.features(self.normalise(image))
        return activation

    def forward(self, image: Tensor) -> Tensor:
        """uint8 ``[N, 1, S, S]`` to logits ``[N, K]``."""
        logits: Tensor = self.head(self.activation(image))
        return logits

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits ``[N, K]``, the Grad-CAM layer, and the auxiliary logits where there are any.

        InceptionV3's auxiliary head pools and convolves a grid of 17 cells a side, that of inputs
        of 299 pixels; on smaller ones it takes no part.
        """
        if self.auxiliary is None or not isinstance(self.features, InceptionFeatures):
            activation = self.activation(image)
            return self.head(activation), activation, None
        middle = self.features.lower(self.normalise(image))
        activation = self.features.upper(middle)
        if min(middle.shape[2:]) < _AUXILIARY_GRID:
            return self.head(activation), activation, None
        return self.head(activation), activation, self.auxiliary(middle)


def build(name: str, outputs: int, *, state: dict[str, Tensor] | None = None) -> Classifier:
    """Architecture ``name`` with a new head of ``outputs`` logits.

    Args:
        name: one of :data:`BACKBONES`.
        outputs: number of labels.
        state: torchvision's state dict of pretrained weights; its classification head is
            dropped. ``None``: random weights, on the caller's own word (see
            :mod:`trainer.weights`).

    Raises:
        ConfigurationError: ``state`` does not fit the architecture.
    """
    known = backbone(name)
    # InceptionV3's own input transform stays off: Normalise does it, once.
    extra = {"aux_logits": True, "init_weights": True} if name == "inception_v3" else {}
    if name == "inception_v3":
        extra["transform_input"] = False
    net = known.build(weights=None, **extra)
    if state is not None:
        try:
            net.load_state_dict(state)
        except RuntimeError:
            raise ConfigurationError(f"The pretrained weights are not those of {name}.") from None
    if isinstance(net, models.AlexNet):
        return Classifier(
            name,
            net.features[:-1],  # the last max-pooling belongs to the head
            AlexNetHead(net.classifier[1], net.classifier[4], outputs),
            None,
        )
    if isinstance(net, models.Inception3):
        net.AuxLogits.fc = nn.Linear(net.AuxLogits.fc.in_features, outputs)
        head = PooledHead(known.channels, outputs, dropout=0.5)
        return Classifier(name, InceptionFeatures(net), head, net.AuxLogits)
    assert isinstance(net, models.ResNet)
    stem = (net.conv1, net.bn1, net.relu, net.maxpool)
    features = nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4)
    return Classifier(name, features, PooledHead(known.channels, outputs), None)


def set_prior_bias(model: Classifier, prevalence: Tensor, kind: Kind) -> None:
    """Start from the prevalences ``[K]`` instead of from one half (Lin et al. 2017, 4.1)."""
    prior = prevalence.clamp(1e-4, 1 - 1e-4)
    bias = torch.logit(prior) if kind == "multi_label" else prior.log()
    layers = [model.head.last]
    if model.auxiliary is not None:
        layers.append(model.auxiliary.get_submodule("fc"))  # type: ignore[arg-type]
    for layer in layers:
        with torch.no_grad():
            layer.weight.mul_(0.1)
            layer.bias.copy_(bias)
