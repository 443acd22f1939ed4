"""``python -m benchmarks.decode [--json]``: from the bytes of a film to the model's input.

- ``decode_<syntax>_<size>``: ms a film, decoded as far as the model needs (`decode = "reduced"`),
  against pydicom's ``pixel_array`` with its recommended plugins and a Pillow resize, and against
  torchxrayvision's reader with its crop and resize. Both peers skip steps that hilum does (VOI,
  percentiles, safety checks).
- ``decode_fast_<syntax>_<size>``: the same with `decode = "fast"`, against pydicom.
- ``decode_exact_<syntax>``: the same with every pixel decoded.
- ``decode_isolated_<syntax>``: ms a film through a decode process, as films are served, against
  the same in this process: what isolation costs.
- ``decode_two_cores``: films a second with two decode processes against one.
- ``decode_memory``: peak memory beyond the film's own bytes, in raw images.
- ``cache_vs_j2k``, ``cache_bytes``: rescoring from the prepared-image cache
  (:mod:`benchmarks.prepared`).

The peers' packages are the ``bench`` extra; one that is missing is left out, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from benchmarks import films, prepared
from benchmarks.report import Line, interleaved, machine
from hilum import dicom
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.packages.manifest import InputPolicy
from hilum.pipeline.examine import Examiner, examine, examiner
from hilum.pipeline.stages import ExamineOptions
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS
from hilum.settings import Limits

SIZES = (224, 299, 512)
TARGETS = {"j2k": 15.0, "jpeg": 3.0, "jpeg-lossless": 3.0, "native": 2.0}
DEFAULT_TARGET = 1.0
TWO_CORES_TARGET = 1.8
MEMORY_LIMIT = 3.0  # raw images
LIMITS = Limits()
OPTIONS = ExamineOptions(
    preprocess=PreprocessSpec(size=SIZES[0], decode="reduced"), policy=InputPolicy(), limits=LIMITS
)


def ours(data: bytes, size: int, *, how: str = "reduced") -> object:
    """hilum: parse, check, decode, greyscale, resize, stretch, quantise."""
    spec = PreprocessSpec.model_validate({"size": size, "decode": how})
    return model_input(dicom.open_object(data, LIMITS), spec)


def pydicom_and_pillow(data: bytes, size: int) -> object:
    """What pydicom's documentation leads to, with the pylibjpeg plugins that there are."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        dataset.pixel_array_options(decoding_plugin=_plugin(syntax))
    values = dataset.pixel_array
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))


def _plugin(syntax: UID) -> str:
    """pylibjpeg if it is there for ``syntax``: its decoder for JPEG is an optional peer (GPL)."""
    plugins = get_decoder(syntax).available_plugins
    return "pylibjpeg" if "pylibjpeg" in plugins else plugins[0]


def torchxrayvision(path: Path, size: int) -> object:
    """Its own reader, crop and resize, in its own order."""
    import torchxrayvision as xrv

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = xrv.utils.load_image(str(path))
        return xrv.datasets.XRayResizer(size)(xrv.datasets.XRayCenterCrop()(image))


def speed(name: str, path: Path, *, repeats: int) -> Iterator[Line]:
    """All sizes of one transfer syntax."""
    data = path.read_bytes()
    target = TARGETS.get(name, DEFAULT_TARGET)
    peers: dict[str, Callable[[int], object]] = {
        "pydicom + Pillow": lambda size: pydicom_and_pillow(data, size)
    }
    if importlib.util.find_spec("torchxrayvision"):
        peers["torchxrayvision"] = lambda size: torchxrayvision(path, size)
    for size in SIZES:
        runs = [lambda: ours(data, size), lambda: ours(data, size, how="exact")]  # noqa: B023
        runs += [lambda: ours(data, size, how="fast")]  # noqa: B023
        runs += [lambda peer=peer: peer(size) for peer in peers.values()]  # type: ignore[misc]  # noqa: B023
        reduced, exact, fast, *others = interleaved(runs, repeats=repeats)
        case = f"{films.ROWS}×{films.COLUMNS} to {size}"
        for peer, seconds in zip(peers, others, strict=True):
            yield _line(f"decode_{name}_{size}", case, reduced, peer, seconds, target)
        peer = next(iter(peers))
        yield _line(f"decode_fast_{name}_{size}", case, fast, peer, others[0], target)
        if size == SIZES[0]:
            yield _line(f"decode_exact_{name}", case, exact, peer, others[0], DEFAULT_TARGET)


def isolated(name: str, data: bytes, decoders: Decoders, *, repeats: int) -> Line:
    """One film through a decode process against the same here."""
    there = _examiner(decoders)
    runs = [lambda: there(data), lambda: examine(data, OPTIONS)]
    away, here = interleaved(runs, repeats=repeats)
    case = f"{films.ROWS}×{films.COLUMNS} to {SIZES[0]}"
    return _line(f"decode_isolated_{name}", case, away, "in this process", here, 0.8)


def two_cores(data: bytes, *, films_each: int = 48) -> Line:
    """Films a second with two decode processes against one."""

    def rate(decoders: Decoders, threads: int) -> float:
        there = _examiner(decoders)
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(lambda _: there(data), range(films_each)))
            return films_each / (time.perf_counter() - start)

    with (
        Decoders(1, LIMITS, tasks=DECODE_TASKS) as single,
        Decoders(2, LIMITS, tasks=DECODE_TASKS) as double,
    ):
        rate(single, 1)
        rate(double, 2)
        pairs = [(rate(double, 2), rate(single, 1)) for _ in range(5)]
    two, one = (float(np.median(column)) for column in zip(*pairs, strict=True))
    return Line(
        claim="decode_two_cores",
        case=f"JPEG 2000 to {SIZES[0]}",
        value=two,
        peer="one process",
        peer_value=one,
        ratio=two / one,
        target=TWO_CORES_TARGET,
        unit="films/s",
    )


def _examiner(decoders: Decoders) -> Examiner:
    return examiner(OPTIONS, decoders)


def memory(name: str, path: Path) -> Line:
    """Peak memory of one decoding, in a process of its own, against the limit."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", str(path), str(SIZES[0])],
        capture_output=True,
        text=True,
        check=True,
    )
    raw = films.ROWS * films.COLUMNS * (1 if films.SYNTAXES[name][1] <= 8 else 2)
    images = int(done.stdout) / raw
    return Line(
        claim="decode_memory",
        case=name,
        value=images,
        peer="limit",
        peer_value=MEMORY_LIMIT,
        ratio=MEMORY_LIMIT / max(images, 1e-3),
        target=1.0,
        unit="raw images",
    )


def _line(claim: str, case: str, ours_s: float, peer: str, peer_s: float, target: float) -> Line:
    return Line(
        claim=claim,
        case=case,
        value=ours_s * 1000,
        peer=peer,
        peer_value=peer_s * 1000,
        ratio=peer_s / ours_s,
        target=target,
        unit="ms",
    )


def lines(repeats: int) -> Iterator[Line]:
    """Everything, as it is measured."""
    with tempfile.TemporaryDirectory() as folder:
        paths = films.write(Path(folder))
        for name, path in paths.items():
            yield from speed(name, path, repeats=repeats)
        with Decoders(1, LIMITS, tasks=DECODE_TASKS) as decoders:
            for name, path in paths.items():
                yield isolated(name, path.read_bytes(), decoders, repeats=repeats)
        yield two_cores(paths["j2k"].read_bytes())
        for name, path in paths.items():
            yield memory(name, path)
    yield from prepared.measure(repeats=repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
        if not importlib.util.find_spec("torchxrayvision"):
            print("torchxrayvision is not installed (extra `bench`): left out")
    for line in lines(3 if arguments.quick else 7):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
