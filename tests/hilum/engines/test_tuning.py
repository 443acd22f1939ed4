"""What was measured is kept beside the package and used, unless someone decided otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support import tiny_package

from hilum.cli import main
from hilum.engines import tuning
from hilum.engines.loading import open_engine
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.engines.tuning import Cell, Tuned, apply_tuning, best, load_tuning
from hilum.errors import ConfigurationError
from hilum.machine import usable_cores
from hilum.packages.load import Package, verify
from hilum.settings import Settings, WorkerSettings

CPU = "onnxruntime-cpu"


def found(threads: int, batch: int) -> Tuned:
    cell = Cell(threads=threads, batch=batch, images_per_s=10, batch_s=0.1)
    return Tuned(machine="here", engine=CPU, best=cell, cells=(cell,))


def test_the_command_measures_every_combination_and_keeps_the_best(copy_of_tiny: Path) -> None:
    before = verify(copy_of_tiny).digest
    run = CliRunner().invoke(main, ["tune", str(copy_of_tiny), "--seconds", "0", "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    tried = {(cell["threads"], cell["batch"]) for cell in document["cells"]}
    threads, batches = tuning.thread_counts(usable_cores()), [1, 2, 4, 8, 16]
    assert tried == {(count, batch) for count in threads for batch in batches}
    assert document["best"] in document["cells"]
    assert verify(copy_of_tiny).digest == before  # nothing of it lies in the package
    kept = load_tuning(verify(copy_of_tiny))
    assert kept is not None
    assert kept.best.model_dump() == document["best"]
    shown = CliRunner().invoke(main, ["tune", str(copy_of_tiny), "--seconds", "0", "--dry-run"])
    assert "images/s" in shown.stdout
    assert "stored in" not in shown.stdout


def test_best_prefers_small_where_it_hardly_matters() -> None:
    def cell(threads: int, batch: int, speed: float) -> Cell:
        return Cell(threads=threads, batch=batch, images_per_s=speed, batch_s=batch / speed)

    assert best([cell(1, 1, 50), cell(2, 1, 80), cell(2, 8, 100)]).batch == 8
    near = [cell(1, 8, 99), cell(2, 4, 98), cell(1, 4, 97.5), cell(2, 16, 100), cell(1, 1, 90)]
    assert (best(near).threads, best(near).batch) == (1, 4)


def test_settings_that_someone_made_count_more(copy_of_tiny: Path) -> None:
    package = verify(copy_of_tiny)
    assert apply_tuning(package, Settings(), CPU) == Settings()
    tuning.store(package, found(1, 4))
    worker = apply_tuning(package, Settings(), CPU).worker
    assert (worker.engine_threads, worker.batch_size) == (1, 4)
    mine = apply_tuning(package, Settings(worker=WorkerSettings(batch_size=8)), CPU).worker
    assert (mine.engine_threads, mine.batch_size) == (1, 8)
    both = WorkerSettings(batch_size=8, engine_threads=0)
    assert apply_tuning(package, Settings(worker=both), CPU).worker == both
    tuning.store(package, found(64, 4))
    many = apply_tuning(package, Settings(worker=WorkerSettings(processes=64)), CPU).worker
    assert many.engine_threads == 1


def test_what_suits_one_engine_is_not_used_for_another(copy_of_tiny: Path) -> None:
    package = verify(copy_of_tiny)
    tuning.store(package, found(1, 1))
    for engine in ("tensorrt-11.4.0.106-sm89-fp16", "onnxruntime-cuda", "onnxruntime-cpu-int8"):
        assert apply_tuning(package, Settings(), engine) == Settings()
    # The CPU's engine has its threads from the start, before anyone asks for its batch size.
    opened: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real = OnnxRuntimeEngine.__init__

        def init(self: OnnxRuntimeEngine, package: Package, threads: int = 0) -> None:
            opened.append(threads)
            real(self, package, threads)

        patch.setattr(OnnxRuntimeEngine, "__init__", init)
        engine = open_engine(package, Settings(engine="onnxruntime"))
    assert opened == [1]
    assert apply_tuning(package, Settings(), engine.name).worker.batch_size == 1


def test_another_package_or_machine_is_another_matter(
    copy_of_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.store(verify(copy_of_tiny), found(1, 4))
    with monkeypatch.context() as patch:
        patch.setattr("hilum.engines.tuning.cpu_model", lambda: "another")
        assert load_tuning(verify(copy_of_tiny)) is None
        tuning.store(verify(copy_of_tiny), found(2, 2))
    first = load_tuning(verify(copy_of_tiny))
    assert first is not None
    assert first.best.batch == 4  # both machines are there
    shutil.rmtree(copy_of_tiny)
    tiny_package.build(copy_of_tiny, version="2.0.0")
    assert load_tuning(verify(copy_of_tiny)) is None
    tuning.place(verify(copy_of_tiny)).write_text("{not json")
    assert load_tuning(verify(copy_of_tiny)) is None


def test_a_folder_that_cannot_be_written(tiny: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hilum.engines.tuning.write_atomically", refuse)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        tuning.store(tiny, found(1, 1))


def test_the_sweep_runs_what_it_says(tiny: Package) -> None:
    sizes = []

    class Spy(OnnxRuntimeEngine):
        def run(self, images: np.ndarray) -> object:  # type: ignore[override]
            sizes.append(len(images))
            return super().run(images)

    images = np.zeros((2, 1, 64, 64), np.uint8)
    cells = [*tuning.sweep(lambda n: Spy(tiny, n), images, threads=[1], batches=[1, 3], seconds=0)]
    assert sizes == [1] * 4 + [3] * 4
    assert [cell.batch for cell in cells] == [1, 3]
