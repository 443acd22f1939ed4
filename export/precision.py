"""Make graphs in other precisions, and refuse those that lose too much.

int8 first quantises every layer of the body. If the loss on the validation split is too large, the
layers that do the most harm when quantised alone stay in float32: first one, then two, four and so
on, up to a quarter of the layers. The test split is measured afterwards and decides nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from export import half, int8
from export.errors import PrecisionError
from export.session import Session
from hilum.packages.manifest import Precision, Target
from trainer.evaluation.scorer import run

FloatArray = npt.NDArray[np.floating]

MAX_AUROC_LOSS: Final = 0.005
MAX_FP16_DP: Final = 0.005
CALIBRATION_FILMS: Final = 128
_SENSITIVITY_FILMS: Final = 12
_KEPT_SHARE: Final = 0.25
_NAMED: Final = 5  # number of layers that an error names

#: Tolerances of the golden check, |Δp| and |Δcam| / max(cam). On the CPU, int8 sums are exact.
#: TensorRT fuses and rounds at other places than the emulation that recorded the golden outputs.
TOLERANCES: Final[Mapping[tuple[Target, Precision], tuple[float, float]]] = {
    ("cpu", "int8"): (0.01, 0.05),
    ("tensorrt", "fp16"): (0.005, 0.05),
    ("tensorrt", "bf16"): (0.03, 0.2),
    ("tensorrt", "int8"): (0.05, 0.3),
}
Judge = Callable[[FloatArray], float]  # raw outputs [N, K] on validation -> loss of macro AUROC


@dataclass(frozen=True, kw_only=True)
class Made:
    """A graph in another precision."""

    target: Target
    precision: Precision
    graph: bytes
    reference: Session = field(repr=False)  # runs it, or its emulation, on this machine
    how: str  # how it was run on this machine
    kept: tuple[str, ...] = ()  # layers that stay in float32, the most harmful first
    # For int8, measured on the first call: layers with the change of the logits, worst first.
    ranked: Callable[[], Sequence[tuple[str, float]]] = field(default=tuple, repr=False)

    def harmful_layers(self) -> str:
        """For an error: which layers stayed in float32, and which do the most harm."""
        worst = _worst(self.ranked())
        kept = ", ".join(self.kept) or "none"
        return f" Layers already in float32: {kept}.{worst}" if worst else ""


def parse(text: str) -> dict[Target, Precision]:
    """Parse ``--precision``: ``fp32``, ``fp16``, ``bf16``, ``int8``, or one for each target, as in
    ``cpu=int8,tensorrt=fp16``.

    With ``fp16`` or ``bf16`` for all targets, the CPU uses float32, the better choice there.

    Raises:
        PrecisionError: ``text`` has another form.
    """
    wanted: dict[Target, Precision] = {}
    plain = "=" not in text and "," not in text
    for part in text.split(","):
        target, _, precision = part.rpartition("=")
        if precision not in ("fp32", "fp16", "bf16", "int8") or (
            not plain and target not in ("cpu", "tensorrt")
        ):
            raise PrecisionError(
                f"--precision {text!r} is not valid.",
                next_step="Use fp32, fp16, bf16, int8, or for example cpu=int8,tensorrt=fp16.",
            )
        targets: tuple[Target, ...] = ("cpu", "tensorrt") if plain else (target,)  # type: ignore[assignment]
        for name in targets:
            wanted[name] = precision  # type: ignore[assignment]
    if not plain and wanted.get("cpu") in ("fp16", "bf16"):
        raise PrecisionError(
            f"The CPU engine does not support {wanted['cpu']}.",
            next_step="Use cpu=fp32 or cpu=int8.",
        )
    return {
        target: precision
        for target, precision in wanted.items()
        if precision != "fp32" and (target, precision) in TOLERANCES
    }


def make(
    graph: bytes,
    wanted: Mapping[Target, Precision],
    *,
    films: npt.NDArray[np.uint8],
    validation: npt.NDArray[np.uint8],
    judge: Judge,
    method: int8.Method = "percentile",
) -> list[Made]:
    """Make the graphs of ``wanted``.

    Args:
        graph: the float32 graph from :func:`export.onnx.export`.
        films: films of the training split that calibrate int8, uint8 ``[N, 1, S, S]``.
        validation: films of the validation split, uint8 ``[N, 1, S, S]``.
        judge: returns the loss of macro AUROC for a graph's outputs on ``validation``.

    Raises:
        PrecisionError: int8 loses more than :data:`MAX_AUROC_LOSS` even with a quarter of its
            layers in float32 (the detail names the most harmful layers), or a weight is too large.
    """
    calibrated = int8.calibrate(graph, films, method=method) if "int8" in wanted.values() else None
    made = []
    for target, precision in wanted.items():
        if precision == "int8":
            assert calibrated is not None
            made.append(_int8(calibrated, target, graph, validation, judge))
            continue
        halved = (half.to_fp16 if precision == "fp16" else half.to_bf16)(graph)
        made.append(
            Made(
                target=target,
                precision=precision,
                graph=halved,
                reference=Session(half.emulate(halved)),
                how=f"ONNX Runtime, {precision} emulated: rounded tensors, float32 accumulation",
            )
        )
    return made


def sensitivity(
    calibrated: int8.Calibrated,
    target: Target,
    graph: bytes,
    films: npt.NDArray[np.uint8],
) -> dict[str, float]:
    """For each layer, the root mean square change of the logits on ``films`` if only this layer is
    quantised. The most harmful layer comes first."""
    exact = _logit(run(Session(graph), films).raw)
    layers = set(calibrated.layers.values())
    harm = {}
    for layer in layers:
        session = _as_on(target, int8.quantise(calibrated, target=target, keep=layers - {layer}))
        change = _logit(run(session, films).raw) - exact
        harm[layer] = float(np.sqrt(np.mean(change**2)))
    return dict(sorted(harm.items(), key=lambda item: -item[1]))


def _as_on(target: Target, quantised: bytes) -> Session:
    """Open an int8 graph so that it computes sums as its target does."""
    return Session(quantised, as_written=target == "tensorrt")


def _int8(
    calibrated: int8.Calibrated,
    target: Target,
    graph: bytes,
    validation: npt.NDArray[np.uint8],
    judge: Judge,
) -> Made:
    @functools.cache
    def ranked() -> list[tuple[str, float]]:
        films = validation[:_SENSITIVITY_FILMS]
        return [*sensitivity(calibrated, target, graph, films).items()]

    layers = calibrated.layers
    most = math.floor(len(layers) * _KEPT_SHARE)
    kept, losses = 0, []
    while True:
        names = tuple(name for name, _ in ranked()[:kept]) if kept else ()
        quantised = int8.quantise(calibrated, target=target, keep={*names})
        session = _as_on(target, quantised)
        loss = judge(run(session, validation).raw)
        losses.append(loss)
        if loss <= MAX_AUROC_LOSS:
            return Made(
                target=target,
                precision="int8",
                graph=quantised,
                reference=session,
                how="ONNX Runtime" + ("" if target == "cpu" else ", int8 as written: exact sums"),
                kept=names,
                ranked=ranked,
            )
        if kept >= most:
            break
        kept = min(max(1, 2 * kept), most)
    raise PrecisionError(
        f"int8 for {target} loses {losses[0]:.4f} of macro AUROC on validation, and "
        f"{losses[-1]:.4f} with {kept} of {len(layers)} layers in float32; the limit is "
        f"{MAX_AUROC_LOSS}.{_worst(ranked())}",
        next_step="Export in fp16 or fp32, or use more calibration films (--calibration-films).",
    )


def _worst(ranking: Sequence[tuple[str, float]]) -> str:
    if not ranking:
        return ""
    named = ", ".join(f"{name} ({harm:.3f})" for name, harm in ranking[:_NAMED])
    return f" The most harmful layers (RMS change of the logits): {named}."


def _logit(probability: FloatArray) -> npt.NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)))
