"""Films through the cache: the same scores, fewer reads, and never what is not there any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support import tiny_package
from support.tiny_film import film

from hilum.dicom import open_film
from hilum.dicom.facts import Facts
from hilum.engines.loading import open_engine
from hilum.errors import HilumError, ObjectChangedError
from hilum.imaging.transform import PreprocessSpec
from hilum.packages.load import Package, verify
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline import entry
from hilum.pipeline.cache import PreparedCache
from hilum.pipeline.load import Fetcher, Seen
from hilum.pipeline.score import Score, Scorer, guarded
from hilum.sandbox import Decoders
from hilum.settings import Limits, PreparedSettings, S3Settings, Settings
from hilum.storage import ObjectStore, open_store

LIMITS = Limits()
ON = PreparedSettings.model_validate({"mode": "on", "secret": "x" * 40})


class Counting(ObjectStore):
    """A real store, with a note of what was read."""

    reads: list[str]

    def read(self, uri: str, *, max_bytes: int | None = None, etag: str | None = None) -> bytes:
        self.reads.append(uri)
        return super().read(uri, max_bytes=max_bytes, etag=etag)


@pytest.fixture
def store(s3: S3Settings) -> Counting:
    found = Counting(s3, LIMITS, allow_local=False)
    found.reads = []
    return found


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(1, LIMITS) as found:
        yield found


@pytest.fixture(scope="module", params=[None, 128])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """With and without an intermediate."""
    folder: Path = tmp_path_factory.mktemp("package")
    spec = PreprocessSpec(size=64, intermediate=request.param)
    tiny_package.build(folder, preprocess=spec)
    return verify(folder)


def scorer(package: Package, decoders: Decoders | None = None, *, keep: bool = True) -> Scorer:
    engine = open_engine(package, Settings())
    return Scorer(package, engine, LIMITS, decoders=decoders, keep=keep)


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
    plain = scorer(package, decoders, keep=False)
    (expected,) = plain.score([Fetcher(plain, store, None).prepare(uri)])
    assert expected.flags == ("burned_in_annotation",)
    caching = scorer(package, decoders)
    fetcher = Fetcher(caching, store, PreparedCache(store, ON))
    for reads in (2, 1):  # the entry that is not there, and the film; then the entry
        store.reads.clear()
        (found,) = caching.score([fetcher.prepare(uri)])
        same(found, expected)
        assert len(store.reads) == reads
    assert uri not in store.reads
    store.write(uri, film(2, rows=200, columns=150))
    (new,) = caching.score([fetcher.prepare(uri)])
    assert not np.array_equal(new.raw, expected.raw)


def test_a_refusal_is_kept_too_but_not_for_another_policy(
    tiny: Package, store: Counting, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, Modality="RF"))
    cache = PreparedCache(store, ON)
    strict = Fetcher(scorer(tiny), store, cache)
    for _ in range(2):
        store.reads.clear()
        with pytest.raises(HilumError, match=r"policy\.wrong_modality"):
            strict.prepare(uri)
    assert uri not in store.reads
    liberal_policy = InputPolicy(modalities=("DX", "RF"), pixels=PixelPolicy.nothing())
    tiny_package.build(tmp_path, policy=liberal_policy)
    liberal = scorer(verify(tmp_path))
    fetcher = Fetcher(liberal, store, cache)
    for _ in range(2):  # from the film, and then from what is kept now
        store.reads.clear()
        assert fetcher.prepare(uri).model_input.image.any()
    assert uri not in store.reads
    with pytest.raises(HilumError, match=r"policy\.wrong_modality"):
        strict.prepare(uri)


def test_the_picture_is_judged_by_the_policy_of_the_day(
    tiny: Package, store: Counting, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/noise.dcm"
    store.write(uri, film(1, rows=128, columns=128, BodyPartExamined=None))
    cache = PreparedCache(store, ON)
    Fetcher(scorer(tiny), store, cache).prepare(uri)
    tiny_package.build(tmp_path, policy=InputPolicy())
    store.reads.clear()
    with pytest.raises(HilumError, match=r"policy\.not_chest"):
        Fetcher(scorer(verify(tmp_path)), store, cache).prepare(uri)
    assert uri not in store.reads


def test_a_film_replaced_while_it_is_read_is_read_again(
    tiny: Package, s3: S3Settings, bucket: str
) -> None:
    uri = f"s3://{bucket}/film.dcm"

    class Late(ObjectStore):
        """Somebody writes another film between looking at it and reading it."""

        replaced = False

        def read(self, uri: str, *, max_bytes: int | None = None, etag: str | None = None) -> bytes:
            if etag is not None and not self.replaced:
                self.replaced = True
                self.write(uri, film(2))
            return super().read(uri, max_bytes=max_bytes, etag=etag)

    late = Late(s3, LIMITS, allow_local=False)
    late.write(uri, film(1))
    found = Fetcher(scorer(tiny), late, PreparedCache(late, ON)).prepare(uri)
    assert late.replaced
    assert np.array_equal(found.model_input.image, scorer(tiny).prepare(film(2)).model_input.image)
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

        def read(self, uri: str, *, max_bytes: int | None = None, etag: str | None = None) -> bytes:
            if etag is not None:
                self.count += 1
                self.write(uri, film(self.count))
            return super().read(uri, max_bytes=max_bytes, etag=etag)

    store = Restless(s3, LIMITS, allow_local=False)
    store.write(f"s3://{bucket}/film.dcm", film(0))
    with pytest.raises(ObjectChangedError) as caught:
        Fetcher(scorer(tiny), store, PreparedCache(store, ON)).prepare(f"s3://{bucket}/film.dcm")
    assert caught.value.transient


def test_who_shows_films_needs_them(tiny: Package, s3: S3Settings, bucket: str) -> None:
    store = open_store(s3, LIMITS)
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1))
    showing = Scorer(tiny, open_engine(tiny, Settings()), LIMITS, preview_side=32, keep=True)
    for _ in range(2):
        assert Fetcher(showing, store, PreparedCache(store, ON)).prepare(uri).preview is not None


FACTS = {"InstitutionName": "Annen", "AcquisitionDate": "20240501", "PatientSex": "F"}


def seen_of(fetcher: Fetcher, uri: str) -> Seen:
    """What is said of the film's header, whatever becomes of the film."""
    found: list[Seen] = []
    guarded(lambda: fetcher.prepare(uri, seen=found.append))
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
    asked = Scorer(
        tiny, open_engine(tiny, Settings()), LIMITS, decoders=decoders, keep=True, identity=True
    )
    expected = open_film(data, LIMITS, identity=True).header
    plain, cached = Fetcher(asked, store, None), Fetcher(asked, store, PreparedCache(store, ON))
    for fetcher in (plain, cached):
        seen = seen_of(fetcher, uri)
        assert seen.header == expected
        assert (seen.content_sha256, seen.etag) == (hashlib.sha256(data).digest(), stat.etag)
    store.reads.clear()
    recalled = seen_of(cached, uri)
    assert uri not in store.reads
    without = replace(expected.facts, identity=None)
    assert recalled.header == replace(expected, facts=without), "who it is of is not kept there"
    assert (recalled.etag, recalled.content_sha256) == (seen.etag, seen.content_sha256)
    unasked = seen_of(Fetcher(scorer(tiny, decoders), store, None), uri)
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
    cache = PreparedCache(store, ON)
    fetcher = Fetcher(scorer(tiny, decoders if apart else None), store, cache)
    for _ in range(2):
        found: list[Seen] = []
        with pytest.raises(HilumError) as caught:
            fetcher.prepare(uri, seen=found.append)
        assert caught.value.code == code
        assert [one.header.facts.institution for one in found] == ["Annen"]


def test_an_entry_from_before_the_facts_is_as_good(
    tiny: Package, store: Counting, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are the same; SQL keeps the facts that it knows from before."""
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, film(1, **FACTS))
    cache = PreparedCache(store, ON)
    fetcher = Fetcher(scorer(tiny), store, cache)
    expected = fetcher.prepare(uri)
    with monkeypatch.context() as patch:

        def old(header: object) -> dict[str, object]:
            found = asdict(header)  # type: ignore[call-overload]
            return {name: value for name, value in found.items() if name != "facts"}

        patch.setattr(entry, "asdict", old)
        place = cache.place(uri, tiny.manifest.preprocess)
        assert place is not None
        kept = cache.find(place)
        assert kept is not None
        cache.keep(place, kept)
    store.reads.clear()
    seen = seen_of(fetcher, uri)
    assert uri not in store.reads
    assert seen.header.facts == Facts()
    assert np.array_equal(fetcher.prepare(uri).model_input.image, expected.model_input.image)
