"""A whole node: what runs jobs, what only reads, what only looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from mover.app.prisms import inspect_guard, inspect_own_place, prism, proxy_of
from mover.app.repositories import make_budget, repository
from mover.app.stores import store
from mover.catalog.history import History
from mover.catalog.ledger import Ledger
from mover.clock import Clock, SystemClock
from mover.config import Settings
from mover.device import guard
from mover.device.locate import Locator
from mover.device.rights import require_rights
from mover.jobs.book import JobBook
from mover.jobs.engine import Engine
from mover.jobs.lock import executor_lock
from mover.jobs.steps import Operation, Steps, Values
from mover.operations.attended import attended
from mover.operations.backup import backup_vm
from mover.operations.board import Board
from mover.operations.gauges import Standing
from mover.operations.names import install_id
from mover.operations.node import Lanes, Node, ReadingNode
from mover.operations.preflight import PreflightPorts
from mover.operations.progress import Progress, ProgressSink, ignore_progress
from mover.operations.pulse import Pulse
from mover.operations.request import BACKUP, RESTORE, RESTORE_DISK
from mover.operations.restore import restore_disk_into, restore_vm
from mover.pipeline.workers import Workers
from mover.room import require_room, trouble_by
from mover.storage.probe import probe

OPERATIONS: Mapping[str, Callable[[Node, Mapping[str, Any], Steps], Awaitable[Values]]] = {
    BACKUP: backup_vm,
    RESTORE: restore_vm,
    RESTORE_DISK: restore_disk_into,
}


@asynccontextmanager
async def node(
    settings: Settings,
    *,
    book: JobBook,
    progress: ProgressSink = ignore_progress,
    clock: Clock | None = None,
) -> AsyncIterator[Node]:
    """Everything that a backup or restore to a cluster needs."""
    clock = clock or SystemClock()
    if settings.node.check_guard:
        guard.require_safe(inspect_guard(settings))
    async with AsyncExitStack() as stack:
        hypervisor = await stack.enter_async_context(prism(settings, clock))
        budget = make_budget(settings)
        opened = await stack.enter_async_context(repository(settings, clock, budget))
        ledger = await Ledger.open(settings.state_dir / "catalog.sqlite", clock=clock)
        stack.push_async_callback(ledger.close)
        board = Board.of(settings.serve, clock, await stack.enter_async_context(_history(settings)))
        stack.callback(board.standing.close)
        workers = stack.enter_context(Workers(settings.data, budget))
        devices = Locator(settings.node, clock)
        stack.callback(devices.close)
        yield Node(
            settings=settings,
            clock=clock,
            hypervisor=hypervisor,
            repository=opened,
            workers=workers,
            ledger=ledger,
            devices=devices,
            proxy_uuid=(await proxy_of(hypervisor, settings)).uuid,
            install=install_id(settings.state_dir),
            lanes=Lanes(settings.limits),
            active_jobs=book.active,
            forget_jobs=partial(book.prune, older_than_s=settings.limits.job_history),
            board=board,
            progress=partial(_tell, board.pulse, progress),
        )


def _tell(pulse: Pulse, progress: ProgressSink, event: Progress) -> None:
    pulse.saw(event)
    progress(event)


@asynccontextmanager
async def _history(settings: Settings) -> AsyncIterator[History]:
    """The memory of what befell VMs; no file is opened before something is asked or told."""
    history = History(settings.state_dir / "catalog.sqlite")
    try:
        yield history
    finally:
        await history.close()


@asynccontextmanager
async def reading_node(
    settings: Settings, *, progress: ProgressSink = ignore_progress, clock: Clock | None = None
) -> AsyncIterator[ReadingNode]:
    """What reading a repository needs: no Prism, no catalog, no jobs."""
    clock = clock or SystemClock()
    budget = make_budget(settings)
    async with repository(settings, clock, budget) as opened, _history(settings) as history:
        with Workers(settings.data, budget) as workers:
            yield ReadingNode(settings, clock, opened, workers, progress, Standing(clock, history))


@asynccontextmanager
async def looking_node(settings: Settings, *, apply: bool) -> AsyncIterator[Node]:
    """A node that runs no jobs; to ``apply`` it must be the only executor.

    Raises StateFolderBusy; StateFull or StateDamaged once its state folder fails.
    """
    clock = SystemClock()
    with executor_lock(settings.state_dir) if apply else nullcontext():
        try:
            async with job_book(settings, clock) as book, node(settings, book=book, clock=clock) as ready:
                yield ready
        except Exception as error:
            raise trouble_by(settings.state_dir, error) or error from None


def preflight_ports(settings: Settings, clock: Clock) -> PreflightPorts:
    """What ``mover check`` looks through."""
    return PreflightPorts(
        settings=settings,
        clock=clock,
        prism=lambda: prism(settings, clock),
        proxy=lambda hypervisor: proxy_of(hypervisor, settings),
        place=lambda: inspect_own_place(settings),
        guard=lambda: inspect_guard(settings),
        store=lambda: store(settings, clock),
        probe=probe,
        repository=lambda: repository(settings, clock),
    )


@dataclass(frozen=True, slots=True)
class Executor:
    """The parts of a process that runs jobs."""

    node: Node
    book: JobBook
    engine: Engine


@asynccontextmanager
async def job_book(settings: Settings, clock: Clock) -> AsyncIterator[JobBook]:
    """Order and watch jobs; needs no executor."""
    book = JobBook(settings.state_dir, clock=clock)
    try:
        yield book
    finally:
        await book.close()


@asynccontextmanager
async def executor(
    settings: Settings, *, progress: ProgressSink = ignore_progress, clock: Clock | None = None
) -> AsyncIterator[Executor]:
    """Be the executor of the state folder for the length of the block.

    Raises StateFolderBusy, StateFull, StateDamaged, DeviceRightsMissing.
    """
    clock = clock or SystemClock()
    if settings.node.check_rights:
        require_rights(inspect_own_place(settings))
    require_room(settings.state_dir)
    with executor_lock(settings.state_dir):
        async with (
            job_book(settings, clock) as book,
            node(settings, book=book, progress=progress, clock=clock) as ready,
        ):
            operations: dict[str, Operation] = {
                name: partial(attended, ready, name, operation) for name, operation in OPERATIONS.items()
            }
            async with Engine.running(
                settings.state_dir,
                operations,
                side_by_side=settings.limits.vms,
                clock=clock,
            ) as engine:
                yield Executor(ready, book, engine)
