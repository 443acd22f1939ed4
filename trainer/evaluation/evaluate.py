"""Measures a checkpoint or package on a data-set table: figures as JSON, and a page to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

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
from trainer.errors import DataError, writing
from trainer.evaluation import scorer, shortcuts
from trainer.evaluation.assess import assess
from trainer.evaluation.bootstrap import Bootstrap
from trainer.evaluation.scored import Scored
from trainer.evaluation.scorer import Model, Run
from trainer.manifest import Record, Split

METRICS: Final = "metrics.json"
PAGE: Final = "report.html"
_NAMES: Final[Mapping[Split, str]] = {"train": "train", "val": "validation", "test": "test"}

Progress = Callable[[str, int, int], None]  # what is done, how many films, of how many


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose."""

    rule: Rule | None = None  # None: the package's own operating points, else Youden
    method: Method | None = None  # None: the package's own calibration, else Platt
    replicates: int = 1000
    gallery: int = 12  # films in the page; 0: the page holds no pixel of a film
    shortcuts: bool = True
    split: Split = "test"
    max_bad_fraction: float | None = None  # None: that of the checkpoint, else the default


def evaluate(
    location: str,
    out: Path,
    *,
    settings: Settings,
    manifest_path: Path | None,
    options: Options,
    progress: Progress = lambda _what, _done, _total: None,
) -> Path:
    """Write ``metrics.json`` and ``report.html`` into ``out``; returns the page.

    Calibration and operating points are those of the package, unless ``options`` ask for others;
    these, and a checkpoint's, are fitted on the split ``val`` alone. The figures are those of
    ``options.split``. ``in_sample`` says whether something was fitted on the measured films.

    Raises:
        CheckpointError, PackageError: there is no usable model at ``location``.
        DataError: the data-set table cannot be used, or lacks a split that is needed.
        OutputWriteError: ``out`` cannot be created or written.
        CacheWriteError: prepared images cannot be written.
    """
    from trainer.report import html  # noqa: PLC0415 -- figures alone need no plots

    model = scorer.open_model(location, settings)
    source = manifest_path or model.manifest_path
    if source is None:
        raise DataError(
            "A package does not say where its data set is.", next_step="Name it with --manifest."
        )
    fits = model.calibration is None or options.rule is not None or options.method is not None
    needed: list[Split] = [options.split]
    if fits and options.split != "val":
        needed.append("val")
    films, listed = _films(source, model, settings, needed, options=options, progress=progress)
    with writing(out):  # before hours of scoring
        out.mkdir(parents=True, exist_ok=True)
    runs = {
        split: scorer.run(
            model.engine, films[split].images, progress=partial(progress, f"run {split}")
        )
        for split in needed
    }
    calibration, points = model.calibration, model.points
    if fits:
        calibration, points = _fit(model, options, runs["val"], films["val"])
    assert calibration is not None
    assert points is not None
    scored = {
        split: scorer.scored(
            films[split], runs[split], model.schema, calibration, points, chosen=fits
        )
        for split in needed
    }
    tested = scored[options.split]
    own = model.calibration is None or options.method is not None
    bootstrap = Bootstrap(replicates=options.replicates)
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
            **calibration.model_dump(mode="json"),
        },
        **{
            _NAMES[split]: assess(one, bootstrap, listed=listed[split])
            for split, one in scored.items()
        },
    }
    if options.shortcuts:
        figures["corners"] = _corners(model, films[options.split], tested, calibration, progress)
    page = html.page(figures, tested, films[options.split], gallery=options.gallery)
    with writing(out):
        write_atomically(out / METRICS, (json.dumps(figures, indent=2) + "\n").encode())
        write_atomically(out / PAGE, page.encode())
    return out / PAGE


def _in_sample(model: Model, given: Path | None, split: Split, *, fits: bool) -> bool:
    """Whether something was fitted on the measured films: calibration and operating points on
    ``val``, the weights of a checkpoint on ``train`` of its own data-set table."""
    own = model.manifest_path is not None and given in {None, model.manifest_path}
    return (split == "val" and fits) or (split == "train" and own)


def _films(
    source: Path,
    model: Model,
    settings: Settings,
    needed: list[Split],
    *,
    options: Options,
    progress: Progress,
) -> tuple[dict[Split, SplitFilms], dict[Split, list[Record]]]:
    """Prepare the ``needed`` splits alone, since the training films of a large set take days.

    Also returns all records of these splits, with those whose film cannot be read.
    """
    records = manifest.read(source, model.schema)
    listed = {split: [r for r in records if r.split == split] for split in needed}
    if missing := [split for split in needed if not listed[split]]:
        raise DataError(
            f"{source.name} has no image in split {missing[0]!r}.",
            next_step="Add the split. Calibration and operating points are fitted on `val`, unless "
            "a package brings its own.",
        )
    allowed = (options.max_bad_fraction, model.max_bad_fraction, DataConfig().max_bad_fraction)
    films = data.load(
        source,
        model.schema,
        model.preprocess,
        cache_dir=settings.cache_dir / "prepared",
        max_bad_fraction=next(share for share in allowed if share is not None),
        progress=partial(progress, "prepare"),
        store=open_local_store(settings),
        limits=settings.limits,
        needed=needed,
    )
    return films, listed


def _fit(
    model: Model, options: Options, run: Run, films: SplitFilms
) -> tuple[Calibration, dict[str, OperatingPoint]]:
    """Fit on validation what the package does not bring or ``options`` ask for."""
    kind, fitted = model.schema.kind, model.calibration
    if fitted is None or options.method is not None:
        fitted = fitting.fit(run.raw, films.targets, kind, options.method or "platt")
    calibrated = calibrate(run.raw, fitted, kind)
    rule = options.rule or fitting.YOUDEN
    return fitted, fitting.operating_points(model.schema.labels, films.targets, calibrated, rule)


def _corners(
    model: Model, films: SplitFilms, scored: Scored, fitted: Calibration, progress: Progress
) -> dict[str, Any]:
    """Run twice more: without the corners, and with nothing else.

    The calibration is the same, because a temperature of exclusive classes changes how one class
    ranks the films.
    """

    def probability(name: str, mask: shortcuts.Mask) -> Any:
        found = scorer.run(
            model.engine,
            films.images,
            lambda image, n: mask(image, films.placement(n)),
            partial(progress, name),
        )
        return calibrate(found.raw, fitted, model.schema.kind)

    masked = probability("corners masked", shortcuts.without_corners)
    alone = probability("corners only", shortcuts.only_corners)
    return shortcuts.corner_figures(scored, masked, alone)
