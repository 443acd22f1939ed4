"""Which code may use which schema."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import inspect, text

from hilum.commands.db import db
from hilum.db import jobs, migrate, models, studies, version
from hilum.db.connection import Database
from hilum.errors import NotDicomError, SchemaOutdatedError, SchemaTooNewError
from hilum.packages.load import Package
from hilum.queue import Queue

FUTURE = """
from alembic import op
import sqlalchemy as sa
revision = "0999"
down_revision = "{head}"
oldest_code = "{oldest}"
def upgrade():
    op.create_table("future", sa.Column("id", sa.Integer(), primary_key=True))
def downgrade():
    op.drop_table("future")
"""


@contextmanager
def _release_to_come(folder: Path, *, oldest: str) -> Iterator[None]:
    """A version of hilum with one more migration."""
    head = version.head()
    scripts = shutil.copytree(version.SCRIPTS, folder / f"since-{oldest}")
    file = scripts / "versions" / "0999_future.py"
    file.write_text(FUTURE.format(head=head, oldest=oldest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(version, "SCRIPTS", scripts)
        version.head.cache_clear()
        yield
    version.head.cache_clear()


def _alembics(database: Database) -> str | None:
    with database.read() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def test_a_newer_schema_that_is_marked_compatible(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(database_url)
    with _release_to_come(tmp_path, oldest=version.head()):
        assert migrate.upgrade(database_url) == "0999"
    with Database(database_url) as database:
        version.check(database)
        assert version.schema_of(database) == version.Schema(
            revision="0999", oldest_code=version.head()
        )
        studies.submit(database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"])
    # As an init container of this version does.
    assert migrate.upgrade(database_url) == "0999"
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    assert CliRunner().invoke(db, ["check"]).exit_code == 0
    with pytest.raises(SchemaTooNewError, match="0999"):
        migrate.downgrade(database_url, "base")


def test_a_newer_schema_for_newer_code(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(database_url)
    with _release_to_come(tmp_path, oldest="0999"):
        migrate.upgrade(database_url)
        with Database(database_url) as database:
            version.check(database)
            # The releases that look only here are refused too.
            assert _alembics(database) == "0999"
    with pytest.raises(SchemaTooNewError, match="0999 or newer may use"):
        migrate.upgrade(database_url)
    with (
        Database(database_url) as database,
        pytest.raises(SchemaTooNewError, match="0999 or newer may use"),
    ):
        version.check(database)
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    assert isinstance(CliRunner().invoke(db, ["check"]).exception, SchemaTooNewError)
    head = version.head()
    with _release_to_come(tmp_path / "again", oldest="0999"):
        assert migrate.downgrade(database_url, head) == head
    with Database(database_url) as database:
        version.check(database)
        assert _alembics(database) == "0002"


def test_an_older_schema(database_url: str) -> None:
    with Database(database_url) as database:
        for revision in ("0001", "0002"):
            assert migrate.upgrade(database_url, revision) == revision
            with pytest.raises(SchemaOutdatedError, match="hilum db upgrade"):
                version.check(database)
            assert _alembics(database) == revision
        migrate.upgrade(database_url)
        version.check(database)


def test_the_release_before_may_use_this_schema(database_url: str) -> None:
    migrate.upgrade(database_url)
    with Database(database_url) as database:
        found = version.schema_of(database)
        assert found == version.Schema(revision=version.head(), oldest_code="0002")
        assert _alembics(database) == "0002"


def test_a_database_taken_back_is_as_the_release_before_left_it(database_url: str) -> None:
    migrate.upgrade(database_url, "0002")
    with Database(database_url) as database:
        with database.read() as connection:
            before = set(inspect(connection).get_table_names())
        migrate.upgrade(database_url)
        assert migrate.downgrade(database_url, "0002") == "0002"
        with database.read() as connection:
            assert set(inspect(connection).get_table_names()) == before
        assert _alembics(database) == "0002"


RESULT = """
INSERT INTO results (tenant, sop_instance_uid, content_sha256, model_id, series_instance_uid,
  study_instance_uid, rows, columns, raw, probability, cam, cam_labels, engine, flags, created_at)
VALUES ('north', '1.2.3', :sha, 1, '1', '1', 1, 1, :sha, :sha, :sha, :sha, 'e', '[]',
  CURRENT_TIMESTAMP)
"""


def test_rows_of_the_release_before(database_url: str) -> None:
    """Results get the version that they were made with; so do those it writes afterwards, and a
    second pipeline's result of the same film is another row."""
    sha = {"sha": b"0" * 32}
    migrate.upgrade(database_url, "0002")
    with Database(database_url) as database:
        with database.write() as connection:
            connection.execute(
                text(
                    "INSERT INTO models (id, digest, preprocess_digest, manifest, registered_at) "
                    "VALUES (1, 'd', 'p', '{}', CURRENT_TIMESTAMP)"
                )
            )
            connection.execute(text(RESULT), sha)
        migrate.upgrade(database_url)
        later = RESULT.replace("1.2.3", "1.2.4")
        with database.write() as connection:
            connection.execute(text(later), sha)
            found = connection.execute(text("SELECT id, pipeline FROM results ORDER BY id")).all()
            assert found == [(1, "0002-ada4d86b8a98039b"), (2, "0002-ada4d86b8a98039b")]
            for statement in (RESULT, later):
                other = statement.replace("model_id,", "pipeline, model_id,", 1)
                connection.execute(text(other.replace(":sha, 1,", ":sha, '0003-x', 1,", 1)), sha)
        # The newest stays.
        migrate.downgrade(database_url, "0002")
        with database.read() as connection:
            ids = connection.execute(text("SELECT id FROM results ORDER BY id")).scalars().all()
            assert ids == [3, 4]


def test_an_index_whose_build_was_broken_off_is_built_again(database_url: str) -> None:
    """A concurrent build that ends half way leaves an index that keeps nothing apart."""
    with Database(database_url) as database:
        if database.dialect != "postgresql":
            return  # nothing is built beforehand
        migrate.upgrade(database_url, "0002")
        with database.write() as connection:
            connection.execute(text("CREATE INDEX uq_results_identity ON results (tenant)"))
            connection.execute(
                text(
                    "UPDATE pg_index SET indisvalid = false "
                    "WHERE indexrelid = 'uq_results_identity'::regclass"
                )
            )
        migrate.upgrade(database_url)
        with database.read() as connection:
            found = inspect(connection).get_unique_constraints("results")
        assert [len(each["column_names"]) for each in found] == [5]


def test_bound_jobs_are_for_any_worker_after_a_downgrade(database_url: str, tiny: Package) -> None:
    migrate.upgrade(database_url)
    with Database(database_url) as database:
        with database.write() as connection:
            model_id = models.register(connection, **tiny.manifest.registration())
        studies.submit(
            database, tenant="north", queue=Queue.STAT, uris=["s3://b/1"], model_id=model_id
        )
        migrate.downgrade(database_url, "0002")
        with database.read() as connection:
            row = connection.execute(text("SELECT available_at, created_at FROM jobs")).one()
        assert row.available_at == row.created_at


def test_a_downgrade_removes_the_jobs_of_campaigns(database_url: str, tiny: Package) -> None:
    """The release before would show their results: it shows the newest job, whoever asked."""
    migrate.upgrade(database_url)
    with Database(database_url) as database:
        made = studies.submit(database, tenant="north", queue=Queue.BULK, uris=["s3://b/1"])
        with database.write() as connection:
            model_id = models.register(connection, **tiny.manifest.registration())
            image_ids = connection.execute(text("SELECT id FROM images")).scalars().all()
            job_id = studies.add_job(
                connection,
                tenant="north",
                study_id=made.study_id,
                image_ids=image_ids,
                queue=Queue.BULK,
                model_id=model_id,
                campaign_id="cp_1",
            )
            claim = jobs.claim(connection, job_id, lease_s=60, max_unreported=5, model_id=model_id)
            assert claim is not None
            jobs.quarantine(connection, claim, NotDicomError("The object has no DICM prefix."))
        migrate.downgrade(database_url, "0002")
        with database.read() as connection:
            left = connection.execute(text("SELECT id FROM jobs")).scalars().all()
            items = connection.execute(text("SELECT job_id FROM items")).scalars().all()
    assert left == items == [made.job_id]


def test_wait_ends_once_the_schema_is_there(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    early = CliRunner().invoke(db, ["wait", "--timeout-s", "0"])
    assert isinstance(early.exception, SchemaOutdatedError)
    upgrade = threading.Timer(0.5, migrate.upgrade, [database_url])
    upgrade.start()
    done = CliRunner().invoke(db, ["wait", "--timeout-s", "60"])
    upgrade.join()
    assert done.exit_code == 0, done.output
    assert done.output.endswith("ready\n")


def test_wait_does_not_wait_for_a_schema_that_will_never_fit(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HILUM_DATABASE_URL", database_url)
    with _release_to_come(tmp_path, oldest="0999"):
        migrate.upgrade(database_url)
    done = CliRunner().invoke(db, ["wait", "--timeout-s", "600"])
    assert isinstance(done.exception, SchemaTooNewError)
