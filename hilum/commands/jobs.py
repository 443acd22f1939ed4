"""``hilum jobs``: list jobs, and cancel, retry or requeue them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, TypeVar

import click

from hilum.cli import EXIT_PARTLY, show_error
from hilum.commands.choosing import check_text, check_texts, text_option, time_option
from hilum.commands.operating import actor, confirm, opened
from hilum.db.connection import Database
from hilum.db.operating.filters import JobFilter
from hilum.db.operating.listing import JobState, get, list_jobs
from hilum.db.operating.run import act, count_chosen, run
from hilum.db.operating.steps import Action, Order
from hilum.db.states import JobStatus
from hilum.errors import HilumError, JobUnknownError
from hilum.queue import Queue

F = TypeVar("F", bound=Callable[..., Any])
_PAGE = 500
_STATES = click.Choice([status.value for status in JobStatus])
_QUEUES = click.Choice([queue.value for queue in Queue])
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def _filtered(command: F) -> F:
    options = (
        text_option("--tenant", help="Jobs of this tenant."),
        click.option("--status", type=_STATES, help="Jobs in this state."),
        text_option("--code", help="Jobs with this error, or with an image that has it."),
        click.option("--queue", type=_QUEUES, help="Jobs of this priority."),
        text_option("--model", help="Jobs bound to the package of this digest (sha256:…)."),
        text_option("--campaign", "campaign_id", help="Jobs of this campaign (cp_…)."),
        time_option("--since", help="Created then or later; UTC without a zone."),
        time_option("--until", help="Created before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _paged(command: F) -> F:
    options = (
        click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True),
        click.option(
            "--after",
            callback=check_text,
            default="",
            metavar="JOB_ID",
            help="Continue behind this job.",
        ),
        _JSON,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def jobs() -> None:
    """List jobs, and cancel, retry or requeue them, also many at once.

    An action names jobs by their ids, or chooses them by filters. With filters it first shows how
    many jobs that are and asks; --dry-run only shows the number. Every action is audited.
    """


@jobs.command(name="list")
@_filtered
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--after", callback=check_text, default="", metavar="JOB_ID", help="Continue behind this job."
)
@_JSON
def listing(limit: int, after: str, as_json: bool, **filters: Any) -> None:
    """Print jobs, the newest first."""
    _print_jobs(_filter(filters), limit=limit, after=after, as_json=as_json)


@jobs.command()
@_filtered
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--after", callback=check_text, default="", metavar="JOB_ID", help="Continue behind this job."
)
@_JSON
def quarantine(limit: int, after: str, as_json: bool, **filters: Any) -> None:
    """Print the jobs in quarantine: they failed, and nobody has released them yet."""
    which = replace(_filter(filters), quarantined=True)
    _print_jobs(which, limit=limit, after=after, as_json=as_json)


@jobs.command()
@click.argument("job_id", callback=check_text)
@_JSON
def show(job_id: str, as_json: bool) -> None:
    """Print the job JOB_ID, with its images counted by state and by error."""
    with opened() as database, database.read() as connection:
        found = get(connection, job_id)
    if found is None:
        raise JobUnknownError("There is no such job.")
    document = {**_document(found.job), "counts": found.counts, "codes": found.codes}
    if as_json:
        click.echo(json.dumps(document))
        return
    for name, value in document.items():
        shown = value
        if isinstance(value, dict):
            shown = value.get("detail") or "  ".join(f"{n} {key}" for key, n in value.items() if n)
        click.echo(f"{name:13} {'-' if shown in (None, '') else shown}")


def _acting(command: F) -> F:
    options = (
        click.argument("job_ids", nargs=-1, metavar="[JOB_ID]...", callback=check_texts),
        _filtered,
        click.option("--all", "everything", is_flag=True, help="Every job that the action can do."),
        click.option("--dry-run", is_flag=True, help="Only count the jobs that would change."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        _JSON,
    )
    for option in reversed(options):
        command = option(command)
    return command


@jobs.command()
@_acting
def cancel(**given: Any) -> int:
    """End queued and running jobs. A running one stops at its next write; results stay."""
    return _do(Action.CANCEL, **given)


@jobs.command()
@_acting
@click.option("--refused", is_flag=True, help="Also images that were refused for their content.")
def retry(refused: bool, **given: Any) -> int:
    """Score the images of ended jobs that have no result again, in new jobs.

    Images that failed or that the store did not give are tried again. Images that were refused for
    their content are, if --code names their error, or with --refused: do so after an upgrade.
    Cancelled jobs are left out unless named by id or by --code job.cancelled.
    """
    return _do(Action.RETRY, refused=refused, **given)


@jobs.command()
@_acting
def release(**given: Any) -> int:
    """Retry jobs in quarantine."""
    return _do(Action.RETRY, quarantined=True, **given)


@jobs.command()
@_acting
def requeue(**given: Any) -> int:
    """Make queued jobs due now, and have their tasks published again."""
    return _do(Action.REQUEUE, **given)


def _do(
    action: Action,
    *,
    job_ids: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    refused: bool = False,
    quarantined: bool = False,
    **filters: Any,
) -> int:
    which = replace(_filter(filters), quarantined=quarantined)
    named = {name for name, value in filters.items() if value is not None}
    if action is Action.RETRY and job_ids:
        named -= {"code"}  # it chooses among the images of the jobs
    if bool(job_ids) + bool(named) + everything != 1:
        raise click.UsageError("Name jobs by id, choose them by filters, or give --all: one of it.")
    order = Order(action=action, which=which, actor=actor(), refused=refused)
    with opened() as database:
        if job_ids:
            order = replace(order, which=replace(which, ids=job_ids))
        matched = count_chosen(database, order)
        if dry_run:
            _report(action, {"matched": matched, "changed": 0, "dry_run": True}, as_json=as_json)
            return 0
        if job_ids:
            return _each(database, order, job_ids, as_json=as_json)
        if matched:
            confirm(f"{action.value.capitalize()} {matched} jobs?", yes=yes)
        changed = sum(len(step.changed) for step in run(database, order))
        _report(action, {"matched": matched, "changed": changed, "dry_run": False}, as_json=as_json)
    return 0


def _each(database: Database, order: Order, job_ids: tuple[str, ...], *, as_json: bool) -> int:
    failures = 0
    for job_id in job_ids:
        try:
            done = act(database, order, job_id)
        except HilumError as error:
            if len(job_ids) == 1:
                raise
            failures += 1
            if as_json:
                click.echo(json.dumps({"job": job_id, "error": error.body()}))
            else:
                show_error(error)
            continue
        new = done.publish if order.action is Action.RETRY else None
        if as_json:
            click.echo(json.dumps({"job": job_id, "action": order.action, "new_job": new}))
        else:
            click.echo(f"{job_id}  {order.action.past}{f' as {new}' if new else ''}")
    return EXIT_PARTLY if failures else 0


def _report(action: Action, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"action": action, **document}))
    elif document["dry_run"]:
        click.echo(f"{document['matched']} jobs would be {action.past}.")
    else:
        click.echo(f"{document['changed']} jobs {action.past}.")


def _filter(filters: dict[str, Any]) -> JobFilter:
    kinds: dict[str, Callable[[Any], Any]] = {"status": JobStatus, "queue": Queue}
    given = {name: value for name, value in filters.items() if value is not None}
    return JobFilter(**{name: kinds.get(name, _same)(value) for name, value in given.items()})


def _same(value: Any) -> Any:
    return value


def _print_jobs(which: JobFilter, *, limit: int, after: str, as_json: bool) -> None:
    with opened() as database:
        left = limit
        while left > 0:
            with database.read() as connection:
                page = list_jobs(connection, which, after=after, limit=min(left, _PAGE))
            for job in page:
                click.echo(json.dumps(_document(job)) if as_json else _line(job))
            if len(page) < min(left, _PAGE):
                return
            left, after = left - len(page), page[-1].id


def _line(job: JobState) -> str:
    error = job.error["code"] if job.error else ""
    created = f"{job.created_at:%Y-%m-%d %H:%M}"
    fields = (job.id, f"{job.status:9}", f"{job.queue:7}", created, job.tenant, error)
    return "  ".join(fields).rstrip()


def _document(job: JobState) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(job).items()
    }
