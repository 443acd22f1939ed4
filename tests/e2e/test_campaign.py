"""A campaign from an archive that nobody has scored to the promotion of its model, for real."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import update
from support import tiny_package
from support.tiny_film import film

from hilum.cli import main
from hilum.db.tables import campaigns, images, instances, items, jobs, results
from hilum.packages.load import verify
from hilum.packages.manifest import OperatingPoint

if TYPE_CHECKING:
    from .conftest import TENANT, System
else:
    System = Any
    TENANT = "north"

pytestmark = pytest.mark.e2e


class Cli:
    """The commands, as an operator gives them."""

    def __init__(self, system: System, environment: pytest.MonkeyPatch) -> None:
        for name, value in system.environment().items():
            environment.setenv(name, value)

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == code, done.output + repr(done.exception)
        return json.loads(done.stdout) if "--json" in arguments and not code else done.output


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_archive_is_indexed_scored_compared_and_its_model_promoted(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two packages of different digest; the second is the first with other operating points."""
    cli = Cli(system, monkeypatch)
    uris = [system.put(f"a/{n}.dcm", film(n, AcquisitionDate="20240501")) for n in range(6)]
    system.put("a/notes.txt", b"not a film " * 30)
    system.put("a/hand.dcm", film(99, BodyPartExamined="HAND"))
    newer = system.folder / "newer"
    points = {
        label: OperatingPoint(threshold=0.05, rule="fixed")
        for label in verify(system.package).manifest.label_set.labels
    }
    digest = tiny_package.build(newer, version="2.0.0", operating_points=points).digest

    # What is scored live comes from the first package, which takes unbound studies.
    system.worker()
    made = system.submit(uris[:4])
    system.completed(made)
    shown = [image.result_id for image in system.images(made)]

    found = cli("index", f"s3://{system.bucket}/a", "--tenant", TENANT, "--json")
    assert found == {"seen": 8, "entered": 3, "known": 4, "codes": {"dicom.not_dicom": 1}}
    again = cli("index", f"s3://{system.bucket}/a", "--tenant", TENANT, "--json")
    assert again["known"] == 4
    assert system.count(instances) == 7

    new = ("--tenant", TENANT, "--model", str(newer))
    plan = cli("rescore", "plan", *new, "--images-per-s", "10", "--cost-per-hour", "2", "--json")
    assert (plan["found"], plan["missing"], plan["to_score"], plan["workers"]) == (7, 7, 7, 0)
    assert plan["prepared"] is None
    assert plan["estimate"]["cost"][0] > 0
    created = cli("rescore", "create", *new, "--yes", "--json")
    campaign = created["id"]
    assert (created["counts"]["selected"], created["status"]) == (7, "created")
    assert "campaign.exists" in cli("rescore", "create", *new, "--yes", code=2)

    # Nobody serves the model yet: the campaign waits and says so.
    cli("rescore", "run", campaign, "--detach", "--json")
    waiting = cli("rescore", "status", campaign, "--json")
    assert (waiting["waits_for"], waiting["problem"]["code"]) == (
        "workers of its model",
        "model.unserved",
    )
    system.worker(HILUM_MODEL_URI=str(newer))
    system.until_true(lambda: cli("rescore", "status", campaign, "--json")["status"] == "completed")
    ended = cli("rescore", "status", campaign, "--json")
    assert ended["counts"] == {
        **{"selected": 7, "waiting": 0, "queued": 0, "scored": 6, "refused": 1, "failed": 0}
    }
    assert ended["codes"] == {"policy.not_chest": 1}
    # A shadow: the study shows what it has shown.
    assert [image.result_id for image in system.images(made)] == shown
    assert (system.count(results), system.count(instances)) == (4 + 6, 7)
    assert (system.count(jobs), system.count(items), system.count(images)) == (1, 4, 4)

    report = cli("rescore", "report", campaign, "--json")
    assert (report["pairs"], report["without_a_result_before"]) == (4, 2)
    assert sum(one["gained"][0] for one in report["labels"].values()) > 0
    assert sum(one["lost"][0] for one in report["labels"].values()) == 0
    target = system.folder / "report.html"
    cli("rescore", "report", campaign, "--to", str(target))
    text = target.read_text()
    assert "data:image/png;base64," in text
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    assert "TEST^FILM" not in text
    assert system.bucket not in text

    promoted = cli("rescore", "promote", campaign, "--yes", "--json")
    assert promoted["in_force"]["model"] == digest
    now = [image.result_id for image in system.images(made)]
    assert not set(now) & set(shown)
    # A new study goes to the workers of the model in force.
    later = system.submit([uris[5]], publish=False)
    assert later.route.startswith("routine.")
    system.completed(later)
    assert cli("rescore", "rollback", "--tenant", TENANT, "--yes", "--json")["in_force"] == {
        **{"model": None, "canary": None}
    }
    assert [image.result_id for image in system.images(made)] == shown
    assert "rows, last hash" in cli("audit", "verify")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_nightly_campaign_is_created_once_a_window(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = Cli(system, monkeypatch)
    system.put("a/1.dcm", film(1))
    cli("index", f"s3://{system.bucket}/a", "--tenant", TENANT)
    always = ("--window", "00:00-23:59", "--time-zone", "Pacific/Kiritimati")
    night = ("--tenant", TENANT, "--name", "nightly", "--nightly", "--yes", "--json")
    create = ("rescore", "create", *night)
    first = cli(*create, *always)
    due = ("rescore", "run", "--if-due", "--json")
    assert cli(*due)["created"] == []
    assert cli("rescore", "status", first["id"], "--json")["status"] == "running"
    # The same night of another day: nobody has done anything, and it goes on.
    with system.database.write() as connection:
        long_ago = datetime.now(UTC) - timedelta(days=2)
        connection.execute(update(campaigns).values(created_at=long_ago))
    assert cli(*due)["created"] == []
    with system.database.write() as connection:
        connection.execute(update(campaigns).values(status="completed"))
    (second,) = cli(*due)["created"]
    assert cli(*due)["created"] == [], "in the same window"
    assert cli("rescore", "status", second, "--json")["nightly"]
    cli("rescore", "cancel", second, "--yes")
    with system.database.write() as connection:
        connection.execute(update(campaigns).values(created_at=long_ago))
    assert cli(*due)["created"] == [], "the series has ended"
    assert "campaign.window_invalid" in cli(
        *create, "--window", "22:00-06:00", "--time-zone", "Mars/Olympus", code=2
    )
    assert "campaign.window_invalid" in cli(*create, "--window", "22:00-22:00", code=2)
    unknown = cli("rescore", "plan", "--tenant", TENANT, "--site", "Nowhere", code=2)
    assert "campaign.unknown_filter" in unknown
    nothing = cli("rescore", "create", "--tenant", "south", "--yes", code=2)
    assert "campaign.nothing_selected" in nothing
    said = cli("rescore", "status")
    assert "cancelled" in said
