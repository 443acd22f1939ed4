"""``python -m benchmarks.engine [--json] [--quick]``: what precision and all the maps cost or save.

- ``maps_vs_autograd``: images/s of the exported graph in ONNX Runtime, probabilities and all 14
  maps, against torch eager with the usual autograd Grad-CAM of one label.
- ``maps_vs_least_autograd``: against the least that autograd can do, the gradient of the head.
- ``maps_vs_forward_only``, ``maps_cost``: the same against the same graph cut down to its
  probabilities, as a ratio with target 0.95 and with the 3 % that the maps may cost.
- ``int8_vs_fp32``: the CPU's int8 graph against the float32 one, both with all maps; the signed
  one that TensorRT wants beside it, to show why each has its own.
- ``one_map_vs_peers``, ``all_maps_vs_peers``: against the grad-cam package on torch eager, and on
  torchxrayvision's ResNet-50 at 512 pixels; hilum computes all maps in both.
- ``tuned_vs_default``: the best of threads × batch (`hilum tune`) against the default setting.
- ``first_result``, ``resident_memory``: of a fresh process with the demonstration model, against
  the same model in torch eager with one map by grad-cam.

Random weights but for the last: speed does not depend on them. Peers are the extra `bench`; one
that is missing is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from benchmarks.autograd_cam import one_label, usual
from benchmarks.engine_peers import XRV_SIZE, missing, torch_eager, torchxrayvision
from benchmarks.report import Line, interleaved, machine
from export.int8 import calibrate, quantise
from export.onnx import export
from export.session import Session
from hilum.engines import tuning
from hilum.machine import usable_cores
from hilum.packages.manifest import Target
from trainer.backbones import BACKBONES, Classifier, build

LABELS = 14
BATCH = 8
AUTOGRAD_TARGET = {"alexnet": 1.4}  # three large linear layers weigh more than its convolutions
DEFAULT_AUTOGRAD_TARGET = 2.0
FORWARD_TARGET = 0.95
COST_TARGET = 0.97
INT8_TARGET = 1.7
ONE_MAP_TARGET = 3.0
ALL_MAPS_TARGET = 10.0
DEMO = Path("models/demo")


def measure(name: str, *, repeats: int) -> Iterator[Line]:
    """Measure every claim about one backbone."""
    torch.manual_seed(0)
    model = build(name, LABELS).eval()
    size = BACKBONES[name].native_size
    graph = export(model, "multi_label", size=size)
    whole, forward = _session(graph), _session(forward_only(graph))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 1, size, size), dtype=np.uint8)
    tensor = torch.from_numpy(images)

    def all_maps() -> object:
        return whole.run(["probability", "cam"], {"image": images})

    ours, autograd, least = interleaved(
        [all_maps, lambda: usual(model, tensor, 0), lambda: one_label(model, tensor, 0)],
        repeats=repeats,
    )
    # Measured alone, because the threads of torch spin for a while after a run.
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
    for claim, target in (("maps_vs_forward_only", FORWARD_TARGET), ("maps_cost", COST_TARGET)):
        yield _line(claim, case, again, "ONNX Runtime, no maps", plain, target)
    yield from precision(graph, images, case, repeats=repeats)
    if "grad-cam" not in missing():
        yield from against_grad_cam(model, whole, images, case, repeats=repeats)


def precision(
    graph: bytes, images: npt.NDArray[np.uint8], case: str, *, repeats: int
) -> Iterator[Line]:
    """Compare int8 with float32 on the CPU, for the CPU's graph and for TensorRT's."""
    calibrated = calibrate(graph, images)
    targets: tuple[Target, ...] = ("cpu", "tensorrt")
    runs = [_session(graph), *(_session(quantise(calibrated, target=t)) for t in targets)]
    exact, unsigned, signed = interleaved(
        [lambda s=s: s.run(["probability", "cam"], {"image": images}) for s in runs],  # type: ignore[misc]
        repeats=repeats,
    )
    yield _line("int8_vs_fp32", case, unsigned, "ONNX Runtime, float32", exact, INT8_TARGET)
    yield _line(
        "int8_vs_fp32", f"{case}, cpu graph", unsigned, "TensorRT's int8 graph", signed, 1.0
    )


def against_grad_cam(
    model: Classifier,
    whole: onnxruntime.InferenceSession,
    images: npt.NDArray[np.uint8],
    case: str,
    *,
    repeats: int,
) -> Iterator[Line]:
    """Compare with one map and all maps of the grad-cam package on the same model in torch."""
    peer = torch_eager(model)
    floats = torch.from_numpy(images).float()
    ours, one = interleaved(
        [
            lambda: whole.run(["probability", "cam"], {"image": images}),
            lambda: peer.maps(floats, [0]),
        ],
        repeats=repeats,
    )
    name = "torch eager + grad-cam"
    yield _line("one_map_vs_peers", case, ours, f"{name}, 1 map", one, ONE_MAP_TARGET)
    few = max(1, repeats // 4)
    ours, every = interleaved(
        [
            lambda: whole.run(["probability", "cam"], {"image": images}),
            lambda: peer.maps(floats, range(LABELS)),
        ],
        repeats=few,
        warmup=0,
    )
    yield _line("all_maps_vs_peers", case, ours, f"{name}, 14 maps", every, ALL_MAPS_TARGET)


def against_torchxrayvision(*, repeats: int) -> Iterator[Line]:
    """Compare with torchxrayvision's ResNet-50 at 512 pixels, 18 labels, batch 2."""
    torch.manual_seed(0)
    theirs, grad_cam = torchxrayvision()
    ours_model = build("resnet50", 18).eval()
    whole = _session(export(ours_model, "multi_label", size=XRV_SIZE))
    count = 2
    images = np.random.default_rng(0).integers(
        0, 256, (count, 1, XRV_SIZE, XRV_SIZE), dtype=np.uint8
    )
    floats = torch.from_numpy(images).float() * (2048 / 255) - 1024  # its value range

    def hilum() -> object:
        return whole.run(["probability", "cam"], {"image": images})

    def peer(labels: Sequence[int]) -> object:
        with torch.no_grad():
            probability = theirs(floats)
        return probability, grad_cam.maps(floats, labels)

    case = f"resnet50 {XRV_SIZE} batch {count}"
    for claim, labels, target, times in (
        ("one_map_vs_peers", range(1), ONE_MAP_TARGET, repeats),
        ("all_maps_vs_peers", range(18), ALL_MAPS_TARGET, max(1, repeats // 4)),
    ):
        ours, them = interleaved([hilum, lambda: peer(labels)], repeats=times)  # noqa: B023
        name = f"torchxrayvision + grad-cam, {len(labels)} map{'s' * (len(labels) > 1)}"
        yield _line(claim, case, ours, name, them, target, count=count)


def tuned(name: str, *, seconds: float) -> Line:
    """Compare the best threads and batch with all cores and the default batch of 8."""
    torch.manual_seed(0)
    size = BACKBONES[name].native_size
    graph = export(build(name, LABELS).eval(), "multi_label", size=size)
    cells = list(
        tuning.sweep(
            lambda threads: Session(graph, threads),
            np.random.default_rng(0).integers(0, 256, (1, 1, size, size), dtype=np.uint8),
            threads=tuning.thread_counts(usable_cores()),
            batches=tuning.batch_sizes(16),
            seconds=seconds,
        )
    )
    best = tuning.best(cells)
    default = next(c for c in cells if (c.threads, c.batch) == (usable_cores(), BATCH))
    return Line(
        claim="tuned_vs_default",
        case=f"{name} {size}, {best.threads} threads, batch {best.batch}",
        value=best.images_per_s,
        peer=f"{default.threads} threads, batch {default.batch}",
        peer_value=default.images_per_s,
        ratio=best.images_per_s / default.images_per_s,
        target=1 - 0.03,  # a smaller batch is chosen if it costs no more than this
        unit="images/s",
    )


def fresh_process(*, repeats: int) -> Iterator[Line]:
    """Measure the seconds from the start of a process to its first result, and its memory then."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(build("resnet18", 6).state_dict(), weights)
        found = {"hilum": [_child("hilum", DEMO)], "torch": [_child("torch", weights)]}
        for _ in range(max(2, repeats // 3)):
            found["hilum"].append(_child("hilum", DEMO))
            found["torch"].append(_child("torch", weights))
    medians = {
        (side, field): statistics.median(
            run[field] for run in runs[1:]
        )  # the first run filled the file cache
        for side, runs in found.items()
        for field in ("seconds", "rss")
    }
    for claim, field, scale, unit in (
        ("first_result", "seconds", 1.0, "s"),
        ("resident_memory", "rss", 2.0**-20, "MiB"),
    ):
        ours, theirs = medians["hilum", field] * scale, medians["torch", field] * scale
        yield Line(
            claim=claim,
            case="resnet18, fresh process",
            value=ours,
            peer="torch eager + grad-cam, 1 map",
            peer_value=theirs,
            ratio=theirs / ours,
            target=1.0,
            unit=unit,
        )


def _child(side: str, location: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.engine_child", side, str(time.time())]
    done = subprocess.run([*command, str(location)], capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _line(
    claim: str,
    case: str,
    ours_s: float,
    peer: str,
    peer_s: float,
    target: float,
    *,
    count: int = BATCH,
) -> Line:
    return Line(
        claim=claim,
        case=case,
        value=count / ours_s,
        peer=peer,
        peer_value=count / peer_s,
        ratio=peer_s / ours_s,
        target=target,
        unit="images/s",
    )


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # the shortened graph keeps weights that it does not use
    # The idle threads of one session would otherwise occupy the cores of the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def forward_only(graph: bytes) -> bytes:
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
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, small backbones")
    parser.add_argument("--backbone", choices=list(BACKBONES), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(usable_cores())
    names = arguments.backbone or [
        name for name in BACKBONES if not (arguments.quick and name == "resnet152")
    ]
    repeats = 3 if arguments.quick else 9
    absent = missing()
    if not arguments.json:
        print(machine())
        for peer in absent:
            print(f"{peer} is not installed (extra `bench`); it is left out")
    parts: list[Iterator[Line]] = [measure(name, repeats=repeats) for name in names]
    if not arguments.backbone:
        if not absent:
            parts.append(against_torchxrayvision(repeats=repeats))
        parts.append(tuned(name, seconds=0.3 * repeats) for name in ("resnet50",))
        if "grad-cam" not in absent:
            parts.append(fresh_process(repeats=repeats))
    for line in chain.from_iterable(parts):
        print(line.json() if arguments.json else line.text())
        sys.stdout.flush()


if __name__ == "__main__":
    main()
