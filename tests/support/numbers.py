"""What the pipeline makes of a fixed set of films: digests of the model inputs, and the model's
numbers. ``python -m support.numbers`` (in ``tests/``) records them anew; a commit that does so
gives the reason.

Model inputs are integers, the same on every machine. Probabilities and maps are the same to the
last bit only where ONNX Runtime picks the same kernels: :func:`machine_class` says where.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import onnxruntime
import pydicom
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless
from support.ready import ready as examined
from support.tiny_film import film

from hilum.engines.loading import open_engine
from hilum.errors import HilumError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.load import verify
from hilum.pipeline.score import Scorer
from hilum.settings import Limits, Settings, WorkerSettings

ROOT: Final = Path(__file__).parents[2]
DIGESTS: Final = Path(__file__).with_name("numbers.json")
VALUES: Final = Path(__file__).with_name("numbers.npz")
SYNTHETIC: Final = 200
BATCH: Final = 8
# Beside the model's own preprocessing, which decodes every pixel and has no intermediate.
SPECS: Final = {
    "reduced": PreprocessSpec(size=48, decode="reduced"),
    "intermediate": PreprocessSpec(size=64, intermediate=128),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """Of a set of films."""

    digests: dict[str, dict[str, Any]]  # of each film: how it ended, its flags, its inputs
    values: dict[str, np.ndarray]  # of those scored: raw, probability [N, K], cam [N, K, h, w]


def machine_class() -> str:
    """Machines of one class give the same floats."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = set()
    vectors = next((name for name in ("avx512f", "avx2", "asimd") if name in words), "plain")
    return f"{platform.machine()} {vectors}, ONNX Runtime {onnxruntime.__version__}"


def samples() -> Iterator[tuple[str, bytes]]:
    """The sample films of the repository."""
    for path in sorted((ROOT / "models/samples").glob("*.dcm")):
        yield path.stem, path.read_bytes()


def real_folder() -> Path | None:
    """Where the real films are; they are no part of the repository."""
    folder = ROOT.parent / "shared/films/dicom"
    return folder if folder.is_dir() else None


def real() -> Iterator[tuple[str, bytes]]:
    """The real films, by the digest of their bytes: their names could say something."""
    folder = real_folder()
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if path.is_file():
            data = path.read_bytes()
            yield f"real-{hashlib.sha256(data).hexdigest()[:8]}", data


def synthetic() -> Iterator[tuple[str, bytes]]:
    """Mixtures of the samples: other crops, tones, headers and transfer syntaxes. Made of integers
    alone, so that they are the same on every machine."""
    base = [_pixels(data) for _, data in samples()]
    for n in range(SYNTHETIC):
        rng = np.random.default_rng(n)
        one, other = (base[int(k)] for k in rng.integers(len(base), size=2))
        rows, columns = (int(s) for s in rng.integers(150, 270, size=2))
        y, x = (int(s) for s in rng.integers(0, 12, size=2))
        share = int(rng.integers(4, 13))
        mixed = (_crop(one, y, x, rows, columns) * share
                 + _crop(other, x, y, rows, columns) * (16 - share)) // 16  # fmt: skip
        mixed = np.clip(mixed + rng.integers(-9, 10, mixed.shape), 0, 4095)
        yield f"synthetic-{n:03}", _written(mixed.astype(np.uint16), n)


def measure(films: Iterator[tuple[str, bytes]]) -> Numbers:
    """What becomes of the films with the demo model, in batches of :data:`BATCH`."""
    package = verify(ROOT / "models/demo")
    engine = open_engine(
        package, Settings(engine="onnxruntime", worker=WorkerSettings(engine_threads=1))
    )
    scorer = Scorer(package, engine)
    digests: dict[str, dict[str, Any]] = {}
    names, ready = [], []
    for name, data in films:
        found: dict[str, Any] = {"inputs": _inputs(data)}
        try:
            image = examined(package, data)
        except HilumError as error:
            found["ended"] = error.code
        else:
            found |= {"ended": "scored", "flags": list(image.flags)}
            found["inputs"]["model"] = _digest(image.model_input.image)
            names.append(name)
            ready.append(image)
        digests[name] = found
    scores = [s for at in range(0, len(ready), BATCH) for s in scorer.score(ready[at : at + BATCH])]
    values = {
        f"{name}/{kind}": getattr(score, kind)
        for name, score in zip(names, scores, strict=True)
        for kind in ("raw", "probability", "cam")
    }
    return Numbers(digests=digests, values=values)


def recorded() -> tuple[str, Numbers]:
    """The class of the machine they were recorded on, and the numbers."""
    kept = json.loads(DIGESTS.read_text())
    with np.load(VALUES) as values:
        return kept["machine"], Numbers(digests=kept["films"], values=dict(values))


def record() -> None:
    """Keep what this code gives on this machine."""
    digests: dict[str, dict[str, Any]] = {}
    values: dict[str, np.ndarray] = {}
    for films in (samples(), real(), synthetic()):
        numbers = measure(films)
        digests |= numbers.digests
        values |= numbers.values
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(f)}" for n, f in digests.items())
    DIGESTS.write_text(f'{{"machine": {json.dumps(machine_class())}, "films": {{\n{lines}\n}}}}\n')
    np.savez_compressed(VALUES, **values)  # type: ignore[arg-type]


def _inputs(data: bytes) -> dict[str, str]:
    """Digests of what other preprocessing makes of the film, whether it is fit to score or not."""
    from hilum.dicom import open_film
    from hilum.imaging.transform import model_input

    found = {}
    for name, spec in SPECS.items():
        try:
            found[name] = _digest(model_input(open_film(data, Limits()), spec).image)
        except HilumError as error:
            found[name] = error.code
    return found


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:32]


def _pixels(data: bytes) -> np.ndarray:
    read = pydicom.dcmread(BytesIO(data))
    values = np.asarray(imagecodecs.jpeg2k_decode(get_frame(read.PixelData, 0, number_of_frames=1)))
    return values.astype(np.int64)[::2, ::2] >> max(0, read.BitsStored - 12)


def _crop(pixels: np.ndarray, y: int, x: int, rows: int, columns: int) -> np.ndarray:
    """``rows``×``columns`` pixels spread over what is right of and below (y, x)."""
    down = y + np.arange(rows) * (pixels.shape[0] - y) // rows
    right = x + np.arange(columns) * (pixels.shape[1] - x) // columns
    return pixels[down][:, right]


def _written(pixels: np.ndarray, n: int) -> bytes:
    """The film as the ``n``-th of them has it: with other attributes and in another syntax."""
    attributes: dict[str, Any] = {"RescaleIntercept": 0, "RescaleSlope": 1}
    if n % 3 == 1:
        attributes |= {"WindowCenter": 1800 + n, "WindowWidth": 2600}
    if n % 5 == 2:
        pixels, attributes["PhotometricInterpretation"] = 4095 - pixels, "MONOCHROME1"
    if n % 7 == 3:
        attributes["PixelPaddingValue"] = 0
        pixels = pixels.copy()
        pixels[:, : 10 + n % 20] = 0
    if n % 11 == 4:
        attributes["ViewPosition"] = None
    if n % 13 == 5:
        attributes["BurnedInAnnotation"] = "YES"
    if n % 17 == 6:
        attributes["BodyPartExamined"] = None
    if n % 37 == 7:
        attributes["ViewPosition"] = "LL"
    if n % 41 == 8:
        pixels = np.ascontiguousarray(pixels[::-1])
    read = pydicom.dcmread(
        BytesIO(film(n, rows=pixels.shape[0], columns=pixels.shape[1], **attributes))
    )
    syntax, frame = _frame(np.ascontiguousarray(pixels, dtype=np.uint16), n)
    if syntax == ExplicitVRLittleEndian:
        read.PixelData = frame
    else:
        read.PixelData = encapsulate([frame])
        read["PixelData"].VR, read["PixelData"].is_undefined_length = "OB", True
    read.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    read.save_as(out)
    return out.getvalue()


def _frame(pixels: np.ndarray, n: int) -> tuple[str, bytes]:
    if n % 4 == 1:
        return JPEGLSLossless, bytes(imagecodecs.jpegls_encode(pixels, level=0))
    if n % 4 == 2:
        lossless = {"level": 0, "codecformat": "j2k", "bitspersample": 12}
        return JPEG2000Lossless, bytes(imagecodecs.jpeg2k_encode(pixels, **lossless))
    if n % 4 == 3:
        lossless = {"lossless": True, "bitspersample": 12}
        return JPEGLosslessSV1, bytes(imagecodecs.jpeg8_encode(pixels, **lossless))
    return ExplicitVRLittleEndian, pixels.astype("<u2").tobytes()


if __name__ == "__main__":
    record()
