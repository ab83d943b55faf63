"""``job``: what was ordered in this state folder, and how it ended. Needs no executor, no Prism."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from mover.app import nodes
from mover.cli.restore import about_restored, restored
from mover.cli.run import Session
from mover.cli.tables import backup_notes, disks_table, jobs_table
from mover.clock import SystemClock
from mover.jobs.book import LISTED, Job
from mover.jobs.lock import executor_pid
from mover.operations.request import BACKUP, RESTORE, RESTORE_DISK


async def jobs(session: Session) -> None:
    """Jobs of this state folder."""
    async with nodes.job_book(session.settings, SystemClock()) as book:
        found = await book.jobs()
    session.console.answer({"jobs": [_job(job) for job in found]}, jobs_table(found) if found else Text("No jobs yet."))
    _say_who_runs(session, found)
    if len(found) == LISTED:
        session.console.remark(f"Only the newest {LISTED} are listed; mover job show finds an older one by its id.")


async def show_job(session: Session, job_id: str) -> None:
    """One job; its error as an error is shown everywhere."""
    console = session.console
    async with nodes.job_book(session.settings, SystemClock()) as book:
        job = await book.job(job_id)
    console.answer(_job(job), jobs_table([job]))
    _say_who_runs(session, [job])
    if not console.as_json and job.error:
        console.fail(job.error)
    elif job.operation == BACKUP and job.result:
        console.show(disks_table([job.result]), backup_notes([job.result]))
    elif job.operation in (RESTORE, RESTORE_DISK) and job.result:
        console.show(restored(job.result), about_restored(job.result))


def _say_who_runs(session: Session, jobs: Sequence[Job]) -> None:
    """A job whose mover was killed is still written down as running."""
    if any(job.is_active for job in jobs) and executor_pid(session.settings.state_dir) is None:
        session.console.remark(
            "Nothing runs jobs here now: mover serve, or the next backup or restore, goes on with them."
        )


async def cancel_job(session: Session, job_id: str) -> None:
    """Ask it to end in order."""
    async with nodes.job_book(session.settings, SystemClock()) as book:
        job = await book.job(job_id)
        if job.is_active:
            await book.cancel(job.id)
    words = f"Job {job.id} is asked to end." if job.is_active else f"Job {job.id} has ended already: {job.state}."
    if job.is_active and executor_pid(session.settings.state_dir) is None:
        words += " Nothing runs jobs here now: mover serve, or the next backup or restore, ends it."
    session.console.answer({"job": job.id, "asked": job.is_active}, Text(words))


async def retry_job(session: Session, job_id: str) -> None:
    """Order another attempt."""
    async with nodes.job_book(session.settings, SystemClock()) as book:
        job_id = await book.retry(job_id)
    words = f"Job {job_id} is ordered again."
    if executor_pid(session.settings.state_dir) is None:
        words += " Nothing runs jobs here now: mover serve, or the next backup or restore, does it."
    session.console.answer({"job": job_id}, Text(words))


def _job(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "attempt": job.attempt,
        "operation": job.operation,
        "request": dict(job.request),
        "state": str(job.state),
        "is_ending": job.is_ending,
        "created_at": job.created_at,
        "changed_at": job.changed_at,
        "result": job.result,
        "error": job.error.as_dict() if job.error else None,
    }
