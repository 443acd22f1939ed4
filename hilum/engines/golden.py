"""The golden check: an engine must reproduce a package's golden outputs before it serves."""

from __future__ import annotations

import io
import zipfile
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.engines import Engine, Signature
from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineFailedError,
    GoldenCheckError,
    PackageSchemaError,
)
from hilum.packages.load import Package
from hilum.packages.manifest import Manifest, Target

_MAX_GOLDEN_BYTES: Final = 256 * 2**20  # after decompression, which numpy does not limit


def check_golden(engine: Engine, package: Package, target: Target = "cpu") -> None:
    """Run the golden images and compare the outputs with those recorded at export.

    The check passes if |Δprobability| ≤ t and |Δcam| ≤ t' · max(cam) for every image, label and
    cell. t and t' are the tolerances of the graph for ``target``, see
    :meth:`hilum.packages.manifest.Manifest.graph_for`.

    Raises:
        GoldenCheckError: a value differs by more or is not a number, or the run fails.
        PackageSchemaError: the file of golden outputs does not match the manifest.
        DeviceLostError, DeviceOutOfMemoryError: the GPU failed. The package may be fine.
    """
    variant = package.manifest.graph_for(target)
    golden = _read_golden(package, variant.golden)
    try:
        output = engine.run(golden["image"])
    except (DeviceLostError, DeviceOutOfMemoryError):
        raise
    except EngineFailedError as error:
        raise GoldenCheckError(f"The engine failed on the golden images: {error.detail}") from None
    highest = float(golden["cam"].max())
    for name, found, allowed in (
        ("probability", output.probability, variant.tolerance),
        ("cam", output.cam, variant.cam_tolerance * highest),
    ):
        expected = golden[name]
        if found.shape != expected.shape:
            raise GoldenCheckError(
                f"{name} has shape {found.shape}; {expected.shape} was recorded."
            )
        difference = float(np.abs(found - expected).max())
        if not difference <= allowed:  # written so that NaN fails too
            raise GoldenCheckError(
                f"{name} differs by {difference:.3g} from the golden outputs (limit {allowed:.3g})."
            )


def _read_golden(package: Package, file: str) -> dict[str, npt.NDArray[Any]]:
    data = package.read(file)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_GOLDEN_BYTES:
                raise PackageSchemaError(f"{file} unpacks to over {_MAX_GOLDEN_BYTES} bytes.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            golden = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise PackageSchemaError(f"{file} cannot be read ({type(error).__name__}).") from None
    _check_shapes(golden, package.manifest, file)
    return golden


def _check_shapes(golden: dict[str, npt.NDArray[Any]], manifest: Manifest, file: str) -> None:
    signature = Signature.of(manifest)
    expected = signature.inputs | signature.outputs
    if set(golden) != set(expected):
        raise PackageSchemaError(f"{file} must hold exactly {', '.join(sorted(expected))}.")
    count = len(golden["image"]) if golden["image"].ndim else 0
    if count == 0:
        raise PackageSchemaError(f"{file} holds no image.")
    for name, (dtype, shape) in expected.items():
        array = golden[name]
        if array.dtype != dtype or array.shape != (count, *shape[1:]):
            raise PackageSchemaError(
                f"{file}: {name} is {array.dtype} {array.shape}, "
                f"but must be {dtype} {(count, *shape[1:])}."
            )
