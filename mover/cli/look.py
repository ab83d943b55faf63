"""Commands that look, and the small ones that change one thing: points, jobs, orphans."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer
from rich.console import RenderableType
from rich.text import Text

from mover import app
from mover.cli.run import Session
from mover.cli.tables import (
    backup_notes,
    disks_table,
    jobs_table,
    orphans_table,
    places_table,
    points_table,
    vms_table,
)
from mover.clock import SystemClock
from mover.errors import MoverError
from mover.jobs.book import Job
from mover.operations.clean import reconcile
from mover.operations.report import point_report, point_row


async def inventory(session: Session, *, full: bool) -> None:
    """VMs, and with ``full`` the places they live in."""
    async with app.prism(session.settings, SystemClock()) as hypervisor:
        found = await hypervisor.inventory()
        try:
            proxy_uuid = (await app.proxy_of(hypervisor, session.settings)).uuid
        except MoverError as error:
            proxy_uuid = None
            session.console.remark(f"note: {error.message}. {error.remedy}", "yellow")
    shown: list[RenderableType] = [places_table(found), Text()] if full else []
    session.console.answer(_plain(found), *shown, vms_table(found, proxy_uuid=proxy_uuid))


def _plain(value: Any) -> Any:
    """A dataclass as JSON-able values; what is opaque (a VM's own spec) is left out."""
    tree = dataclasses.asdict(value)
    for vm in tree.get("vms", ()):
        vm.pop("spec", None)
    return tree


async def points(session: Session, vm: str | None) -> None:
    """Restore points, of one VM or all."""
    async with app.repository(session.settings, SystemClock()) as repository:
        found = await repository.points()
    rows = [point_row(point) for point in found if vm in (None, point.vm_name, point.vm_uuid)]
    table = points_table(rows) if rows else Text("No restore points yet.")
    session.console.answer({"points": rows}, table)


async def show_point(session: Session, text: str) -> None:
    """One restore point."""
    async with app.repository(session.settings, SystemClock()) as repository:
        report = point_report(await repository.load(await repository.find_point(text)))
    session.console.answer(report, disks_table([report]), backup_notes([report]))


async def delete_point(session: Session, text: str, *, force: bool) -> None:
    """Forget one restore point."""
    async with app.repository(session.settings, SystemClock()) as repository:
        point = await repository.find_point(text)
        await repository.delete_point(point.id, force=force)
    session.console.answer(
        {"deleted": point.id}, Text(f"Point {point.id} of {point.vm_name} is forgotten; collection frees its space.")
    )


async def orphans(session: Session, *, apply: bool) -> None:
    """The plan of reconcile, or its doing."""
    async with app.looking_node(session.settings, apply=apply) as node:
        done = [item.as_dict() for item in await reconcile(node, apply=apply)]
    table = orphans_table(done) if done else Text("Nothing of ours is on the cluster that nothing needs.")
    session.console.answer({"applied": apply, "actions": done}, table)
    if done and not apply:
        session.console.remark("Do it with: mover orphans --apply")
    if any(item["error"] for item in done):
        raise typer.Exit(3)


async def jobs(session: Session) -> None:
    """Jobs of this state folder."""
    async with app.job_book(session.settings, SystemClock()) as book:
        found = await book.jobs()
    session.console.answer({"jobs": [_job(job) for job in found]}, jobs_table(found) if found else Text("No jobs yet."))


async def show_job(session: Session, job_id: str) -> None:
    """One job; its error as an error is shown everywhere."""
    async with app.job_book(session.settings, SystemClock()) as book:
        job = await book.job(job_id)
    session.console.answer(_job(job), jobs_table([job]))
    if not session.console.as_json:
        if job.error:
            session.console.fail(job.error)
        elif job.result and "disks" in job.result:
            session.console.answer(job.result, disks_table([job.result]), backup_notes([job.result]))


async def cancel_job(session: Session, job_id: str) -> None:
    """Ask it to end in order."""
    async with app.job_book(session.settings, SystemClock()) as book:
        await book.cancel(job_id)
    session.console.answer({"job": job_id}, Text(f"Job {job_id} is asked to end."))


async def retry_job(session: Session, job_id: str) -> None:
    """Order another attempt."""
    async with app.job_book(session.settings, SystemClock()) as book:
        await book.retry(job_id)
    session.console.answer({"job": job_id}, Text(f"Job {job_id} is ordered again."))


def _job(job: Job) -> dict[str, Any]:
    return {
        "job": job.id,
        "attempt": job.attempt,
        "operation": job.operation,
        "request": dict(job.request),
        "state": str(job.state),
        "created_at": job.created_at,
        "changed_at": job.changed_at,
        "result": job.result,
        "error": job.error.as_dict() if job.error else None,
    }
