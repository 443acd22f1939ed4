"""What a user would choose instead of hilum's engine: torch eager and torchxrayvision's classifier,
both with the grad-cam package, as their documentation shows. Needs the extra `bench`."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from trainer.backbones import Classifier

XRV_WEIGHTS = "resnet50-res512-all"
XRV_SIZE = 512


def missing() -> list[str]:
    """The names of the peers that are not installed."""
    names = {"pytorch_grad_cam": "grad-cam", "torchxrayvision": "torchxrayvision"}
    return [shown for name, shown in names.items() if importlib.util.find_spec(name) is None]


class GradCamPackage:
    """Probabilities from a forward pass, maps from ``pytorch_grad_cam.GradCAM``.

    Args:
        model: from input to logits.
        layer: whose activation the maps are taken of.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        from pytorch_grad_cam import GradCAM

        self._cam = GradCAM(model=model, target_layers=[layer])

    def maps(self, image: Tensor, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities ``[N, K]`` and a map of each of ``labels`` ``[N, L, S, S]``. The package
        runs forward and backward once a label; the last forward's logits give the rest."""
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        found = [
            self._cam(input_tensor=image, targets=[ClassifierOutputTarget(label)] * len(image))
            for label in labels
        ]
        logits: Tensor = self._cam.outputs
        return torch.sigmoid(logits).detach().numpy(), np.stack(found, axis=1)


class FromFloats(nn.Module):
    """Our classifier with floats as input, for a package that needs gradients of the input."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """The logits of floats from 0 to 255, ``[N, 1, S, S]``."""
        return self.model(image)  # type: ignore[no-any-return]


def torch_eager(model: Classifier) -> GradCamPackage:
    """Our own backbone in torch eager."""
    return GradCamPackage(FromFloats(model).eval(), _last(model))


def torchxrayvision() -> tuple[nn.Module, GradCamPackage]:
    """torchxrayvision's ResNet-50 at 512 pixels with 18 labels and random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchxrayvision as xrv

        known = xrv.models.model_urls[XRV_WEIGHTS]
        bare = torchvision.models.resnet50(num_classes=len(known["labels"]), weights=None)
        bare.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        with tempfile.TemporaryDirectory() as cache:
            name = Path(known["weights_url"]).name
            torch.save(bare.state_dict(), Path(cache) / name)
            model = xrv.models.ResNet(weights=XRV_WEIGHTS, cache_dir=cache + "/")
    # Its forward ends in a sigmoid and rescales by operating points; Grad-CAM needs the logit.
    return model, GradCamPackage(model.model, model.model.layer4[-1])


def _last(model: Classifier) -> nn.Module:
    """The module whose output is the input of the head."""
    features = model.features
    upper = getattr(features, "upper", features)
    assert isinstance(upper, nn.Sequential)
    return upper[-1]
