"""The spans of a process's work: a job's own, and its share of what several jobs have in common.

All of these do nothing while traces are off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hilum import tracing
from hilum.db import traces
from hilum.db.claims import Claim
from hilum.db.connection import Database
from hilum.errors import DatabaseUnavailableError
from hilum.pipeline.execute import Outcome
from worker.hand import JobInHand

Interval = tuple[int, int]  # from and until, by :func:`time.time_ns`


def start_jobs(database: Database, claims: Sequence[Claim]) -> dict[str, tracing.Open]:
    """Start a span for each job, by job, as a child of the span that published it."""
    if not (claims and tracing.is_on()):
        return {}
    parents: dict[str, str] = {}
    try:
        with database.read() as connection:
            parents = traces.find(connection, [claim.job_id for claim in claims])
    except DatabaseUnavailableError:
        pass  # The jobs matter more.
    return {
        claim.job_id: tracing.start(
            "job",
            parent=parents.get(claim.job_id),
            job=claim.job_id,
            study=claim.study_id,
            queue=claim.queue,
        )
        for claim in claims
    }


def record_engine(
    batch: Mapping[JobInHand, Sequence[Outcome[Any]]], when: Interval, *, engine: str
) -> None:
    """Record the engine call for each job that had images in it."""
    counts = {job: sum(outcome.loaded for outcome in each) for job, each in batch.items()}
    for job, count in counts.items():
        if count:
            tracing.record(
                "engine",
                parent=job.span.header,
                began_ns=when[0],
                ended_ns=when[1],
                engine=engine,
                images=sum(counts.values()),
            )


def record_commit(recorded: Sequence[tuple[JobInHand, Collection[object]]], when: Interval) -> None:
    """Record the transaction for each job whose outcomes, which may be none, it kept."""
    for job, outcomes in recorded:
        tracing.record(
            "commit",
            parent=job.span.header,
            began_ns=when[0],
            ended_ns=when[1],
            images=len(outcomes),
        )
