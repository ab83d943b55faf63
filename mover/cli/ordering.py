"""Order jobs and see them through: as the executor if none runs, else as its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mover import app
from mover.cli.console import Console
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.clock import SystemClock
from mover.errors import JobFailed, JobInterrupted, MoverError, StateFolderBusy
from mover.hypervisor.protocol import Hypervisor
from mover.jobs.book import Job, JobBook
from mover.jobs.lock import executor_pid
from mover.operations.clean import reconcile

Order = tuple[str, Mapping[str, Any]]
"""Operation and request."""

Choose = Callable[[Hypervisor, str], Awaitable[list[Order]]]
"""Given Prism and the Proxy VM's UUID: what is to be ordered."""

CLEANING_S = 5.0
"""How long Ctrl-C waits for jobs to end in order."""


async def order_and_wait(session: Session, choose: Choose) -> list[Job]:
    """Order what ``choose`` gives and wait for all of it. Raises the error of choosing."""
    state_dir = session.settings.state_dir
    if executor_pid(state_dir) is None:
        try:
            return await _as_executor(session, choose)
        except StateFolderBusy:
            session.console.remark("Another mover runs here: the job is handed to it.")
    return await _as_client(session, choose)


async def _as_executor(session: Session, choose: Choose) -> list[Job]:
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with app.executor(session.settings, progress=progress) as executor:
            orders = await choose(executor.node.hypervisor, executor.node.proxy_uuid)
            await reconcile(executor.node, apply=True)
            return await _see_through(executor, orders, console)


async def _see_through(executor: app.Executor, orders: Sequence[Order], console: Console) -> list[Job]:
    book = executor.book
    ids = [await book.submit(operation, request) for operation, request in orders]
    try:
        return await _all_ended(book, ids)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        await _end_in_order(executor, ids, console)
        raise JobInterrupted(
            "Interrupted; nothing was committed by the jobs that had not ended",
            remedy="Run the command again: what was stored already is not read twice.",
        ) from None


async def _end_in_order(executor: app.Executor, ids: Sequence[str], console: Console) -> None:
    console.remark("Cancelling and cleaning up …")
    for job_id in ids:
        await executor.book.cancel(job_id)
    try:
        async with asyncio.timeout(CLEANING_S):
            await _all_ended(executor.book, ids)
    except TimeoutError:
        pass
    for entry in await executor.node.ledger.open_entries():
        if entry.job in ids:
            console.remark(f"still owed: {entry.kind} {entry.identity or '(unknown yet)'} of job {entry.job}")


async def _as_client(session: Session, choose: Choose) -> list[Job]:
    clock = SystemClock()
    async with app.job_book(session.settings, clock) as book, app.prism(session.settings, clock) as hypervisor:
        proxy = await app.proxy_of(hypervisor, session.settings)
        orders = await choose(hypervisor, proxy.uuid)
        ids = [await book.submit(operation, request) for operation, request in orders]
        return await _all_ended(book, ids)


async def _all_ended(book: JobBook, ids: Sequence[str]) -> list[Job]:
    return [await book.wait(job_id) for job_id in ids]


def raise_failures(jobs: Sequence[Job]) -> None:
    """Raise what went wrong: the one error, or JobFailed that names every one."""
    failed = [job for job in jobs if job.error is not None]
    if len(jobs) == 1 and failed:
        raise _of(failed[0])
    if failed:
        lines = [f"{job.request.get('vm_name', job.id)}: {_of(job).message}" for job in failed]
        raise JobFailed(
            f"{len(failed)} of {len(jobs)} failed: " + "; ".join(lines),
            remedy=" ".join(dict.fromkeys(_of(job).remedy for job in failed)),
            failures=[{"job": job.id, **_of(job).as_dict()} for job in failed],
        )


def _of(job: Job) -> MoverError:
    assert job.error is not None
    return job.error
