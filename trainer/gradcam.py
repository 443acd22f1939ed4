"""Exact Grad-CAM of every label in the forward pass (Selvaraju et al. 2017, equations 1 and 2).

Grad-CAM weighs channel c of activation A by the mean over the grid of ∂y_k/∂A_c, where y_k is the
logit of label k, and keeps the positive part of the weighted sum. For these heads the gradient has
a closed form, so no backward pass is needed and the map can be part of an exported graph:

- *Pooled head*: y_k = W_k · mean(A) + b, so the weight is W_kc / (h·w) at every cell.
- *AlexNet's head*: a ReLU passes the gradient where it is open, a linear layer multiplies it by
  its weights, and pooling only redistributes it. Max-pooling routes each output's gradient to one
  input; adaptive average pooling spreads it with weights that sum to one. Grad-CAM uses only the
  sum over the grid, which stays the same at every input size, so no argmax is needed.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from hilum.packages.labels import HeadKind
from trainer.backbones import AlexNetHead, Classifier


class WithMaps(nn.Module):
    """A classifier with one forward pass that gives the probabilities and all maps."""

    def __init__(self, model: Classifier, kind: HeadKind) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[N, 1, S, S]`` to probability ``[N, K]`` and cam ``[N, K, h, w]``, float32."""
        activation = self.model.activation(image)
        head = self.model.head
        if isinstance(head, AlexNetHead):
            logits, cam = _alexnet(head, activation)
        else:
            logits, cam = head(activation), _pooled(head.linear.weight, activation)
        probability = logits.sigmoid() if self.kind == "multi_label" else logits.softmax(dim=1)
        return probability, cam


def _pooled(weight: Tensor, activation: Tensor) -> Tensor:
    """``weight`` [K, C], ``activation`` [N, C, h, w] to [N, K, h, w]."""
    cells = activation.shape[2] * activation.shape[3]
    return F.relu(F.conv2d(activation, (weight / cells)[:, :, None, None]))


def _alexnet(head: AlexNetHead, activation: Tensor) -> tuple[Tensor, Tensor]:
    """``activation`` [N, 256, h, w] to logits [N, K] and maps [N, K, h, w]."""
    first, second = head.hidden(activation)
    logits = head.linear(second)
    # ∂y_k/∂(pre-activation of the second hidden layer): [N, K, 4096]
    gradient = head.linear.weight[None] * (second > 0).to(activation.dtype)[:, None]
    gradient = (gradient @ head.hidden2.weight) * (first > 0).to(activation.dtype)[:, None]
    # hidden1 sees 256 channels × 6 × 6 cells: its weights summed over the cells.
    channels = activation.shape[1]
    summed = head.hidden1.weight.reshape(head.hidden1.out_features, channels, -1).sum(dim=2)
    cells = activation.shape[2] * activation.shape[3]
    weight = (gradient @ summed) / cells  # [N, K, 256]
    cam = F.relu(weight @ activation.flatten(2))
    return logits, cam.reshape(-1, cam.shape[1], *activation.shape[2:])
