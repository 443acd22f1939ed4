"""A migration under the release before, which goes on, restarts, and hands over to this one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest
from support.tiny_film import film

from hilum.db import jobs, migrate, models, studies, sweeper
from hilum.db.states import JobStatus
from hilum.embedded.process import Child
from hilum.queue import Queue

if TYPE_CHECKING:
    from .conftest import System
else:
    System = Any

pytestmark = pytest.mark.e2e

MODULE = ("-m", "hilum")


@dataclass
class Site:
    """Processes of both releases on one system, and a client of the gateways."""

    system: System
    release_before: Path
    secret: str = ""
    gateways: list[Child] = field(default_factory=list)

    def old_worker(self) -> Child:
        """Start a worker of the release before."""
        return self.system.worker(python=_python(self.release_before), PYTHONPATH="")

    def gateway(self, python: Sequence[str] = (sys.executable,)) -> tuple[Child, str]:
        """Start a gateway; with its address."""
        log = self.system.folder / f"gateway-{len(self.gateways)}.log"
        env = self.system.environment(PYTHONPATH="")
        command = [*python, *MODULE, "gateway", "--port", "0"]
        child = Child("hilum gateway", command, log=log, env=env)
        self.gateways.append(child)
        found: list[str] = []

        def listens() -> bool:
            found[:] = re.findall(r"listening on (http://\S+)", log.read_text())
            return bool(found)

        child.wait_until(listens, timeout_s=120)
        return child, found[0]

    def ready(self, url: str) -> bool:
        """Whether the gateway would be sent requests."""
        return httpx.get(f"{url}/readyz").status_code == 200

    def get(self, url: str, study_id: str) -> httpx.Response:
        """``GET /v1/studies/{id}``."""
        answer = httpx.get(f"{url}/v1/studies/{study_id}", headers=self._headers())
        assert answer.status_code == 200, answer.text
        return answer

    def scored(self, url: str, name: str) -> str:
        """Send a study of one film, wait until its worker has scored it, give its id."""
        uri = self.system.put(f"{name}.dcm", film(len(name), SOPInstanceUID=f"1.2.3.{len(name)}"))
        body = {"images": [{"uri": uri}]}
        answer = httpx.post(f"{url}/v1/studies", json=body, headers=self._headers())
        assert answer.status_code == 202, answer.text
        study_id = str(answer.json()["id"])
        self.system.until_true(lambda: self.get(url, study_id).json()["status"] == "completed")
        shown = self.get(url, study_id).json()
        assert shown["counts"]["scored"] == 1, shown
        return study_id

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    def old_gateway(self) -> tuple[Child, str]:
        """Start a gateway of the release before."""
        return self.gateway(_python(self.release_before))


def _python(folder: Path) -> tuple[str, ...]:
    # `python -m` and Celery look in the working directory first, and so do their children.
    return ("env", "-C", str(folder), sys.executable)


OLD_START = """
import sys
from hilum.db import keys, migrate
from hilum.db.connection import Database
from hilum.db.keys import Scope
print(migrate.upgrade(sys.argv[1]))
with Database(sys.argv[1]) as database, database.write() as connection:
    print(keys.create(connection, tenant="north", name="t", scopes=list(Scope))[1])
"""


@pytest.fixture
def site(empty_system: System, release_before: Path) -> Any:
    """On a database that the release before has migrated."""
    site = Site(system=empty_system, release_before=release_before)
    done = subprocess.run(
        [*_python(release_before), "-c", OLD_START, empty_system.url],
        env=empty_system.environment(PYTHONPATH=""),
        check=True,
        capture_output=True,
        text=True,
    )
    head, site.secret = done.stdout.split()
    assert head == "0002"
    yield site
    for child in site.gateways:
        child.stop()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_the_release_before_goes_on_under_a_migration(site: Site) -> None:
    _migrate_under(site)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_release_before_restarts_after_a_migration_and_hands_over(site: Site) -> None:
    system, database = site.system, site.system.database
    gateway, url, worker, first = _migrate_under(site)

    # A job that is bound to the very model that the old worker serves.
    with database.read() as connection:
        (model,) = models.listing(connection)
    bound = studies.submit(
        database,
        tenant="north",
        queue=Queue.ROUTINE,
        uris=[system.put("bound.dcm", film(7, SOPInstanceUID="1.2.3.77"))],
        model_id=model.id,
    )

    worker.stop()
    gateway.stop()
    gateway, url = site.old_gateway()
    worker = site.old_worker()
    assert site.ready(url)
    site.scored(url, "ccc")
    before = site.get(url, first).json()
    worker.stop()
    gateway.stop()
    state = system.state(bound)
    assert (state.status, state.attempts) == (JobStatus.QUEUED, 0)

    _, url = site.gateway()
    assert site.ready(url)
    assert _known(site.get(url, first).json(), before) == before, "keys may come, and none goes"
    system.worker()
    system.completed(bound)
    site.scored(url, "dddd")
    assert "job.broken_off" not in system.logs()


def _known(shown: Any, before: Any) -> Any:
    """What is shown, without the keys that ``before`` does not have."""
    if isinstance(before, dict):
        return {key: _known(shown[key], value) for key, value in before.items()}
    if isinstance(before, list):
        return [_known(*pair) for pair in zip(shown, before, strict=True)]
    return shown


def _migrate_under(site: Site) -> tuple[Child, str, Child, str]:
    """A gateway with its address and a worker, both of the release before, that have scored a film
    before a migration, whose study it is, and one after it."""
    gateway, url = site.old_gateway()
    worker = site.old_worker()
    first = site.scored(url, "a")
    migrate.upgrade(site.system.url)
    assert site.ready(url)
    site.scored(url, "bb")
    return gateway, url, worker, first


OLD_STATEMENTS = """
import sys
from hilum.db import jobs, sweeper
from hilum.db.connection import Database
from hilum.queue import Queue
assert not hasattr(sweeper, "backlogs"), "this is not the release before"
url, *bound = sys.argv[1:]
with Database(url) as database:
    with database.write() as connection:
        assert sweeper.expire_leases(connection) == 0
        assert sweeper.take_due(connection, grace_s=-60) == []
        for queue in Queue:
            assert sweeper.waiting(connection, queue) == 0
            assert sweeper.take_lost(connection, queue, republish_after_s=-60, limit=9) == []
        for job_id in bound:
            assert jobs.claim(connection, job_id, lease_s=60, max_unreported=8) is None
"""


def test_statements_of_the_release_before_find_no_bound_job(
    system: System, release_before: Path
) -> None:
    """In no state that its sweeper and worker look for."""

    from hilum.packages.load import verify

    database = system.database
    with database.write() as connection:
        model_id = models.register(connection, **verify(system.package).manifest.registration())

    def submit() -> str:
        return studies.submit(
            database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"], model_id=model_id
        ).job_id

    due, published, expired, running, deferred = (submit() for _ in range(5))
    with database.write() as connection:
        jobs.mark_published(connection, published)
        for job_id, lease_s in ((expired, -60.0), (running, 60.0), (deferred, 60.0)):
            claim = jobs.claim(
                connection, job_id, lease_s=lease_s, max_unreported=8, model_id=model_id
            )
            assert claim is not None
        jobs.release(connection, claim)
    env = system.environment(PYTHONPATH="")
    arguments = [system.url, due, published, expired, running, deferred]
    subprocess.run(
        [*_python(release_before), "-c", OLD_STATEMENTS, *arguments], env=env, check=True
    )
    with database.write() as connection:
        assert sweeper.expire_leases(connection) == 1
        taken = sweeper.take_due(connection, grace_s=-60)
    assert {each.job_id for each in taken} == {due, expired, deferred}
