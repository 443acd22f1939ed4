"""``python -m benchmarks.prepared [--json]``: rescoring from the prepared-image cache.

- ``cache_vs_j2k``: ms from an object in S3 to the model's input, judged by the policy, warm from
  the cache, against reading and decoding the same JPEG 2000 film whole; with and without an
  intermediate.
- ``cache_bytes``: bytes read for it, against those of the film.

A real S3 server on this machine holds both; no time is spent on a network.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import films
from benchmarks.report import Line, interleaved, machine
from hilum.dicom import open_film
from hilum.embedded.seaweed import Seaweed
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import model_input
from hilum.packages.manifest import InputPolicy
from hilum.pipeline.admit import admit
from hilum.pipeline.cache import PreparedCache
from hilum.pipeline.examine import complete, examine
from hilum.pipeline.stages import ExamineOptions, Ready
from hilum.settings import Limits, PreparedSettings
from hilum.storage import ObjectStore, open_store

TARGET = 30.0  # times as fast as decoding all of a JPEG 2000 film
BYTES_TARGET = 100.0  # times fewer bytes
LIMITS = Limits()
URI = "s3://benchmark/film.dcm"
SPECS = {
    "input of 224": PreprocessSpec(size=224),
    "512 px, 16 bits, to 224": PreprocessSpec(size=224, intermediate=512),
    "1024 px, 16 bits, to 512": PreprocessSpec(size=512, intermediate=1024),
}


@contextmanager
def _store() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory() as folder:
        server = Seaweed(Path(folder) / "seaweed")
        try:
            server.wait()
            yield open_store(server.settings, LIMITS)
        finally:
            server.stop()


def measure(*, repeats: int = 7) -> Iterator[Line]:
    """Yield the lines; each is measured when it is needed."""
    data = films.film("j2k")
    with _store() as store:
        store.write(URI, data)
        settings = PreparedSettings.model_validate({"mode": "on", "secret": "benchmark" * 5})
        cache = PreparedCache(store, settings)
        for name, spec in SPECS.items():
            yield from _of(name, spec, store, cache, data, repeats=repeats)


def _of(
    name: str,
    spec: PreprocessSpec,
    store: ObjectStore,
    cache: PreparedCache,
    data: bytes,
    *,
    repeats: int,
) -> Iterator[Line]:
    policy = InputPolicy()
    options = ExamineOptions(preprocess=spec, policy=policy, limits=LIMITS, keep=True)
    place = cache.place(URI, spec)
    assert place is not None
    cache.keep(place, examine(data, options))

    def warm() -> Ready:
        found = cache.place(URI, spec)
        assert found is not None
        kept = cache.find(found)
        assert kept is not None
        again = complete(kept, options)
        assert again is not None
        return admit(again, policy)

    def whole() -> object:
        return model_input(open_film(store.read(URI), LIMITS), spec)

    expected = model_input(open_film(data, LIMITS), spec).image
    assert np.array_equal(warm().model_input.image, expected), "bit for bit, or this is no use"
    ours, peer = interleaved([warm, whole], repeats=repeats)
    yield Line(
        claim="cache_vs_j2k",
        case=name,
        value=ours * 1000,
        peer="JPEG 2000 decoded whole",
        peer_value=peer * 1000,
        ratio=peer / ours,
        target=TARGET,
        unit="ms",
    )
    size = len(store.read(place.uri))
    yield Line(
        claim="cache_bytes",
        case=name,
        value=size,
        peer="the film",
        peer_value=len(data),
        ratio=len(data) / size,
        target=BYTES_TARGET,
        unit="bytes",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    for line in measure(repeats=3 if arguments.quick else 7):
        print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
