"""``python -m benchmarks.engine [--json] [--quick]``: what all the maps cost.

- ``maps_vs_autograd``: images/s of the exported graph in ONNX Runtime, probabilities and all 14
  maps, against torch eager with the usual autograd Grad-CAM of one label.
- ``maps_vs_least_autograd``: against the least that autograd can do, the gradient of the head.
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

from benchmarks.autograd_cam import one_label, usual
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

    def all_maps() -> object:
        return whole.run(["probability", "cam"], {"image": images})

    ours, autograd, least = interleaved(
        [all_maps, lambda: usual(model, tensor, 0), lambda: one_label(model, tensor, 0)],
        repeats=repeats,
    )
    # By themselves: after torch has run, its threads spin for a while.
    again, plain = interleaved(
        [all_maps, lambda: forward.run(["probability"], {"image": images})], repeats=2 * repeats
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
    yield _line("maps_vs_least_autograd", case, ours, "torch eager, head's gradient", least, 1.0)
    yield _line("maps_vs_forward_only", case, again, "ONNX Runtime, no maps", plain, FORWARD_TARGET)


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
    options.log_severity_level = 3  # the cut graph keeps weights it does not use
    # The idle threads of one session would otherwise spin on the cores of the other's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _forward_only(graph: bytes) -> bytes:
    """The graph without ``cam`` and every node that only it needs: ONNX Runtime would run them."""
    model = onnx.load_model_from_string(graph)
    del model.graph.output[[output.name for output in model.graph.output].index("cam")]
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):  # ONNX keeps its nodes in topological order
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
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
