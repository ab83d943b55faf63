"""Order jobs and see them through: as the executor if none runs, else as its client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mover.app import nodes, prisms
from mover.cli.console import Console
from mover.cli.progress import watching
from mover.cli.run import Session
from mover.clock import Clock, SystemClock
from mover.errors import JobFailed, JobInterrupted, MoverError, StateFolderBusy
from mover.hypervisor.protocol import Hypervisor
from mover.jobs.book import Job, JobBook
from mover.jobs.lock import executor_pid
from mover.operations.clean import forget_the_past, reconcile
from mover.operations.request import BACKUP, REPOSITORY, place_of

Order = tuple[str, Mapping[str, Any]]
"""Operation and request."""

Choose = Callable[[Hypervisor, str, Sequence[Job]], Awaitable[list[Order]]]
"""Given Prism, the Proxy VM's UUID and the jobs that have not ended, or just now: what is to be ordered."""

InTheWay = Callable[[Job], bool]
"""Whether what a job that is being ended has made stands in the way of what is to be ordered."""

CLEANING_S = 5.0
"""How long Ctrl-C waits for jobs to end in order."""
_GO_ON = "Jobs that have not ended go on with the next command, or with mover serve."
_POLL_S = 0.5
_LOOK_EVERY_S = 5.0
"""How often a client looks whether the executor still lives."""


async def order_and_wait(session: Session, choose: Choose, *, in_the_way: InTheWay = lambda _: False) -> list[Job]:
    """Order what ``choose`` gives and wait for all of it. Raises the error of choosing, JobInterrupted."""
    pid = executor_pid(session.settings.state_dir)
    if pid is None:
        try:
            return await _as_executor(session, choose, in_the_way)
        except StateFolderBusy as error:
            pid = int(error.facts.get("pid") or 0)
    return await _as_client(session, choose, pid)


async def _as_executor(session: Session, choose: Choose, in_the_way: InTheWay) -> list[Job]:
    console = session.console
    with watching(console.err, quiet=console.as_json) as progress:
        async with nodes.executor(session.settings, progress=progress) as executor:
            earlier = await executor.book.unfinished()
            _announce(earlier, console)
            try:
                await _all_ended(executor.book, [job.id for job in earlier if job.is_ending and in_the_way(job)])
                orders, known = await _chosen(executor, choose, earlier)
            except MoverError:
                await _leave(executor.book, earlier, console)
                raise
            except asyncio.CancelledError:
                console.remark(_GO_ON)
                raise
            return await _see_through(session, executor, orders, earlier, known)


def _announce(earlier: Sequence[Job], console: Console) -> None:
    if going_on := [job for job in earlier if not job.is_ending]:
        console.remark(f"Not finished by an earlier run, and continued now: {_listed(going_on)}", "yellow")
    if ending := [job for job in earlier if job.is_ending]:
        console.remark(f"Cancelled in an earlier run, and ended now: {_listed(ending)}", "yellow")


async def _chosen(
    executor: nodes.Executor, choose: Choose, earlier: Sequence[Job]
) -> tuple[list[Order], Sequence[Job]]:
    """What is to be ordered, and the jobs that were known when that was chosen: some may have ended just now."""
    # First: what a failed restore could not remove may hold the very name that is asked for.
    await reconcile(executor.node, apply=True)
    await forget_the_past(executor.node)
    known = {job.id: job for job in await _jobs(executor.book, [job.id for job in earlier if not job.is_ending])}
    known |= {job.id: job for job in await executor.book.unfinished()}
    orders = await choose(executor.node.hypervisor, executor.node.proxy_uuid, list(known.values()))
    return orders, list(known.values())


async def _leave(book: JobBook, earlier: Sequence[Job], console: Console) -> None:
    """Nothing is ordered: what became of the jobs that were there before."""
    now = await _jobs(book, [job.id for job in earlier])
    for job in now:
        if not job.is_active:
            _tell_end(job, console)
    if left := [job for job in now if job.is_active]:
        goes_on = "The next backup or restore, or mover serve, goes on with it."
        console.remark(f"Not finished by this one either: {_listed(left)}. {goes_on}", "yellow")


def _tell_end(job: Job, console: Console) -> None:
    words = f"failed: {job.error.message}" if job.error else "done"
    console.remark(f"Continued {name_of(job)} ({job.id}): {words}", "yellow" if job.error else "")


def _listed(jobs: Sequence[Job]) -> str:
    return ", ".join(f"{name_of(job)} ({job.id})" for job in jobs)


async def _see_through(
    session: Session,
    executor: nodes.Executor,
    orders: Sequence[Order],
    earlier: Sequence[Job],
    known: Sequence[Job],
) -> list[Job]:
    book = executor.book
    ids = await _submit(session, book, orders, known)
    others = [job.id for job in earlier if job.id not in ids]
    try:
        for job in await _all_ended(book, others):
            _tell_end(job, session.console)
        ended = await _all_ended(book, ids)
        await _others_ended(book)
        return ended
    except asyncio.CancelledError:
        if session.stop.is_wished or executor.engine.is_without_state:
            session.console.remark(_GO_ON)
            raise
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        await _end_in_order(executor, [*others, *ids], session.console)
        raise interrupted([operation for operation, _ in orders]) from None


def interrupted(operations: Sequence[str]) -> JobInterrupted:
    """What Ctrl-C did to jobs of these operations, which had not ended."""
    if all(operation == BACKUP for operation in operations):
        return JobInterrupted(
            "Interrupted: jobs that had not ended were cancelled, and committed no restore point",
            remedy="Run the command again: what was stored already is not stored twice.",
        )
    return JobInterrupted(
        "Interrupted: the restore was cancelled, and what it had made is removed or named above",
        remedy="Run the command again: it begins anew.",
    )


async def _submit(session: Session, book: JobBook, orders: Sequence[Order], known: Sequence[Job]) -> list[str]:
    """Order what is not under way; the ids of the jobs that do it."""
    ids = []
    for order in orders:
        same = same_order(session, order, known)
        operation, request = order
        ids.append(same.id if same else await book.submit(operation, _with_place(session, request)))
    return ids


def same_order(session: Session, order: Order, known: Sequence[Job]) -> Job | None:
    """The job that does just this and nobody asked to end: a restore that was cut off is simply typed again.

    No backup is another's equal: each has a point of its own to make.
    """
    operation, request = order
    wanted = _with_place(session, request)
    going_on = [job for job in known if not job.is_ending]
    return next((job for job in going_on if job.operation == operation and dict(job.request) == wanted), None)


def _with_place(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """And the repository that it is for: another process may do it, or a later one continue it."""
    return {**request, REPOSITORY: place_of(session.settings.repository)}


async def _others_ended(book: JobBook) -> None:
    """See jobs through that other commands handed to us meanwhile: nobody else runs them."""
    while active := await book.active():
        await _all_ended(book, sorted(active))


async def _end_in_order(executor: nodes.Executor, ids: Sequence[str], console: Console) -> None:
    """Cancel, wait a little, and say what is still owed to the cluster."""
    book = executor.book
    console.remark("Cancelling and cleaning up … (Ctrl-C again leaves that to the next mover that runs jobs here)")
    active = await book.active()
    for job_id in active.intersection(ids):
        await book.cancel(job_id)
    try:
        async with asyncio.timeout(CLEANING_S):
            await _all_ended(book, ids)
    except TimeoutError:
        console.remark(f"Not over after {CLEANING_S:.0f} s: the next mover that runs jobs here ends them.", "yellow")
    owed = await _owed(executor, await _jobs(book, ids))
    for line in owed:
        console.remark(f"still owed: {line}", "yellow")
    if owed:
        console.remark("The next mover that runs jobs here cleans it up; or: mover orphans --apply", "yellow")


async def _owed(executor: nodes.Executor, jobs: Sequence[Job]) -> list[str]:
    lines: list[str] = []
    for job in jobs:
        if job.error is not None:
            lines += [f"{words} ({name_of(job)})" for words in job.error.facts.get("owed", ())]
        elif job.is_active:
            entries = await executor.node.ledger.open_entries(job.id)
            lines += [f"{entry.kind} {entry.identity or 'not yet known'} ({name_of(job)})" for entry in entries]
    return lines


async def _jobs(book: JobBook, ids: Sequence[str]) -> list[Job]:
    return [await book.job(job_id) for job_id in ids]


async def _as_client(session: Session, choose: Choose, pid: int) -> list[Job]:
    clock, settings, console = SystemClock(), session.settings, session.console
    async with nodes.job_book(settings, clock) as book:
        async with prisms.prism(settings, clock) as hypervisor:
            proxy = await prisms.proxy_of(hypervisor, settings)
            active = await book.unfinished()
            orders = await choose(hypervisor, proxy.uuid, active)
        ids = await _submit(session, book, orders, active)
        known = {job.id for job in active}
        for job in await _jobs(book, ids):
            how = "is under way" if job.id in known else "is handed to it"
            console.remark(f"Process {pid} runs jobs here: {name_of(job)} {how} as job {job.id}.")
        try:
            return [await _waited(session, book, job_id, clock) for job_id in ids]
        except asyncio.CancelledError:
            for job_id in ids:
                console.remark(f"Job {job_id} goes on without us. To end it: mover job cancel {job_id}")
            raise


async def _waited(session: Session, book: JobBook, job_id: str, clock: Clock) -> Job:
    """The job once it has ended. Raises JobInterrupted when whoever ran it is gone."""
    looked = clock.monotonic()
    while True:
        job = await book.job(job_id)
        if not job.is_active:
            return job
        if clock.monotonic() - looked > _LOOK_EVERY_S:
            looked = clock.monotonic()
            if executor_pid(session.settings.state_dir) is None:
                raise JobInterrupted(
                    f"The mover that ran job {job_id} has ended before it",
                    remedy="Start mover serve again, or any backup or restore: it continues the job.",
                )
        await clock.sleep(_POLL_S)


async def _all_ended(book: JobBook, ids: Sequence[str]) -> list[Job]:
    return [await book.wait(job_id) for job_id in ids]


def name_of(job: Job) -> str:
    """``backup of web01``: what the job is, in words."""
    request = job.request
    about = request.get("vm_name") or request.get("name") or f"point {str(request.get('point_id', ''))[:8]}"
    return f"{job.operation} of {about}"


def raise_failures(jobs: Sequence[Job]) -> None:
    """Raise what went wrong: the one error, or JobFailed that names every one."""
    failed = [(job, job.error) for job in jobs if job.error is not None]
    if len(jobs) == 1 and failed:
        raise failed[0][1]
    if failed:
        raise JobFailed(
            f"{len(failed)} of {len(jobs)} failed: {', '.join(name_of(job) for job, _ in failed)}",
            remedy="See each below, and do what it says.",
            failures=[failure(job, error) for job, error in failed],
        )


def failure(job: Job, error: MoverError) -> dict[str, Any]:
    """One failed job of several, for programs and for the list of errors."""
    values = error.as_dict()
    return {"job": job.id, **values, "facts": {"about": name_of(job), **values["facts"]}}
