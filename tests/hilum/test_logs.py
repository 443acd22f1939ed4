"""Lines of the log: their form, what they carry along, and what they never say."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from hilum import logs
from hilum.errors import ConfigurationError
from hilum.errors.guarding import place_of

log = logging.getLogger("hilum.test")
SECRET = "s3://pacs/DOE^JANE/1.2.826.0.1.3680043.8.498.99"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, object]]]]:
    """The JSON lines said since the last call, with the log of this process put back after."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    # The text style of tests in this process writes to the stderr of the moment.
    logs.configure("DEBUG", style="text")
    handler = next(h for h in root.handlers if type(h).__module__ == logs.__name__)
    handler.setFormatter(logs._JsonLine())
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_a_line_is_one_object_with_its_time_in_utc(lines: Callable[[], list[dict]]) -> None:
    logs.event(log, logging.INFO, "job.taken", attempt=2, time="not this", other="two\nlines")
    (line,) = lines()
    assert list(line)[:4] == ["time", "level", "logger", "event"]
    assert (line["level"], line["event"], line["attempt"]) == ("INFO", "job.taken", 2)
    assert str(line["time"]).endswith("+00:00")
    assert line["other"] == "two\nlines"


def test_what_is_bound_is_on_each_line_and_gone_afterwards(
    lines: Callable[[], list[dict]],
) -> None:
    with logs.bind(job="jb_1"):
        log.info("one")
        thread = threading.Thread(target=logs.carry(lambda: logs.add(study="st_1")))
        thread.start()
        thread.join()
        with logs.CarryingThreads(1) as threads:
            threads.submit(log.info, "two").result()
        with logs.bind(image=3):
            log.info("three")
    log.info("four")
    logs.add(study="st_2")
    log.info("five")
    shown = [{k: v for k, v in line.items() if k in {"job", "study", "image"}} for line in lines()]
    both = {"job": "jb_1", "study": "st_1"}
    assert shown == [{"job": "jb_1"}, both, {**both, "image": 3}, {}, {}]


def test_an_exception_is_its_type_and_our_innermost_place(
    lines: Callable[[], list[dict]],
) -> None:
    try:
        raise ConfigurationError(SECRET)
    except ConfigurationError:
        log.exception("it.failed")
    try:
        place_of(7)  # type: ignore[arg-type]
    except AttributeError:
        log.exception("it.failed")
    first, second = lines()
    assert (first["exception"], first["code"]) == ("ConfigurationError", "config.invalid")
    assert second["exception"] == "AttributeError"
    assert str(second["at"]).startswith("hilum.errors.guarding:")
    assert SECRET not in json.dumps([first, second])


@pytest.mark.parametrize(
    "name",
    [
        "boto3",
        "botocore.auth",
        "urllib3.connectionpool",
        "s3transfer.tasks",
        "kombu.transport",
        "sqlalchemy.engine.Engine",
        "psycopg.pool",
        "redis",
        "asyncio",
    ],
)
def test_libraries_are_not_heard_below_warning_and_their_values_never(
    name: str, lines: Callable[[], list[dict]]
) -> None:
    library = logging.getLogger(name)
    before = library.level
    library.setLevel(logging.DEBUG)  # as a library may do itself
    try:
        library.debug("signed %s", SECRET)
        library.info("read %s", SECRET)
        library.warning("retrying %s after %r: %s (%d)", SECRET, OSError(SECRET), ("x",), 3)
        library.warning("lost %(uri)s", {"uri": SECRET})
        library.error(f"future exception=RuntimeError('{SECRET}')\n{SECRET}")
    finally:
        library.setLevel(before)
    assert [line["event"] for line in lines()] == [
        "retrying … after OSError: … (3)",
        "lost …",
        "future …",
    ]


def test_a_process_that_ends_by_a_mistake_says_so_in_a_line() -> None:
    code = (
        "import sys, threading, warnings\nfrom hilum import logs\n"
        "logs.configure('INFO', style='json')\n"
        f"secret = {SECRET!r}\n"
        "warnings.warn(secret)\n"
        "def fail(): raise ValueError(secret)\n"
        "thread = threading.Thread(target=fail)\nthread.start()\nthread.join()\n"
        "class Odd:\n    def __del__(self): raise KeyError(secret)\n"
        "Odd()\n"
        "fail()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    said = [json.loads(line) for line in done.stderr.splitlines()]
    kinds = [line.get("exception") or line["event"] for line in said]
    assert kinds == ["UserWarning at <string>:5", "ValueError", "KeyError", "ValueError"]
    assert SECRET not in done.stderr


def test_a_command_for_people_says_text_and_by_setting_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = [sys.executable, "-m", "hilum", "score", "/nowhere/film.dcm"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert plain.stderr.startswith("Error [storage.object_missing]: ")
    monkeypatch.setenv("HILUM_LOG_FORMAT", "json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, line["code"]) == (2, "storage.object_missing")
    assert line["next_step"]
