"""The prepared-image cache on a real S3 server: the same bits, nothing in plain, never wrong."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from support.tiny_film import film

from hilum import dicom
from hilum.campaigns.planning import look_up_in
from hilum.dicom import DicomObject
from hilum.errors import ConfigurationError, ObjectMissingError
from hilum.imaging.spec import PreprocessSpec
from hilum.imaging.transform import Grey, ModelInput, input_from_stage, model_input
from hilum.packages.manifest import InputPolicy, PixelPolicy
from hilum.pipeline import codec
from hilum.pipeline.cache import DamagedEntryError, PreparedCache, Sealer, evict, open_cache
from hilum.pipeline.examine import examine
from hilum.pipeline.stages import Examination, ExamineOptions
from hilum.settings import Limits, PreparedSettings, S3Settings, load
from hilum.storage import ObjectStore, open_store

SECRET = SecretStr("x" * 40)
ON = PreparedSettings(mode="on", secret=SECRET)
SPEC = PreprocessSpec(size=32)
STAGED = PreprocessSpec(size=32, intermediate=64)
FILM = film(1, rows=120, columns=90, PatientName="ZEBRA^ZOE")


@pytest.fixture
def store(s3: S3Settings) -> ObjectStore:
    return open_store(s3, Limits())


def opened(data: bytes = FILM) -> DicomObject:
    return dicom.open_object(data, Limits())


def entry(spec: PreprocessSpec = SPEC, data: bytes = FILM) -> Examination:
    options = ExamineOptions(
        preprocess=spec,
        policy=InputPolicy(pixels=PixelPolicy.nothing()),  # the films are noise
        limits=Limits(),
        keep=True,
    )
    return examine(data, options)


@pytest.mark.parametrize("spec", [SPEC, STAGED, PreprocessSpec(size=32, decode="reduced")])
@pytest.mark.parametrize("padded", [False, True])
def test_the_same_input_with_and_without(
    spec: PreprocessSpec, padded: bool, store: ObjectStore, bucket: str
) -> None:
    data = film(2, rows=120, columns=90, **({"PixelPaddingValue": 0} if padded else {}))
    if padded:
        data = data[:-3000] + bytes(3000)  # the lower edge is padding
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, data)
    cache = PreparedCache(store, ON)
    place = cache.place(uri, spec)
    assert place is not None
    assert cache.find(place) is None
    cache.keep(place, entry(spec, data))
    found = cache.find(place)
    assert found is not None
    assert found.header == opened(data).header
    assert found.content_sha256 == hashlib.sha256(data).digest()
    assert found.stage is not None
    one, other = input_from_stage(found.stage, spec), model_input(opened(data), spec)
    assert one.placement == other.placement
    assert np.array_equal(one.image, other.image)
    assert one.image.any()


def test_models_of_other_sizes_share_an_intermediate(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON)
    small, large = STAGED, PreprocessSpec(size=48, intermediate=64, stretch_percentiles=(1, 99))
    place, same = cache.place(uri, small), cache.place(uri, large)
    assert place is not None
    assert place == same
    cache.keep(place, entry(small))
    found = cache.find(place)
    assert found is not None
    assert isinstance(found.stage, Grey)
    assert np.array_equal(
        input_from_stage(found.stage, large).image, model_input(opened(), large).image
    )
    alone = cache.place(uri, PreprocessSpec(size=48))
    assert alone is not None
    assert alone.uri != place.uri


def test_nothing_of_the_patient_is_in_plain(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/ZEBRA-ZOE/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON)
    place = cache.place(uri, STAGED)
    assert place is not None
    cache.keep(place, entry(STAGED))
    assert "ZEBRA" not in place.uri
    assert "ZEBRA" not in repr(place)
    raw = store.read(place.uri)
    header = opened().header
    for value in (b"ZEBRA", header.sop_instance_uid.encode(), header.study_instance_uid.encode()):
        assert value not in raw
    assert b"\xff\xd8\xff\xf7" not in raw, "not even the start of the picture"
    # The folder is hidden: a listing of films does not have it.
    assert list(store.iter_uris(f"s3://{bucket}")) == [uri]


def test_another_version_of_the_film_is_another_entry(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON)
    before = cache.place(uri, SPEC)
    assert before is not None
    cache.keep(before, entry())
    store.write(uri, film(7, rows=120, columns=90))
    after = cache.place(uri, SPEC)
    assert after is not None
    assert after.uri != before.uri
    assert cache.find(after) is None
    store.write(f"s3://{bucket}/copy.dcm", FILM)
    copy = cache.place(f"s3://{bucket}/copy.dcm", SPEC)
    assert copy is not None
    assert copy.uri != before.uri


@pytest.mark.parametrize("spoil", ["byte", "cut", "empty", "other", "moved", "secret"])
def test_a_damaged_entry_is_written_anew(
    spoil: str, store: ObjectStore, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri, other_uri = f"s3://{bucket}/DOE.dcm", f"s3://{bucket}/other.dcm"
    store.write(uri, FILM)
    store.write(other_uri, film(9, rows=120, columns=90))
    cache = PreparedCache(store, ON)
    place, other = cache.place(uri, SPEC), cache.place(other_uri, SPEC)
    assert place is not None
    assert other is not None
    cache.keep(place, entry())
    cache.keep(other, entry(data=film(9, rows=120, columns=90)))
    raw = store.read(place.uri)
    if spoil == "secret":
        cache = PreparedCache(store, ON.model_copy(update={"secret": SecretStr("y" * 40)}))
    else:
        wrong = {
            "byte": raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:],
            "cut": raw[:-1],
            "empty": b"",
            "other": b"something else",
            "moved": store.read(other.uri),
        }
        store.write(place.uri, wrong[spoil])
    with caplog.at_level(logging.WARNING):
        assert cache.find(place) is None
    assert "prepared.damaged" in caplog.text
    assert "DOE" not in caplog.text
    cache.keep(place, entry())
    found = cache.find(place)
    assert found is not None
    assert found.content_sha256 == hashlib.sha256(FILM).digest()


def test_a_film_refused_by_its_header_is_kept_without_pixels() -> None:
    sealer, refused = Sealer("z" * 40), entry()
    facts = Examination(content_sha256=refused.content_sha256, header=refused.header)
    found = sealer.open(sealer.seal(facts, "name"), "name")
    assert found.stage is None
    assert found.header == refused.header
    assert sealer.seal(facts, "name") != sealer.seal(facts, "name"), "a new nonce each time"
    with pytest.raises(DamagedEntryError):
        sealer.open(sealer.seal(facts, "name"), "another")


@pytest.mark.parametrize("kind", ["input", "grey", "refused"])
def test_entries_of_the_release_before_are_read(kind: str) -> None:
    """Sealed by its code; the format is still 1."""
    with np.load(Path(__file__).with_name("entries.npz")) as sealed:
        found = Sealer("z" * 40).open(sealed[kind].tobytes(), kind)
    spec, modality = (STAGED if kind == "grey" else SPEC), ("CT" if kind == "refused" else "DX")
    expected = entry(spec, film(1, rows=120, columns=90, Modality=modality)).kept()
    assert (found.content_sha256, found.header) == (expected.content_sha256, expected.header)
    assert type(found.stage) is type(expected.stage)
    assert (found.stage is None) is (kind == "refused")
    if isinstance(found.stage, Grey):
        assert isinstance(expected.stage, Grey)
        assert np.array_equal(found.stage.values, expected.stage.values)
        assert (found.stage.rows, found.stage.columns, found.stage.padded) == (120, 90, False)
    elif found.stage is not None:
        assert isinstance(expected.stage, ModelInput)
        assert np.array_equal(found.stage.image, expected.stage.image)
        assert found.stage.placement == expected.stage.placement


def test_an_examination_goes_through_the_codec_whole() -> None:
    options = ExamineOptions(
        preprocess=STAGED, policy=InputPolicy(), limits=Limits(), preview_side=40, keep=True
    )
    found = examine(film(1, rows=120, columns=90, BurnedInAnnotation="YES"), options)
    assert found.doubts, "noise is no chest"
    again = codec.unpack(*codec.pack(found))
    assert (again.header, again.doubts) == (found.header, found.doubts)
    assert again.content_sha256 == found.content_sha256
    assert again.grey is not None
    assert found.grey is not None
    assert np.array_equal(again.grey.values, found.grey.values)
    assert again.model_input is not None
    assert found.model_input is not None
    assert np.array_equal(again.model_input.image, found.model_input.image)
    assert again.model_input.placement == found.model_input.placement
    assert again.preview is not None
    assert found.preview is not None
    assert np.array_equal(again.preview, found.preview)
    for fields, arrays in (({"kind": "grey"}, ()), ({"kind": None}, ()), ({}, ())):
        with pytest.raises((ValueError, KeyError, TypeError)):
            codec.unpack(fields, arrays)


def test_read_only_writes_nothing(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON.model_copy(update={"mode": "read"}))
    place = cache.place(uri, SPEC)
    assert place is not None
    cache.keep(place, entry())
    with pytest.raises(ObjectMissingError):
        store.read(place.uri)


def test_a_store_that_fails_fails_no_film(
    store: ObjectStore, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON.model_copy(update={"bucket": "no bucket"}))
    place = cache.place(uri, SPEC)
    assert place is not None
    with caplog.at_level(logging.WARNING):
        assert cache.find(place) is None
        cache.keep(place, entry())
    assert "prepared.unreadable: storage." in caplog.text
    assert "prepared.not_kept: storage." in caplog.text


def test_eviction(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON)
    places = [cache.place(uri, spec) for spec in (SPEC, STAGED)]
    for place in places:
        assert place is not None
        cache.keep(place, entry())
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert evict(store, ON, bucket, before=soon - timedelta(days=1)) == 0
    assert evict(store, ON, bucket, before=soon, stage=STAGED.stage_digest) == 1
    assert evict(store, ON, bucket, before=soon) == 1
    assert evict(store, ON, bucket, before=soon) == 0
    assert store.read(uri) == FILM, "films stay"


def test_eviction_leaves_what_is_no_entry(store: ObjectStore, bucket: str) -> None:
    """Somebody's films below the prefix."""
    keys = ["film.dcm", f"{'0' * 16}/film.dcm", f"{'0a' * 8}/0b/{'0a' * 32}", "0a/0a/" + "0a" * 32]
    cases = [f"s3://{bucket}/film.dcm", *(f"s3://{bucket}/{ON.prefix}/{key}" for key in keys)]
    for uri in cases:
        store.write(uri, FILM)
    place = PreparedCache(store, ON).place(cases[0], SPEC)
    assert place is not None
    PreparedCache(store, ON).keep(place, entry())
    cases += [place.uri + ".dcm"]
    store.write(cases[-1], FILM)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert evict(store, ON, bucket, before=soon, stage="0" * 16) == 0
    assert evict(store, ON, bucket, before=soon) == 1
    assert all(store.read(uri) == FILM for uri in cases)


@pytest.mark.parametrize("prefix", ["", "/", "//", "films", "films/.hidden", ".", "./x", "/../x"])
def test_a_prefix_that_takes_films_in_is_refused(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_PREPARED__PREFIX", prefix)
    with pytest.raises(ConfigurationError, match="HILUM_PREPARED__PREFIX"):
        load()
    monkeypatch.setenv("HILUM_PREPARED__PREFIX", "/.cache/films/")
    assert load().prepared.prefix == ".cache/films"


def test_films_outside_s3_are_not_cached(local_store: ObjectStore, tmp_path: Any) -> None:
    (tmp_path / "film.dcm").write_bytes(FILM)
    assert PreparedCache(local_store, ON).place(str(tmp_path / "film.dcm"), SPEC) is None


def test_off_by_default_and_never_without_a_secret(local_store: ObjectStore) -> None:
    assert open_cache(local_store, PreparedSettings()) is None
    for secret in (None, SecretStr("short")):
        with pytest.raises(ConfigurationError) as caught:
            open_cache(local_store, PreparedSettings(mode="on", secret=secret))
        assert "short" not in str(caught.value)


def test_without_an_intermediate_the_input_itself_is_kept() -> None:
    assert isinstance(entry().kept().stage, ModelInput)
    assert isinstance(entry(STAGED).kept().stage, Grey)


def picture() -> bytes:
    out = BytesIO()
    Image.fromarray(np.add.outer(np.arange(120), np.arange(90)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("data", [picture(), FILM], ids=["PNG", "DICOM"])
def test_of_the_pipeline_version_before_only_what_reads_the_same_is_used(
    data: bytes, store: ObjectStore, bucket: str
) -> None:
    uri = f"s3://{bucket}/film"
    store.write(uri, data)
    cache = PreparedCache(store, ON)
    place = cache.place(uri, SPEC)
    assert place is not None
    assert place.before is not None
    cache.keep(place.before, entry(data=data))
    found = cache.find(place)
    if data == FILM:
        assert found is None
        return
    assert found is not None
    store.write(place.before.uri, b"")
    assert cache.find(place) is not None, "it is kept under this version now"


def test_whether_an_entry_is_there_without_writing_one(store: ObjectStore, bucket: str) -> None:
    uri = f"s3://{bucket}/film.dcm"
    store.write(uri, FILM)
    cache = PreparedCache(store, ON)
    place = cache.place(uri, SPEC)
    assert place is not None
    assert not cache.has(place)
    cache.keep(place, entry())
    assert cache.has(place)
    found = look_up_in(cache, SPEC)([uri, f"s3://{bucket}/missing.dcm"])
    assert (found.looked_up, found.usable) == (2, 1)
