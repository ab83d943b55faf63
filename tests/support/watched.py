"""A world whose jobs run as the executor runs them, and everything that an alert looks at."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager

from mover.catalog.history import History
from mover.metrics import REGISTRY
from mover.operations.attended import attended
from mover.operations.backup import backup_vm
from mover.operations.board import Board
from mover.operations.node import ReadingNode
from tests.support.world import TWO_DISKS, TestClock, World, world


class TickingClock(TestClock):
    """The ticks of progress come when the test says so."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._ticking = asyncio.Condition()

    async def sleep(self, seconds: float) -> None:
        if seconds != 1.0:
            await super().sleep(seconds)
            return
        async with self._ticking:
            await self._ticking.wait()

    async def tick(self, seconds: float = 1.0) -> None:
        """So much later, whoever tells of progress has told it."""
        self.elapsed += seconds
        async with self._ticking:
            self._ticking.notify_all()
        for _ in range(5):
            await asyncio.sleep(0)


class Watched:
    """A world whose jobs run as the executor runs them, and what the metrics say of it."""

    def __init__(self, made: World, folder) -> None:
        self.w, self.folder = made, folder
        node = made.node
        self.node = dataclasses.replace(node, progress=node.board.pulse.saw)
        self._history: History | None = None

    async def backup(self, vm, *, steps=None, request=None, **wishes):
        """A job, seen through to its end, 100 s after the last."""
        self.w.clock.elapsed += 100
        request = request or self.w.request(vm, **wishes)
        return await attended(self.node, "backup", backup_vm, request.values(), steps or self.w.steps())

    async def backed_up(self, name):
        """A new VM with two disks and one point."""
        vm = self.w.hypervisor.add_vm(name, TWO_DISKS, seed=7)
        await self.backup(vm)
        return vm

    async def restart(self) -> None:
        """The process is gone; the next one recalls."""
        self.node.board.standing.close()
        await self.close()
        self._history = History(self.folder / "catalog.sqlite")
        board = Board.of(self.node.settings.serve, self.w.clock, self._history)
        self.node = dataclasses.replace(self.node, board=board, progress=board.pulse.saw)
        await board.standing.recall(self.node.repository)

    async def close(self) -> None:
        if self._history is not None:
            self.node.board.standing.close()
            await self._history.close()

    @property
    def now(self) -> float:
        return self.w.clock.now()

    def reading(self) -> ReadingNode:
        node = self.node
        return ReadingNode(node.settings, node.clock, node.repository, node.workers, standing=node.board.standing)


@asynccontextmanager
async def watched(folder):
    async with world(folder, clock=TickingClock(), limits__disks=2) as made:
        seen = Watched(made, folder)
        yield seen
        await seen.close()


def value(name, **labels):
    return REGISTRY.get_sample_value(f"mover_{name}", labels)


def of_vm(name, vm="web", **labels):
    return value(f"vm_{name}", vm=vm, **labels)


def stands(vm="web"):
    """(last success, last failure, damaged points): what the alerts on a VM look at first."""
    return (
        of_vm("last_success_timestamp_seconds", vm),
        of_vm("last_failure_timestamp_seconds", vm),
        of_vm("damaged_points", vm),
    )


async def stays(seen, expected, vm="web"):
    """Now, and after a restart."""
    assert stands(vm) == expected
    await seen.restart()
    assert stands(vm) == expected
