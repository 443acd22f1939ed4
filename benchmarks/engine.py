"""``python -m benchmarks.engine [--json] [--quick]``: what all the maps cost.

- ``maps_vs_autograd``: images/s of the exported graph in ONNX Runtime, probabilities and all 14
  maps, against torch eager with autograd Grad-CAM of one label.
- ``maps_vs_forward_only``: the same against the same graph cut down to its probabilities.

Random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.autograd_cam import one_label
from benchmarks.report import Line, interleaved, machine
from export.onnx import export
from hilum.machine import usable_cores
from trainer.backbones import BACKBONES, build

LABELS = 14
BATCH = 8
AUTOGRAD_TARGET = {"alexnet": 1.4}  # three large linear layers weigh more than its convolutions
DEFAULT_AUTOGRAD_TARGET = 2.0
FORWARD_TARGET = 0.95


def measure(name: str, *, repeats: int) -> Iterator[Line]:
    """Both claims for one backbone."""
    torch.manual_seed(0)
    model = build(name, LABELS).eval()
    size = BACKBONES[name].native_size
    graph = export(model, "multi_label", size=size)
    whole, forward = _session(graph), _session(_forward_only(graph))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 1, size, size), dtype=np.uint8)
    tensor = torch.from_numpy(images)
    ours, autograd, plain = interleaved(
        [
            lambda: whole.run(["probability", "cam"], {"image": images}),
            lambda: one_label(model, tensor, 0),
            lambda: forward.run(["probability"], {"image": images}),
        ],
        repeats=repeats,
    )
    case = f"{name} {size} batch {BATCH}"
    yield _line(
        "maps_vs_autograd",
        case,
        ours,
        "torch eager, autograd, 1 map",
        autograd,
        AUTOGRAD_TARGET.get(name, DEFAULT_AUTOGRAD_TARGET),
    )
    yield _line("maps_vs_forward_only", case, ours, "ONNX Runtime, no maps", plain, FORWARD_TARGET)


def _line(claim: str, case: str, ours_s: float, peer: str, peer_s: float, target: float) -> Line:
    return Line(
        claim=claim,
        case=case,
        value=BATCH / ours_s,
        peer=peer,
        peer_value=BATCH / peer_s,
        ratio=peer_s / ours_s,
        target=target,
        unit="images/s",
    )


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _forward_only(graph: bytes) -> bytes:
    """The graph without ``cam``; ONNX Runtime drops what then leads nowhere."""
    model = onnx.load_model_from_string(graph)
    kept = [output for output in model.graph.output if output.name == "probability"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return bytes(model.SerializeToString())


def main() -> None:
    """Measure every backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, small backbones")
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    names = arguments.backbone or [
        name for name in BACKBONES if not (arguments.quick and name == "resnet152")
    ]
    if not arguments.json:
        print(machine())
    for name in names:
        repeats = 3 if arguments.quick else 9
        for line in measure(name, repeats=repeats):
            print(line.json() if arguments.json else line.text())
            sys.stdout.flush()


if __name__ == "__main__":
    main()
