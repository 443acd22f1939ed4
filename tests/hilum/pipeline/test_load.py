"""Films through the cache: the same scores, fewer reads, and never what is not there any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_package
from support.ready import ready
from support.tiny_film import film

from hilum.dicom import open_film
from hilum.dicom.facts import Facts
from hilum.engines.loading import open_engine
from hilum.errors import HilumError, ObjectChangedError
from hilum.imaging.spec import PreprocessSpec
from hilum.packages.load import Package, verify
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline import codec
from hilum.pipeline.cache import PreparedCache
from hilum.pipeline.load import Loader, Seen
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import ExamineOptions, Score
from hilum.sandbox import Decoders
from hilum.session import DECODE_TASKS
from hilum.settings import Limits, PreparedSettings, S3Settings, Settings
from hilum.storage import ObjectStore, open_store

LIMITS = Limits()
ON = PreparedSettings.model_validate({"mode": "on", "secret": "x" * 40})


class Counting(ObjectStore):
    """A real store, with a note of what was read."""

    reads: list[str]

    def read_into(self, write: Any, uri: str, **named: Any) -> str | None:
        self.reads.append(uri)
        return super().read_into(write, uri, **named)


@pytest.fixture
def store(s3: S3Settings) -> Counting:
    found = Counting(s3, LIMITS, allow_local=False)
    found.reads = []
    return found


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1, LIMITS, tasks=DECODE_TASKS) as found:
        yield found


@pytest.fixture(scope="module", params=[None, 128])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """With and without an intermediate."""
    folder: Path = tmp_path_factory.mktemp("package")
    spec = PreprocessSpec(size=64, intermediate=request.param)
    tiny_package.build(folder, preprocess=spec)
    return verify(folder)


def scorer(package: Package) -> Scorer:
    return Scorer(package, open_engine(package, Settings()))


def loader(
    package: Package,
    store: ObjectStore,
    cache: PreparedCache | None,
    decoders: Decoders | None = None,
    *,
    preview_side: int | None = None,
) -> Loader:
    options = ExamineOptions.of(package.manifest, LIMITS, preview_side=preview_side)
    return Loader(options, store, cache, decoders)


def same(one: Score, other: Score) -> None:
    for name in ("raw", "probability", "cam"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("content_sha256", "rows", "columns", "flags", "findings",
                 "sop_instance_uid", "series_instance_uid", "study_instance_uid"):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name


def test_scores_are_the_same_and_the_film_is_not_read_again(
    package: Package, decoders: Decoders, store: Counting, bucket: str
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, rows=200, columns=150, BurnedInAnnotation="YES"))
    model = scorer(package)
    (expected,) = model.score([loader(package, store, None, decoders).load(uri)])
    assert expected.flags == ("burned_in_annotation",)
    caching = loader(package, store, PreparedCache(store, ON), decoders)
    for reads in (3, 1):  # two entries that are not there, and the film; then the entry
        store.reads.clear()
        (found,) = model.score([caching.load(uri)])
        same(found, expected)
        assert len(store.reads) == reads
    assert uri not in store.reads
    store.write(uri, film(2, rows=200, columns=150))
    (new,) = model.score([caching.load(uri)])
    assert not np.array_equal(new.raw, expected.raw)


def test_a_refusal_is_kept_too_but_not_for_another_policy(
    tiny: Package, store: Counting, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, Modality="RF"))
    cache = PreparedCache(store, ON)
    strict = loader(tiny, store, cache)
    for _ in range(2):
        store.reads.clear()
        with pytest.raises(HilumError, match=r"policy\.wrong_modality"):
            strict.load(uri)
    assert uri not in store.reads
    liberal_policy = InputPolicy(modalities=("DX", "RF"), pixels=PixelPolicy.nothing())
    tiny_package.build(tmp_path, policy=liberal_policy)
    liberal = loader(verify(tmp_path), store, cache)
    for _ in range(2):  # from the film, and then from what is kept now
        store.reads.clear()
        assert liberal.load(uri).model_input.image.any()
    assert uri not in store.reads
    with pytest.raises(HilumError, match=r"policy\.wrong_modality"):
        strict.load(uri)


def test_the_picture_is_judged_by_the_policy_of_the_day(
    tiny: Package, store: Counting, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/noise.dcm"
    store.write(uri, film(1, rows=128, columns=128, BodyPartExamined=None))
    cache = PreparedCache(store, ON)
    loader(tiny, store, cache).load(uri)
    tiny_package.build(tmp_path, policy=InputPolicy())
    store.reads.clear()
    with pytest.raises(HilumError, match=r"policy\.not_chest"):
        loader(verify(tmp_path), store, cache).load(uri)
    assert uri not in store.reads


def test_a_film_replaced_while_it_is_read_is_read_again(
    tiny: Package, s3: S3Settings, bucket: str
) -> None:
    uri = f"s3://{bucket}/film.dcm"

    class Late(ObjectStore):
        """Somebody writes another film between looking at it and reading it."""

        replaced = False

        def read_into(self, write: Any, uri: str, **named: Any) -> str | None:
            if named.get("etag") and not self.replaced:
                self.replaced = True
                self.write(uri, film(2))
            return super().read_into(write, uri, **named)

    late = Late(s3, LIMITS, allow_local=False)
    late.write(uri, film(1))
    found = loader(tiny, late, PreparedCache(late, ON)).load(uri)
    assert late.replaced
    assert np.array_equal(found.model_input.image, ready(tiny, film(2)).model_input.image)
    place = PreparedCache(late, ON).place(uri, tiny.manifest.preprocess)
    assert place is not None
    entry = PreparedCache(late, ON).find(place)
    assert entry is not None
    assert entry.content_sha256 == found.content_sha256


def test_one_that_is_replaced_again_and_again_waits(
    tiny: Package, s3: S3Settings, bucket: str
) -> None:
    class Restless(ObjectStore):
        count = 0

        def read_into(self, write: Any, uri: str, **named: Any) -> str | None:
            if named.get("etag"):
                self.count += 1
                self.write(uri, film(self.count))
            return super().read_into(write, uri, **named)

    store = Restless(s3, LIMITS, allow_local=False)
    store.write(f"s3://{bucket}/film.dcm", film(0))
    with pytest.raises(ObjectChangedError) as caught:
        loader(tiny, store, PreparedCache(store, ON)).load(f"s3://{bucket}/film.dcm")
    assert caught.value.transient


def test_who_shows_films_needs_them(tiny: Package, s3: S3Settings, bucket: str) -> None:
    store = open_store(s3, LIMITS)
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1))
    showing = loader(tiny, store, PreparedCache(store, ON), preview_side=32)
    for _ in range(2):
        assert showing.load(uri).preview is not None


FACTS = {"InstitutionName": "Annen", "AcquisitionDate": "20240501", "PatientSex": "F"}


def seen_of(loader: Loader, uri: str) -> Seen:
    """What is said of the film's header, whatever becomes of the film."""
    found: list[Seen] = []
    with suppress(HilumError):
        loader.load(uri, on_header=found.append)
    (seen,) = found
    return seen


def test_what_the_header_says_comes_through_the_decode_process_and_the_cache(
    tiny: Package, decoders: Decoders, store: Counting, bucket: str
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    data = film(1, **FACTS)
    store.write(uri, data)
    stat = store.stat(uri)
    assert stat is not None
    expected = open_film(data, LIMITS, identity=True).header
    options = ExamineOptions.of(tiny.manifest, LIMITS, identity=True)
    plain = Loader(options, store, None, decoders)
    cached = Loader(options, store, PreparedCache(store, ON), decoders)
    for one in (plain, cached):
        seen = seen_of(one, uri)
        assert seen.header == expected
        assert (seen.content_sha256, seen.etag) == (hashlib.sha256(data).digest(), stat.etag)
    store.reads.clear()
    recalled = seen_of(cached, uri)
    assert uri not in store.reads
    without = replace(expected.facts, identity=None)
    assert recalled.header == replace(expected, facts=without), "who it is of is not kept there"
    assert (recalled.etag, recalled.content_sha256) == (seen.etag, seen.content_sha256)
    unasked = seen_of(loader(tiny, store, None, decoders), uri)
    assert unasked.header.facts == without


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Modality": "CT"}, "policy.wrong_modality"),
        ({"ViewPosition": "LL"}, "policy.not_frontal"),
        ({"PixelData": b"\0" * 100}, "dicom.truncated"),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_film_that_is_refused_has_a_header_all_the_same(
    tiny: Package,
    decoders: Decoders,
    store: Counting,
    bucket: str,
    attributes: dict[str, object],
    code: str,
    apart: bool,
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, **FACTS, **attributes))
    made = loader(tiny, store, PreparedCache(store, ON), decoders if apart else None)
    for _ in range(2):
        found: list[Seen] = []
        with pytest.raises(HilumError) as caught:
            made.load(uri, on_header=found.append)
        assert caught.value.code == code
        assert [one.header.facts.institution for one in found] == ["Annen"]


def test_an_entry_from_before_the_facts_is_as_good(
    tiny: Package, store: Counting, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are the same; SQL keeps the facts that it knows from before."""
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, **FACTS))
    cache = PreparedCache(store, ON)
    made = loader(tiny, store, cache)
    expected = made.load(uri)
    with monkeypatch.context() as patch:

        def old(header: object) -> dict[str, object]:
            found = asdict(header)  # type: ignore[call-overload]
            return {name: value for name, value in found.items() if name != "facts"}

        patch.setattr(codec, "asdict", old)
        place = cache.place(uri, tiny.manifest.preprocess)
        assert place is not None
        kept = cache.find(place)
        assert kept is not None
        cache.keep(place, kept)
    store.reads.clear()
    seen = seen_of(made, uri)
    assert uri not in store.reads
    assert seen.header.facts == Facts()
    assert np.array_equal(made.load(uri).model_input.image, expected.model_input.image)
