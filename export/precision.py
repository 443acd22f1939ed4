"""Graphs of another precision, made, measured and judged; refused where they cost too much.

int8 first quantises every layer of the body. If validation loses more than allowed, the layers that
hurt most, each quantised by itself, go back to float32, a few more at a time, up to a quarter of
them. What decides lies in the validation split; test is measured afterwards and never chosen by.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export import half, int8
from export.errors import PrecisionError
from export.session import Session, run
from hilum.packages.manifest import Precision, Target

FloatArray = npt.NDArray[np.floating]

MAX_AUROC_LOSS: Final = 0.005
MAX_FP16_DP: Final = 0.005
CALIBRATION_FILMS: Final = 128
_SENSITIVITY_FILMS: Final = 12
_KEPT_SHARE: Final = 0.25
_NAMED: Final = 5  # layers in the text of a refusal

#: Tolerances of the golden check, |Δp| and |Δcam| / max(cam). The CPU's int8 arithmetic is exact
#: in integers; TensorRT fuses and rounds in other places than the emulation that recorded.
TOLERANCES: Final[Mapping[tuple[Target, Precision], tuple[float, float]]] = {
    ("cpu", "int8"): (0.01, 0.05),
    ("tensorrt", "fp16"): (0.005, 0.05),
    ("tensorrt", "bf16"): (0.03, 0.2),
    ("tensorrt", "int8"): (0.05, 0.3),
}
Judge = Callable[[FloatArray], float]  # of raw [N, K] on validation: loss of macro AUROC


@dataclass(frozen=True, kw_only=True)
class Made:
    """A graph of another precision."""

    target: Target
    precision: Precision
    graph: bytes
    reference: Session = field(repr=False)  # runs it, or its emulation, on this machine
    how: str  # what ran it here
    kept: tuple[str, ...] = ()  # layers left in float32, the most harmful first
    # Layers by what each does to the logits alone, measured when first asked; none but of int8.
    ranked: Callable[[], Sequence[tuple[str, float]]] = field(default=tuple, repr=False)

    def blamed(self) -> str:
        """For the text of a refusal: what was kept, and which layers hurt most."""
        worst = _worst(self.ranked())
        kept = ", ".join(self.kept) or "none"
        return f" Layers already in float32: {kept}.{worst}" if worst else ""


def parse(text: str) -> dict[Target, Precision]:
    """What ``--precision`` asks for: ``fp32``, ``fp16``, ``bf16``, ``int8``, or per target
    ``cpu=int8,tensorrt=fp16``.

    The CPU has no half-precision arithmetic worth using: it runs float32 where a half is asked.

    Raises:
        PrecisionError: it is none of these.
    """
    wanted: dict[Target, Precision] = {}
    plain = "=" not in text and "," not in text
    for part in text.split(","):
        target, _, precision = part.rpartition("=")
        if precision not in ("fp32", "fp16", "bf16", "int8") or (
            not plain and target not in ("cpu", "tensorrt")
        ):
            raise PrecisionError(
                f"--precision {text!r} is not known.",
                next_step="Use fp32, fp16, bf16, int8, or for example cpu=int8,tensorrt=fp16.",
            )
        targets: tuple[Target, ...] = ("cpu", "tensorrt") if plain else (target,)  # type: ignore[assignment]
        for name in targets:
            wanted[name] = precision  # type: ignore[assignment]
    if not plain and wanted.get("cpu") in ("fp16", "bf16"):
        raise PrecisionError(
            f"The CPU engine has no {wanted['cpu']} arithmetic.",
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
    """The graphs that ``wanted`` asks for.

    Args:
        graph: float32, of :func:`export.onnx.export`.
        wanted: of :func:`parse`.
        films: of the training split, uint8 ``[N, 1, S, S]``, to calibrate int8 on.
        validation: films that ``judge`` knows the labels of.
        judge: what a graph's outputs on ``validation`` lose.
        method: how int8 chooses ranges.

    Raises:
        PrecisionError: int8 loses more than :data:`MAX_AUROC_LOSS` even with a quarter of its
            layers kept in float32; the text names those that hurt most. A weight does not fit.
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
                reference=Session(half.emulated(halved)),
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
    """What quantising each layer alone does: root mean square of the change of the logits on
    ``films``, worst layer first."""
    exact = _logit(run(Session(graph), films).raw)
    layers = set(calibrated.layers.values())
    harm = {}
    for layer in layers:
        session = _as_on(target, int8.quantise(calibrated, target=target, keep=layers - {layer}))
        change = _logit(run(session, films).raw) - exact
        harm[layer] = float(np.sqrt(np.mean(change**2)))
    return dict(sorted(harm.items(), key=lambda item: -item[1]))


def _as_on(target: Target, quantised: bytes) -> Session:
    """An int8 graph with the sums that its target makes."""
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
        f"int8 for {target} costs {losses[0]:.4f} of macro AUROC on validation, and "
        f"{losses[-1]:.4f} with {kept} of {len(layers)} layers in float32; {MAX_AUROC_LOSS} is "
        f"allowed.{_worst(ranked())}",
        next_step="Export in fp16 or fp32, or give more calibration films (--calibration-films).",
    )


def _worst(ranking: Sequence[tuple[str, float]]) -> str:
    if not ranking:
        return ""
    named = ", ".join(f"{name} ({harm:.3f})" for name, harm in ranking[:_NAMED])
    return f" The layers that hurt most (RMS change of the logits): {named}."


def summary(made: Made) -> dict[str, Any]:
    """What is said of a graph in parity.json."""
    return {
        "target": made.target,
        "precision": made.precision,
        "measured_with": made.how,
        "bytes": len(made.graph),
        "layers_kept_in_float32": list(made.kept),
    }


def _logit(probability: FloatArray) -> npt.NDArray[np.float64]:
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(p / (1 - p)))
