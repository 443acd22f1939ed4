"""What DCMTK makes of the same files, for every encoding that it reads.

DCMTK is no Python package, so its answers are recorded, with the files it was asked about:
``python -m support.dcmtk DIRECTORY`` (with dcmdjpeg, dcmdjpls, dcmdrle and dcmconv in it) writes
``dcmtk.npz``. The tests decode those files here and compare.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pydicom
from support import decode_cases
from support.decode_cases import Case

from hilum import dicom
from hilum.dicom.decode import stored_values
from hilum.settings import Limits

RECORDS = Path(__file__).with_name("dcmtk.npz")
VERSION = "DCMTK 3.6.7"
_TOOLS = {
    "JPEG-LS": ("dcmdjpls",),
    "JPEG ": ("dcmdjpeg",),
    "RLE": ("dcmdrle",),
    "Explicit VR Big": ("dcmconv", "+te"),
    "Deflated": ("dcmconv", "+te"),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file, and its stored values as DCMTK decodes them."""

    name: str  # transfer syntax | pixels
    data: bytes = field(repr=False)
    pixels: np.ndarray = field(repr=False)  # [H, W]

    @property
    def bound(self) -> int:
        """Another inverse DCT may round to the other side."""
        return 1 if self.name.startswith(("JPEG Baseline", "JPEG Extended")) else 0


def records() -> Iterator[Record]:
    """All that were recorded, in the order of the table."""
    arrays = _arrays()
    for name in sorted(key.removesuffix("/file") for key in arrays if key.endswith("/file")):
        yield Record(
            name=name, data=arrays[f"{name}/file"].tobytes(), pixels=arrays[f"{name}/pixels"]
        )


def check(record: Record) -> None:
    """Decode the file here.

    Raises:
        AssertionError: DCMTK's values are others.
    """
    found = stored_values(dicom.open_object(record.data, Limits())).astype(np.int64)
    assert found.shape == record.pixels.shape
    assert int(np.abs(found - record.pixels).max()) <= record.bound


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(RECORDS, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _cases() -> Iterator[Case]:
    """Some depths of every encoding. Not big endian above 16 bits: DCMTK swaps the bytes of 16-bit
    words there (the VR is OW), pydicom and hilum those of the pixel."""
    kinds = (decode_cases.natives, decode_cases.run_lengths, decode_cases.lossless,
             decode_cases.lossy)  # fmt: skip
    for case in chain.from_iterable(kind() for kind in kinds):
        deep = case.syntax.startswith("Explicit VR Big") and case.expected.dtype.itemsize > 2
        bits = case.kind.removeprefix("MONOCHROME2, ")
        known = case.syntax.startswith(tuple(_TOOLS)) and not case.syntax.startswith("JPEG 2000")
        if known and not deep and bits not in {"8 bits, signed", "10 bits", "15 bits"}:
            yield case


def _decoded(case: Case, folder: Path) -> np.ndarray | None:
    """By DCMTK; ``None`` if it does not read such a file."""
    source, target = Path("in.dcm"), Path("out.dcm")
    program, *options = next(how for start, how in _TOOLS.items() if case.syntax.startswith(start))
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / source).write_bytes(case.data)
        done = subprocess.run(
            [str(folder / program), *options, str(source), str(target)], cwd=scratch, check=False
        )
        if done.returncode:
            return None
        return np.asarray(pydicom.dcmread(Path(scratch) / target).pixel_array)


def main() -> None:
    arrays = {}
    for case in _cases():
        pixels = _decoded(case, Path(sys.argv[1]))
        name = f"{case.syntax} | {case.kind}"
        sys.stdout.write(f"{name}: {'recorded' if pixels is not None else 'not read'}\n")
        if pixels is not None:
            arrays[f"{name}/file"] = np.frombuffer(case.data, dtype=np.uint8)
            arrays[f"{name}/pixels"] = pixels
    np.savez_compressed(RECORDS, **arrays)


if __name__ == "__main__":
    main()
