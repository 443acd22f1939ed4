"""A job is cancelled under its worker, and tried again; the release before understands both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.tiny_film import film

from hilum.db.operating.filters import JobFilter
from hilum.db.operating.run import act
from hilum.db.operating.steps import Action, Changed, Order
from hilum.db.states import ItemStatus, JobStatus
from hilum.db.tables import results
from hilum.queue import Queue

if TYPE_CHECKING:
    from .conftest import System
else:
    System = Any

pytestmark = pytest.mark.e2e


def _act(system: System, action: Action, job_id: str) -> Changed:
    order = Order(action=action, which=JobFilter(), actor="cli:test")
    return act(system.database, order, job_id, tenant="north")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_stops_a_cancelled_job_and_scores_the_next(system: System) -> None:
    system.worker(
        module=("-m", "support.poisoned_worker"),
        HILUM_WORKER__BATCH_SIZE="2",
        HELD_UNTIL=str(system.folder / "go"),
    )
    films = [film(n, rows=65 if n == 4 else 48) for n in range(12)]
    made = system.submit([system.put(f"{n}.dcm", data) for n, data in enumerate(films)])
    system.until(made, lambda s: s.counts[ItemStatus.SCORED] > 0)
    _act(system, Action.CANCEL, made.job_id)
    cancelled = system.state(made)
    assert cancelled.status is JobStatus.FAILED
    assert 0 < cancelled.counts[ItemStatus.SCORED] < 12
    scored = system.count(results)
    (system.folder / "go").touch()
    other = system.submit([system.put("other.dcm", film(20))])
    system.completed(other)
    assert system.state(made) == cancelled, "nothing was recorded after it was cancelled"
    assert system.count(results) == scored + 1
    again = _act(system, Action.RETRY, made.job_id)
    assert again.publish is not None
    assert system.publisher.publish(again.publish, Queue.ROUTINE)
    state = system.completed(made)
    assert state.counts[ItemStatus.SCORED] == 12
    assert len({image.result_id for image in system.images(made)}) == 12
    assert system.count(results) == 13


OLD = """
import json, sys
from hilum.db import jobs, studies, sweeper
from hilum.db.connection import Database
with Database(sys.argv[1]) as database, database.write() as connection:
    state = studies.get(connection, tenant="north", study_id=sys.argv[2])
    claim = jobs.claim(connection, sys.argv[3], lease_s=60, max_unreported=8)
    due = sweeper.take_due(connection, grace_s=0)
    print(json.dumps([state.status, state.error["code"], claim is None, len(due)]))
"""


def test_the_release_before_understands_a_cancelled_job(
    system: System, release_before: Path
) -> None:
    made = system.submit(["s3://b/k"], publish=False)
    _act(system, Action.CANCEL, made.job_id)
    done = subprocess.run(
        [sys.executable, "-c", OLD, system.url, made.study_id, made.job_id],
        cwd=release_before,
        env=system.environment(PYTHONPATH=str(release_before)),
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == ["failed", "job.cancelled", True, 0]
