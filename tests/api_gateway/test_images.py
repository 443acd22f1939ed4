"""Results and maps of images, in every form."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import SecretStr
from support.tiny_film import film

from api_gateway import problems
from hilum.deidentify.pseudonyms import Pseudonyms
from hilum.errors import ConfigurationError
from hilum.packages.manifest import NOTICE
from hilum.settings import DeidentifySettings

if TYPE_CHECKING:
    from .conftest import Gateway
else:
    Gateway = Any

FILM = film(1, rows=300, columns=200)


def _scored(gateway: Gateway, **fields: Any) -> str:
    """A study with one scored image; returns the image's URL."""
    gateway.store.write(f"s3://{gateway.bucket}/0.dcm", FILM)
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: gateway.result(FILM, **fields))
    return f"/v1/studies/{study}/images/{image}"


def _png(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_result_has_all_that_a_reader_needs(
    make_gateway: Callable[..., Gateway], database_url: str
) -> None:
    gateway = make_gateway(database_url)
    url = _scored(gateway)
    image = gateway.get(url).json()
    result = image["result"]
    manifest = gateway.package.manifest
    assert image["status"] == "scored"
    assert list(result["probabilities"]) == list(manifest.label_set.labels)
    assert result["probabilities"]["Effusion"] == pytest.approx(0.9)
    assert result["raw"]["Effusion"] == pytest.approx(0.2)
    assert result["findings"] == [
        {"label": "Effusion", "probability": pytest.approx(0.9), "threshold": 0.5}
    ]
    assert result["flags"] == ["view_unknown"]
    assert result["notice"] == NOTICE
    assert result["model"] == {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest,
        "demonstration_only": True,
    }
    assert result["engine"] == "onnxruntime-cpu"
    for cam in result["cam"].values():
        assert gateway.get(f"{cam}&format=json").status_code == 200
    study = gateway.get(url.rsplit("/images/", 1)[0]).json()
    assert study["images"]["images"] == [image]
    (model,) = gateway.get("/v1/models").json()
    assert model["digest"] == manifest.digest
    assert model["labels"] == list(manifest.label_set.labels)


def test_numbers_are_those_stored(gateway: Gateway) -> None:
    url = _scored(gateway) + "/cam?label=Effusion"
    expected = np.zeros((4, 4), dtype=np.float32)
    expected[0, 3] = 2
    numbers = gateway.get(url, Accept="application/json").json()
    assert numbers["grid"] == expected.tolist()
    assert numbers["probability"] == pytest.approx(0.9)
    # 300×200 in a square of 64: 43 wide, in the middle.
    assert (numbers["input_size"], numbers["film_box"]) == (64, [10, 0, 53, 64])
    assert numbers["notice"] == NOTICE
    array = np.load(io.BytesIO(gateway.get(url, Accept="application/x-npy").content))
    assert array.dtype == np.float32
    assert np.array_equal(array, expected)
    assert gateway.get(f"{url}&format=npy").headers["content-type"] == "application/x-npy"


def test_the_overlay_is_the_film_with_heat_where_the_model_looked(gateway: Gateway) -> None:
    base = _scored(gateway)
    hot = _png(gateway.get(f"{base}/cam?label=Effusion"))
    cold = _png(gateway.get(f"{base}/cam?label=Cardiomegaly"))  # p = 0.001
    assert hot.shape[1] == 200
    assert hot.shape[0] > 300, "the notice has a band below the film"
    picture = cold[:300]
    assert np.abs(picture[:, :, 0] - picture[:, :, 2]).max() <= 1, "no heat on what is not found"
    change = np.abs(hot[:300] - picture).sum(axis=2)
    rows, columns = np.nonzero(change > 0.5 * change.max())
    assert rows.max() < 110, "cell (0, 3) of 4×4 is the upper right"
    assert columns.min() > 120


def test_overlays_are_small_enough(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway()
    settings = gateway.settings.gateway.model_copy(update={"overlay_max_side": 100})
    small = make_gateway(gateway=settings)
    url = _scored(small)
    assert _png(small.get(f"{url}/cam?label=Effusion")).shape[1] == 67


def test_unchanged_maps_are_not_sent_again(gateway: Gateway) -> None:
    url = _scored(gateway) + "/cam?label=Effusion&format=npy"
    first = gateway.get(url)
    assert "private" in first.headers["Cache-Control"]
    again = gateway.get(url, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def _is_problem(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == problems.MEDIA_TYPE


def test_maps_that_cannot_be_had(gateway: Gateway) -> None:
    url = _scored(gateway, keep=(1,))
    _is_problem(gateway.get(f"{url}/cam?label=Hernia"), 404, "cam.label_unknown")
    _is_problem(gateway.get(f"{url}/cam?label=Pneumothorax"), 404, "cam.not_kept")
    _is_problem(gateway.get(f"{url}/cam"), 422, "request.invalid")
    _is_problem(gateway.get(f"{url}/cam?label=Effusion&format=bmp"), 422, "request.invalid")
    waiting = gateway.study()
    (image,) = gateway.get(f"/v1/studies/{waiting}").json()["images"]["images"]
    _is_problem(gateway.get(f"{image['url']}/cam?label=Effusion"), 409, "image.not_scored")


def test_an_object_that_changed_or_went(gateway: Gateway) -> None:
    url = _scored(gateway) + "/cam?label=Effusion"
    gateway.store.write(f"s3://{gateway.bucket}/0.dcm", film(2))
    _is_problem(gateway.get(url), 409, "cam.source_changed")
    # The numbers do not need the object.
    assert gateway.get(f"{url}&format=json").status_code == 200
    study = gateway.post({"images": [{"uri": f"s3://{gateway.bucket}/gone.dcm"}]}).json()["id"]
    (image,) = gateway.finish(study, lambda _n: gateway.result(FILM))
    gone = gateway.get(f"/v1/studies/{study}/images/{image}/cam?label=Effusion")
    _is_problem(gone, 410, "storage.object_missing")


def test_a_store_that_does_not_let_us_in(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway()
    url = _scored(gateway) + "/cam?label=Effusion"
    wrong = gateway.settings.s3.model_copy(update={"secret_access_key": SecretStr("wrong")})
    locked = make_gateway(s3=wrong)
    answer = locked.get(url)
    _is_problem(answer, 503, "storage.credentials_rejected")
    assert answer.headers["Retry-After"]


def _film_with_text() -> bytes:
    """Smooth, with letters in its upper left."""
    shade = np.add.outer(np.arange(300), np.arange(200)) * 4
    canvas = Image.fromarray(np.zeros((300, 200), dtype=np.uint8))
    ImageDraw.Draw(canvas).text((8, 8), "DOE^JANE 1950", fill=255)
    pixels = np.where(np.asarray(canvas) > 100, 4095, shade).astype("<u2")
    return film(1, rows=300, columns=200, PixelData=pixels.tobytes())


def test_text_in_overlays_is_covered_on_request(gateway: Gateway) -> None:
    data = _film_with_text()
    gateway.store.write(f"s3://{gateway.bucket}/0.dcm", data)
    study = gateway.study()
    (image,) = gateway.finish(study, lambda _n: gateway.result(data))
    base = f"/v1/studies/{study}/images/{image}/cam?label=Cardiomegaly"
    plain, masked = gateway.get(base), gateway.get(f"{base}&mask_text=true")
    assert plain.headers["ETag"] != masked.headers["ETag"]
    one, two = _png(plain), _png(masked)
    assert one[:30, :100].max() > 240, "the letters are there"
    assert two[:30, :100].max() < 100
    assert np.array_equal(one[60:300], two[60:300])


def test_a_gateway_whose_results_leave_gives_pseudonyms(
    make_gateway: Callable[..., Gateway],
) -> None:
    secret = SecretStr("s" * 32)
    plain = make_gateway()
    url = _scored(plain)
    told = plain.get(url).json()["result"]
    away = make_gateway(deidentify=DeidentifySettings(results=True, secret=secret))
    result = away.get(url).json()["result"]
    names = Pseudonyms("s" * 32)
    for key in ("sop_instance_uid", "series_instance_uid", "study_instance_uid"):
        assert told[key]
        assert result[key] == names.uid(told[key])
        assert told[key] not in away.get(url).text
    listed = away.get(url.partition("/images")[0]).json()["images"]["images"][0]["result"]
    assert listed["sop_instance_uid"] == result["sop_instance_uid"]
    assert result["probabilities"] == told["probabilities"]


def test_results_do_not_leave_without_a_secret(make_gateway: Callable[..., Gateway]) -> None:
    with pytest.raises(ConfigurationError, match="HILUM_DEIDENTIFY__SECRET"):
        make_gateway(deidentify=DeidentifySettings(results=True))
