"""What has to hold in SQL after any fault, and how long recovery took."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from hilum.db.states import Event, ItemStatus, JobStatus
from hilum.db.tables import items, jobs, outbox, results

# Of every film and object address of the suite; none of these may be in a log.
NAME, PATIENT_ID, UID_ROOT = "HALLSTROM^GRETA", "MRN-7741903", "1.2.826.0.1.3680043.8.498"
_IN_LOGS = re.compile(r"HALLSTROM|GRETA|7741903|1\.2\.826\.0\.1\.3680043|1\.2\.840\.10008")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, when it was over, and the jobs that workers had in hand when it came."""

    over_at: datetime
    in_hand: frozenset[str]


def violations(
    connection: Connection,
    submitted: Mapping[str, int],
    *,
    expected: Mapping[str, int],
    orderly: bool,
    logs: str,
) -> list[str]:
    """Every rule that does not hold, in words.

    Args:
        submitted: the images of each job.
        expected: how many images are to end with which error code; all others are to be scored.
        orderly: no worker was killed: no attempt may count against any image.
        logs: all that workers and gateways said.
    """
    found: list[str] = []

    def check(rule: str, value: object, wanted: object) -> None:
        if value != wanted:
            found.append(f"{rule}: {value}, not {wanted}")

    images = sum(submitted.values())
    states = Counter(connection.execute(select(jobs.c.status)).scalars())
    check("jobs by status", dict(states), {JobStatus.COMPLETED: len(submitted)})
    rows = connection.execute(select(items)).all()
    of_jobs = Counter(row.job_id for row in rows)
    check("outcomes for each image of each job", of_jobs == Counter(submitted), True)
    codes = Counter(row.error_code for row in rows if row.status != ItemStatus.SCORED)
    check("images not scored, by code", dict(codes), dict(expected))
    scored = [row.result_id for row in rows if row.status == ItemStatus.SCORED]
    check("images scored", len(scored), images - sum(expected.values()))
    check("scored images with a result of their own", len({*scored} - {None}), len(scored))
    check("results", connection.execute(select(func.count()).select_from(results)).scalar_one(),
          len(scored))  # fmt: skip
    identity = (
        results.c.tenant,
        results.c.sop_instance_uid,
        results.c.content_sha256,
        results.c.model_id,
    )
    doubled = select(*identity).group_by(*identity).having(func.count() > 1)
    check("results doubled", len(connection.execute(doubled).all()), 0)
    events = Counter((row.job_id, row.kind) for row in connection.execute(select(outbox)))
    check("one event of each job", events == Counter(
        (job, Event.JOB_COMPLETED) for job in submitted), True)  # fmt: skip
    if orderly:
        check("images with a death counted", sum(row.unreported > 1 for row in rows), 0)
    check("UIDs and names in logs", {*_IN_LOGS.findall(logs)}, set())
    return found


def recovery(connection: Connection, faults: Collection[Fault]) -> tuple[float, float]:
    """In seconds after the end of a fault, the longest of all faults: until the next outcome of any
    image, and until all jobs had ended that workers had in hand when it came."""
    ended = [
        at for at in connection.execute(select(items.c.finished_at)).scalars() if at is not None
    ]
    jobs_ended = {
        row.id: row.finished_at for row in connection.execute(select(jobs.c.id, jobs.c.finished_at))
    }
    following, in_hand = [0.0], [0.0]
    for fault in faults:
        later = [at for at in ended if at > fault.over_at]
        if later:
            following.append((min(later) - fault.over_at).total_seconds())
        ends = [jobs_ended[job] for job in fault.in_hand if jobs_ended.get(job)]
        if ends:
            in_hand.append((max(ends) - fault.over_at).total_seconds())
    return max(following), max(in_hand)
