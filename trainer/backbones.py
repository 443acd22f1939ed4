"""AlexNet, ResNet and InceptionV3 with new heads, split at the Grad-CAM layer.

Every model takes model inputs, uint8 ``[N, 1, S, S]``. It scales them, normalises them as its
pretrained weights expect and replicates them to three channels, once. ``S`` is the backbone's
native size unless the configuration sets another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hilum.errors import ConfigurationError, UnknownBackboneError
from hilum.packages.labels import HeadKind
from trainer.arrays import UInt8Array
from trainer.augment import shrink

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# InceptionV3's weights come from TensorFlow, which normalised to [-1, 1]. torchvision asks for
# ImageNet's normalisation and undoes it inside (`transform_input`). Here neither is done.
_UNIT = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# torchvision's names of the layers that give logits. They are replaced, whatever their width.
_HEADS = ("fc.", "AuxLogits.fc.", "classifier.6.")
_BATCH = 64  # of a prediction


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What is known about one architecture."""

    build: Callable[..., nn.Module]
    weights: str  # torchvision's name of the ImageNet weights
    channels: int = 2048  # of the Grad-CAM layer
    native_size: int = 224
    grid: int = 7  # side of the Grad-CAM map at the native size
    # Mean and standard deviation of each channel, of full scale, as those weights expect.
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET


BACKBONES: dict[str, Backbone] = {
    "alexnet": Backbone(
        build=models.alexnet, weights="AlexNet_Weights.IMAGENET1K_V1", channels=256, grid=13
    ),
    "resnet18": Backbone(
        build=models.resnet18, weights="ResNet18_Weights.IMAGENET1K_V1", channels=512
    ),
    "resnet50": Backbone(build=models.resnet50, weights="ResNet50_Weights.IMAGENET1K_V2"),
    "resnet152": Backbone(build=models.resnet152, weights="ResNet152_Weights.IMAGENET1K_V2"),
    "inception_v3": Backbone(
        build=models.inception_v3,
        weights="Inception_V3_Weights.IMAGENET1K_V1",
        native_size=299,
        grid=8,
        normalisation=_UNIT,
    ),
}


def backbone(name: str) -> Backbone:
    """What is known about the architecture ``name``.

    Raises:
        UnknownBackboneError: hilum does not know it.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        known = ", ".join(BACKBONES)
        raise UnknownBackboneError(f"Unknown backbone {name!r}; known: {known}.") from None


class Normalise(nn.Module):
    """Model inputs uint8 ``[N, 1, S, S]`` to float32 ``[N, C, S, S]`` as the weights expect."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Args: mean and standard deviation of each of the C channels, of full scale."""
        super().__init__()
        mean_, std_ = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * std_), persistent=False)
        self.register_buffer("shift", -mean_ / std_, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Broadcasting over the channels replicates the image."""
        return image.to(self.scale.dtype) * self.scale + self.shift


class PooledHead(nn.Module):
    """Global average pooling and one linear layer (ResNet, InceptionV3)."""

    def __init__(self, channels: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, outputs)  # gives the logits

    def forward(self, activation: Tensor) -> Tensor:
        """``[N, C, h, w]`` to logits ``[N, K]``."""
        logits: Tensor = self.linear(self.dropout(activation.mean(dim=(2, 3))))
        return logits


class AlexNetHead(nn.Module):
    """AlexNet after its last convolution: pooling and three linear layers."""

    def __init__(
        self, hidden1: nn.Linear, hidden2: nn.Linear, outputs: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)
        self.resize = nn.AdaptiveAvgPool2d((6, 6))
        self.dropout1 = nn.Dropout(dropout)
        self.hidden1 = hidden1
        self.dropout2 = nn.Dropout(dropout)
        self.hidden2 = hidden2
        self.linear = nn.Linear(hidden2.out_features, outputs)  # gives the logits

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
    """InceptionV3 up to Mixed_7c, in two parts: the auxiliary head needs what is between them."""

    def __init__(self, net: models.Inception3) -> None:
        super().__init__()
        children = list(net.named_children())
        middle = [name for name, _ in children].index("AuxLogits")  # after Mixed_6e
        self.lower = nn.Sequential(*(child for _, child in children[:middle]))
        self.upper = nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, S, S]`` to ``[N, 2048, h, w]``."""
        activation: Tensor = self.upper(self.lower(x))
        return activation


class AuxiliaryHead(nn.Module):
    """InceptionV3's second head (Szegedy et al. 2016, section 4), for training only."""

    def __init__(self, net: nn.Module, outputs: int) -> None:
        """Args: ``net`` is torchvision's auxiliary head, whose convolutions are kept."""
        super().__init__()
        self.conv0 = net.get_submodule("conv0")
        self.conv1 = net.get_submodule("conv1")
        self.fc = nn.Linear(768, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 768, h, w]`` of Mixed_6e (17×17 at 299 px) to logits ``[N, K]``."""
        # torchvision's pooling would leave less than conv1's 5×5 of smaller inputs.
        large = min(x.shape[2:]) >= 17
        pooled = F.avg_pool2d(x, 5, stride=3) if large else F.adaptive_avg_pool2d(x, (5, 5))
        middle: Tensor = self.conv1(self.conv0(pooled))
        logits: Tensor = self.fc(middle.mean(dim=(2, 3)))
        return logits


class Classifier(nn.Module):
    """A backbone with a head of ``outputs`` logits.

    ``features`` ends at the Grad-CAM layer; ``head`` does the rest. In training InceptionV3 also
    has ``auxiliary``, the head of Szegedy et al. 2016, section 4.
    """

    def __init__(
        self,
        name: str,
        features: nn.Module,
        head: PooledHead | AlexNetHead,
        auxiliary: AuxiliaryHead | None,
        normalise: Normalise,
    ) -> None:
        super().__init__()
        self.name = name
        self.normalise = normalise
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

    @torch.no_grad()
    def predict(self, images: UInt8Array, size: int, kind: HeadKind) -> Tensor:
        """Probabilities float32 ``[N, K]``, on the CPU, of ``images`` uint8 ``[N, 1, S, S]``
        resized to side ``size``. Sets evaluation mode."""
        self.eval()
        device = next(self.parameters()).device
        parts = [torch.empty(0, self.head.linear.out_features)]
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.array(images[start : start + _BATCH])).to(device)
            logits = self(shrink(batch, size))
            probability = logits.sigmoid() if kind == "multi_label" else logits.softmax(dim=1)
            parts.append(probability.cpu())
        return torch.cat(parts)

    def forward_training(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits ``[N, K]``, the Grad-CAM layer, and the auxiliary logits where there are any."""
        if self.auxiliary is None or not isinstance(self.features, InceptionFeatures):
            activation = self.activation(image)
            return self.head(activation), activation, None
        middle = self.features.lower(self.normalise(image))
        activation = self.features.upper(middle)
        return self.head(activation), activation, self.auxiliary(middle)


def build(
    name: str,
    outputs: int,
    *,
    state: dict[str, Tensor] | None = None,
    dropout: float | None = None,
    initialise: bool = True,
) -> Classifier:
    """Architecture ``name`` with a new head of ``outputs`` logits.

    Args:
        name: one of :data:`BACKBONES`.
        outputs: number of labels.
        state: torchvision's state dict of pretrained weights; its classification head is
            dropped. ``None``: random weights.
        dropout: of the head; ``None``: the architecture's own (AlexNet and InceptionV3 0.5).
        initialise: false: weights will be loaded, so drawing random ones is skipped where it is
            slow.

    Raises:
        UnknownBackboneError: hilum does not know ``name``.
        ConfigurationError: ``state`` does not fit the architecture.
    """
    known = backbone(name)
    extra: dict[str, bool] = {}
    if name == "inception_v3":
        # Its own input transform stays off: Normalise does it.
        extra = {"aux_logits": True, "transform_input": False}
        extra["init_weights"] = initialise and state is None
    net = known.build(weights=None, **extra)
    if state is not None:
        try:
            own = {name: v for name, v in net.state_dict().items() if name.startswith(_HEADS)}
            net.load_state_dict({n: v for n, v in state.items() if not n.startswith(_HEADS)} | own)
        except RuntimeError:
            raise ConfigurationError(
                f"The pretrained weights are not those of {name}.",
                next_step="Give a state dict as torchvision publishes it for this backbone.",
            ) from None
    normalise = Normalise(*known.normalisation)
    if isinstance(net, models.AlexNet):
        hidden1, hidden2 = net.classifier[1], net.classifier[4]
        head = AlexNetHead(hidden1, hidden2, outputs, 0.5 if dropout is None else dropout)
        # The last max-pooling belongs to the head.
        return Classifier(name, net.features[:-1], head, None, normalise)
    if isinstance(net, models.Inception3):
        auxiliary = AuxiliaryHead(net.AuxLogits, outputs)
        pooled = PooledHead(known.channels, outputs, 0.5 if dropout is None else dropout)
        return Classifier(name, InceptionFeatures(net), pooled, auxiliary, normalise)
    assert isinstance(net, models.ResNet)
    pooled = PooledHead(known.channels, outputs, dropout or 0.0)
    return Classifier(name, resnet_features(net), pooled, None, normalise)


def resnet_features(net: models.ResNet) -> nn.Sequential:
    """A ResNet without its pooling and classification layer."""
    stem = (net.conv1, net.bn1, net.relu, net.maxpool)
    return nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4)


def heads(model: Classifier) -> list[nn.Linear]:
    """The layers that give logits. They are new: no pretrained weights have them."""
    return [model.head.linear] + ([] if model.auxiliary is None else [model.auxiliary.fc])


def blocks(model: Classifier) -> list[list[nn.Parameter]]:
    """The pretrained parameters in blocks, from the input to the head.

    ResNet: stem and four layers; InceptionV3: each convolution and mixed block; AlexNet: five
    convolutions and two hidden layers.
    """
    if isinstance(model.features, InceptionFeatures):
        modules = [*model.features.lower, *model.features.upper]
    else:
        modules = list(model.features.children())
        if isinstance(modules[0], nn.Conv2d) and isinstance(modules[1], nn.BatchNorm2d):
            modules[:2] = [nn.Sequential(*modules[:2])]
    if isinstance(model.head, AlexNetHead):
        modules += [model.head.hidden1, model.head.hidden2]
    found = [list(module.parameters()) for module in modules]
    if model.auxiliary is not None:
        # It starts at a middle layer, but counts as part of the last block.
        new = {id(parameter) for head in heads(model) for parameter in head.parameters()}
        found[-1] += [p for p in model.auxiliary.parameters() if id(p) not in new]
    return [block for block in found if block]


def set_prior_bias(model: Classifier, prevalence: Tensor, kind: HeadKind) -> None:
    """Start from the prevalences ``[K]`` instead of from one half (Lin et al. 2017, 4.1)."""
    prior = prevalence.clamp(1e-4, 1 - 1e-4)
    bias = torch.logit(prior) if kind == "multi_label" else prior.log()
    for layer in heads(model):
        with torch.no_grad():
            layer.weight.mul_(0.1)
            layer.bias.copy_(bias)
