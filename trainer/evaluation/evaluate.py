"""A checkpoint or package is measured on a data-set table: figures as JSON, and a page to read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.files import write_atomically
from hilum.packages.findings import calibrate
from hilum.packages.manifest import Calibration, OperatingPoint
from hilum.session import open_local_store
from hilum.settings import Settings
from trainer import calibration as fitting
from trainer import data, manifest
from trainer.calibration import Method, Rule
from trainer.config import DataConfig
from trainer.data import SplitFilms
from trainer.errors import CacheWriteError, DataError
from trainer.evaluation import scorer, shortcuts
from trainer.evaluation.assess import assess
from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.scored import Scored
from trainer.evaluation.scorer import Model, Run
from trainer.manifest import Record, Split
from trainer.outputs import writing

METRICS: Final = "metrics.json"
PAGE: Final = "report.html"

FloatArray = npt.NDArray[np.floating]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose."""

    rule: Rule | None = None  # None: the package's own operating points, else Youden
    method: Method | None = None  # None: the package's own calibration, else Platt
    replicates: int = 1000
    gallery: int = 12  # films in the page; 0: none leave the building
    shortcuts: bool = True
    split: Split = "test"
    max_bad_fraction: float | None = None  # None: the checkpoint's own, else the default


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that was measured, for the page."""

    model: Model
    figures: Mapping[str, Any]  # metrics.json
    scored: Scored
    films: SplitFilms
    gallery: int


def evaluate(
    location: str,
    out: Path,
    *,
    settings: Settings,
    manifest_path: Path | None,
    options: Options,
    progress: Progress | None = None,
) -> Path:
    """Write ``metrics.json`` and ``report.html`` into ``out``; returns the page.

    Calibration and operating points are fitted on the split ``val`` alone, unless the package
    brings its own and nothing else is asked for; the figures are those of ``options.split``. If
    that is ``val``, something was fitted on the films that are measured: ``in_sample`` says so.

    Raises:
        CheckpointError, PackageError: there is no usable model at ``location``.
        DataError: the data-set table cannot be used, or has no split ``val`` where one is needed.
        OutputWriteError: ``out`` cannot be made or written.
        CacheWriteError: prepared films cannot be.
    """
    from trainer.report import html  # noqa: PLC0415 -- draws; figures alone need none of it

    model = scorer.open_model(location, settings)
    source = manifest_path or model.manifest_path
    if source is None:
        raise DataError(
            "A package does not say where its data set is.", next_step="Name it by --manifest."
        )
    # A checkpoint brings no calibration, so that one has to be fitted.
    fits = model.calibration is None or options.rule is not None or options.method is not None
    needed: list[Split] = [options.split]
    if fits and options.split != "val":
        needed.append("val")
    films, listed = _films(source, model, settings, needed, options=options, progress=progress)
    with writing(out):  # before hours of scoring
        out.mkdir(parents=True, exist_ok=True)
    runs = {split: _run(model, films[split], f"run {split}", progress) for split in needed}

    own = model.calibration is None or options.method is not None
    fitted, points = _fit(model, options, runs.get("val"), films.get("val"))
    scored = {
        split: _scored(model, films[split], runs[split], fitted, points, chosen=fits)
        for split in needed
    }
    bootstrap = Bootstrap(replicates=options.replicates)
    tested = scored[options.split]
    figures: dict[str, Any] = {
        "notice": model.notice,
        "model": {
            "name": model.name,
            "identity": model.identity,
            "backbone": model.backbone,
            "label_schema": model.schema.id,
            "engine": model.engine.name,
        },
        "data": {
            "manifest_sha256": manifest.digest(source),
            "split": options.split,
            "listed": len(listed[options.split]),
            "left_out": len(listed[options.split]) - len(tested),
        },
        "in_sample": _in_sample(model, manifest_path, options.split, fits=fits),
        "calibration": {
            "fitted_on": "val" if own else "as shipped",
            "method": (options.method or "platt") if own else "as shipped",
            **fitted.model_dump(mode="json"),
        },
        **{
            _NAMES[split]: assess(one, bootstrap, listed=listed[split])
            for split, one in scored.items()
        },
    }
    if options.shortcuts:
        figures["corners"] = _corners(model, films[options.split], tested, fitted, progress)
    evaluation = Evaluation(
        model=model,
        figures=figures,
        scored=tested,
        films=films[options.split],
        gallery=options.gallery,
    )
    page = html.page(evaluation)
    with writing(out):
        write_atomically(out / METRICS, (json.dumps(figures, indent=2) + "\n").encode())
        write_atomically(out / PAGE, page.encode())
    return out / PAGE


def _in_sample(model: Model, given: Path | None, split: Split, *, fits: bool) -> bool:
    """Whether something was fitted on the very films that are measured: calibration and operating
    points on ``val``, a checkpoint's weights on the ``train`` of its own manifest."""
    own = model.manifest_path is not None and given in {None, model.manifest_path}
    return (split == "val" and fits) or (split == "train" and own)


_NAMES: Final[Mapping[Split, str]] = {"train": "train", "val": "validation", "test": "test"}


def _films(
    source: Path,
    model: Model,
    settings: Settings,
    needed: list[Split],
    *,
    options: Options,
    progress: Progress | None,
) -> tuple[dict[Split, SplitFilms], dict[Split, list[Record]]]:
    """The splits that are ``needed`` and no other: the training films of a large set take days.
    And all their rows, those too whose film could not be read."""
    records = [r for r in manifest.read(source, model.schema) if r.split in needed]
    missing = [split for split in needed if not any(r.split == split for r in records)]
    if missing:
        raise DataError(
            f"{source.name} has no image in split {missing[0]!r}.",
            next_step="Calibration and operating points need a split `val`; a package may bring "
            "its own.",
        )
    here = source.parent.absolute()
    moved = [
        r if "://" in r.uri else dataclasses.replace(r, uri=str(here / r.uri)) for r in records
    ]
    folder = settings.cache_dir / "evaluation"
    with writing(folder, CacheWriteError):
        folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{manifest.digest(source)}/{here}/{sorted(needed)}".encode()).hexdigest()
    part = folder / f"{key[:24]}.csv"
    manifest.write(part, moved, model.schema)
    allowed = options.max_bad_fraction
    if allowed is None:
        allowed = model.max_bad_fraction
    if allowed is None:
        allowed = DataConfig().max_bad_fraction
    films = data.load(
        part,
        model.schema,
        model.preprocess,
        cache_dir=settings.cache_dir / "prepared",
        max_bad_fraction=allowed,
        progress=None if progress is None else lambda n, of: progress("prepare", n, of),
        store=open_local_store(settings),
        limits=settings.limits,
        needed=needed,
    )
    return films, {split: [r for r in records if r.split == split] for split in needed}


def _run(model: Model, films: SplitFilms, what: str, progress: Progress | None) -> Run:
    told = None if progress is None else lambda n, of: progress(what, n, of)
    return scorer.run(model.engine, films, progress=told)


def _fit(
    model: Model, options: Options, run: Run | None, films: SplitFilms | None
) -> tuple[Calibration, dict[str, OperatingPoint]]:
    """Calibration and operating points: the package's own, or from validation."""
    kind = model.schema.kind
    fitted = model.calibration
    if fitted is None or options.method is not None:
        assert run is not None
        assert films is not None
        fitted = fitting.fit(run.raw, films.targets, kind, options.method or "platt")
    if model.points is not None and options.rule is None and options.method is None:
        return fitted, dict(model.points)
    assert run is not None
    assert films is not None
    calibrated = calibrate(run.raw, fitted, kind)
    rule = options.rule or fitting.YOUDEN
    return fitted, {
        label: fitting.operating_point(films.targets[:, k], calibrated[:, k], rule)
        for k, label in enumerate(model.schema.labels)
    }


def _scored(
    model: Model,
    films: SplitFilms,
    run: Run,
    fitted: Calibration,
    points: dict[str, OperatingPoint],
    *,
    chosen: bool,
) -> Scored:
    return Scored(
        schema=model.schema,
        records=films.records,
        sizes=films.sizes,
        targets=films.targets,
        probability=calibrate(run.raw, fitted, model.schema.kind),
        cam=run.cam,
        input_size=model.preprocess.size,
        points=points,
        chosen=chosen,
    )


def _corners(
    model: Model,
    films: SplitFilms,
    scored: Scored,
    fitted: Calibration,
    progress: Progress | None,
) -> dict[str, Any]:
    """Two more runs: without the corners, and with nothing else; calibrated as the first was, since
    a temperature of exclusive classes changes how one class ranks the films."""
    found = {}
    for name, mask in (
        ("corners masked", shortcuts.without_corners),
        ("corners only", shortcuts.only_corners),
    ):
        told = None if progress is None else lambda n, of, name=name: progress(name, n, of)
        raw = scorer.run(model.engine, films, mask, told).raw
        found[name] = calibrate(raw, fitted, model.schema.kind)
    return shortcuts.corner_figures(scored, found["corners masked"], found["corners only"])
