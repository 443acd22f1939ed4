"""From the bytes of an object to its score, on real and on small films."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from support import tiny_package
from support.ready import ready
from support.tiny_film import film

from hilum.dicom import decode, open_object
from hilum.engines import Engine, EngineOutput
from hilum.engines.loading import open_engine
from hilum.errors import (
    EngineFailedError,
    HilumError,
    NotChestError,
    NotDicomError,
    OutOfMemoryError,
    PlainImageError,
    UnexpectedError,
)
from hilum.errors.guarding import capture_failure
from hilum.imaging import transform
from hilum.packages.load import Package, verify
from hilum.packages.manifest import Calibration, InputPolicy, InputSpec, PixelPolicy
from hilum.pipeline.score import Scorer
from hilum.pipeline.stages import Score
from hilum.settings import Limits, Settings


def real_film(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


@pytest.fixture
def scorer(tiny: Package) -> Scorer:
    return Scorer(tiny, open_engine(tiny, Settings()))


class Watched:
    """The real engine, with a note of each batch, and a failure where it is told to."""

    def __init__(self, engine: Engine, poison: npt.NDArray[np.uint8] | None = None) -> None:
        self.name = engine.name
        self.batches: list[int] = []
        self.answer_nan = False
        self._engine = engine
        self._poison = poison

    def run(self, images: npt.NDArray[np.uint8]) -> EngineOutput:
        self.batches.append(len(images))
        output = self._engine.run(images)
        for i, image in enumerate(images):
            if self._poison is not None and np.array_equal(image, self._poison):
                if not self.answer_nan:
                    raise EngineFailedError("Out of some resource.")
                output.probability[i] = np.nan
        return output


def test_a_real_film_goes_through_every_step(scorer: Scorer) -> None:
    data = real_film("RG1_UNCR.dcm")
    (score,) = scorer.score([ready(scorer.package, data)])
    header = open_object(data, Limits()).header
    assert score.content_sha256 == hashlib.sha256(data).digest()
    assert (score.rows, score.columns) == (header.rows, header.columns) == (1955, 1841)
    assert score.sop_instance_uid == header.sop_instance_uid
    # The same steps by hand.
    pixels = decode(open_object(data, Limits()))
    made = transform.make_input(
        pixels.pixels, scorer.package.manifest.preprocess, padding=pixels.padding
    )
    expected = scorer.engine.run(made.image[None])
    np.testing.assert_array_equal(score.raw, expected.probability[0])
    np.testing.assert_array_equal(score.cam, expected.cam[0])
    np.testing.assert_allclose(score.probability, score.raw, rtol=1e-6)  # no calibration here
    assert [f.label for f in score.findings] == ["Nodule/Mass", "Consolidation"]
    for uid in (score.sop_instance_uid, score.series_instance_uid, score.study_instance_uid):
        assert uid
        assert uid not in repr(score)


def test_two_encodings_of_one_film_score_alike(scorer: Scorer) -> None:
    batch = [ready(scorer.package, real_film(name)) for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm")]
    plain, packed = scorer.score(batch)
    assert plain.content_sha256 != packed.content_sha256
    np.testing.assert_array_equal(plain.probability, packed.probability)
    np.testing.assert_array_equal(plain.cam, packed.cam)


def test_what_is_no_chest_film_is_refused_and_not_scored(scorer: Scorer) -> None:
    with pytest.raises(NotChestError):
        ready(scorer.package, real_film("RG3_UNCR.dcm"))
    with pytest.raises(NotDicomError):
        ready(scorer.package, b"not DICOM" * 100)


def test_flags_of_the_policy_come_with_the_score(scorer: Scorer) -> None:
    unknown = ready(scorer.package, film(BodyPartExamined=None))
    (score,) = scorer.score([unknown])
    assert score.flags == unknown.flags
    assert "body_part_unknown" in score.flags


def test_a_png_of_a_film_scores_like_the_film_where_the_policy_lists_other(
    scorer: Scorer, tmp_path: Path
) -> None:
    pixels = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8) * 2
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    with pytest.raises(PlainImageError):
        ready(scorer.package, out.getvalue())
    tiny_package.build(
        tmp_path, policy=InputPolicy(modalities=("DX", "OTHER"), pixels=PixelPolicy.nothing())
    )
    package = verify(tmp_path)
    liberal = Scorer(package, open_engine(package, Settings()))
    module = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": pixels.tobytes()}
    picture, whole = liberal.score(
        [ready(liberal.package, out.getvalue()), ready(liberal.package, film(**module))]
    )
    np.testing.assert_array_equal(picture.raw, whole.raw)
    assert picture.flags == ("plain_image", "body_part_unknown", "view_unknown")
    assert (picture.sop_instance_uid, picture.rows, picture.columns) == ("", 48, 40)


def test_calibration_moves_probability_and_findings_but_not_raw_or_maps(tmp_path: Path) -> None:
    def score(name: str, shift: float) -> Score:
        tiny_package.build(
            tmp_path / name, calibration=Calibration(scale=(1,) * 6, shift=(shift,) * 6)
        )
        package = verify(tmp_path / name)
        scorer = Scorer(package, open_engine(package, Settings()))
        return scorer.score([ready(scorer.package, film())])[0]

    plain, high = score("plain", 0), score("high", 20)
    np.testing.assert_array_equal(plain.raw, high.raw)
    np.testing.assert_array_equal(plain.cam, high.cam)
    assert (high.probability > 0.99).all()
    assert len(plain.findings) < len(high.findings) == 5  # all but the normal label


def test_a_batch_is_cut_to_what_the_engine_takes(tmp_path: Path) -> None:
    tiny_package.build(tmp_path, input=InputSpec(size=64, max_batch=2))
    package = verify(tmp_path)
    engine = Watched(open_engine(package, Settings()))
    scorer = Scorer(package, engine)
    batch = [ready(scorer.package, film(seed)) for seed in range(5)]
    together = scorer.score(batch)
    assert engine.batches == [2, 2, 1]
    for image, score in zip(batch, together, strict=True):
        np.testing.assert_allclose(score.raw, scorer.score([image])[0].raw, atol=1e-6)
    assert scorer.score([]) == []


@pytest.mark.parametrize("answer_nan", [False, True])
def test_an_image_that_breaks_its_batch_spoils_only_itself(
    answer_nan: bool, tiny: Package, scorer: Scorer
) -> None:
    batch = [ready(scorer.package, film(seed)) for seed in range(3)]
    engine = Watched(open_engine(tiny, Settings()), poison=batch[1].model_input.image)
    engine.answer_nan = answer_nan
    results = Scorer(tiny, engine).score_each(batch)
    good = scorer.score([batch[0], batch[2]])
    assert [type(result) for result in results] == [
        Score,
        UnexpectedError if answer_nan else EngineFailedError,
        Score,
    ]
    for result, expected in zip((results[0], results[2]), good, strict=True):
        assert isinstance(result, Score)
        np.testing.assert_allclose(result.probability, expected.probability, atol=1e-6)


def test_failures_become_values_that_hold_nothing_of_the_image() -> None:
    def wrong() -> None:
        image = b"DOE^JANE"
        raise ValueError(f"cannot parse {image!r}")

    def refused() -> None:
        try:
            wrong()
        except ValueError:
            raise NotDicomError("No DICM prefix.") from None

    def exhausted() -> None:
        raise MemoryError

    unexpected = capture_failure(wrong)
    assert isinstance(unexpected, UnexpectedError)
    assert "ValueError" in unexpected.detail
    assert "JANE" not in str(unexpected)
    assert isinstance(capture_failure(exhausted), OutOfMemoryError)
    for failure in (unexpected, capture_failure(refused), capture_failure(exhausted)):
        assert isinstance(failure, HilumError)
        assert (failure.__traceback__, failure.__context__, failure.__cause__) == (None,) * 3
    assert capture_failure(lambda: 3) == 3


def test_a_bug_is_reported_with_its_place(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilum.imaging.transform.Placement.letterbox", lambda **_: 1 / 0)
    failure = capture_failure(lambda: ready(scorer.package, film()))
    assert isinstance(failure, UnexpectedError)
    assert failure.detail.startswith("ZeroDivisionError in hilum.imaging.transform:")


def test_previews_are_made_only_when_asked_for_and_never_larger_than_the_film(
    tiny: Package, scorer: Scorer
) -> None:
    assert ready(scorer.package, film()).preview is None
    data = film(rows=300, columns=150)
    shown = {}
    for side in (100, 1000):
        (score,) = scorer.score([ready(tiny, data, preview_side=side)])
        assert score.preview is not None
        shown[side] = score.preview
    assert shown[100].shape == (100, 50)
    np.testing.assert_array_equal(shown[1000], decode(open_object(data, Limits())).pixels)
    assert abs(shown[100].mean() - shown[1000].mean()) < 0.01
