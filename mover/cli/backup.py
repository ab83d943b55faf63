"""``backup``: choose VMs, order one job each, show what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from mover.cli.ordering import Order, failure, order_and_wait, raise_failures
from mover.cli.run import Session
from mover.cli.tables import backup_notes, disks_table
from mover.clock import SystemClock
from mover.hypervisor.protocol import Hypervisor
from mover.jobs.book import Job
from mover.operations.request import BACKUP, BackupRequest
from mover.operations.select import check_exclusions, select_vms


async def backup(session: Session, words: list[str], *, full: bool, exclude: tuple[str, ...]) -> None:
    """Back up what the words name; the error of each VM that failed is raised at the end."""
    clock, settings = SystemClock(), session.settings.backup

    async def choose(hypervisor: Hypervisor, proxy_uuid: str, _earlier: Sequence[Job]) -> list[Order]:
        inventory = await hypervisor.inventory()
        chosen = select_vms(inventory.vms, words, proxy_uuid=proxy_uuid)
        for rule in check_exclusions(chosen, exclude):
            session.console.remark(f"note: --exclude {rule} leaves out nothing: no disk is of such a size.", "yellow")
        requests = [BackupRequest.of(vm, settings, clock, full=full, exclude=exclude) for vm in chosen]
        return [(BACKUP, request.values()) for request in requests]

    jobs = await order_and_wait(session, choose)
    reports = [job.result for job in jobs if job.result is not None and job.error is None]
    if reports:
        failures = [failure(job, job.error) for job in jobs if job.error]
        session.console.answer({"points": reports, "failures": failures}, disks_table(reports), backup_notes(reports))
    raise_failures(jobs)
