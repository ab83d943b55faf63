"""A node over fakes: memory for hypervisor, devices and store, the real repository, pipeline and ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mover.catalog.history import History
from mover.catalog.ledger import Ledger
from mover.clock import FakeClock
from mover.config import Settings
from mover.model.machine import Vm
from mover.operations.backup import backup_vm
from mover.operations.board import Board
from mover.operations.clean import reconcile
from mover.operations.names import install_id
from mover.operations.node import Lanes, Node, ReadingNode
from mover.operations.progress import Progress
from mover.operations.request import BackupRequest, RestoreRequest
from mover.operations.restore import restore_vm
from mover.operations.tofile import restore_to_file
from mover.pipeline.flow import Budget
from mover.pipeline.workers import Workers
from mover.repository.repository import Repository
from mover.settings import load
from mover.storage.memory import MemoryStore
from mover.units import KIB, MIB
from tests.support.fakedevices import FakeDevices
from tests.support.fakehypervisor import FakeHypervisor
from tests.support.faultystore import FaultyStore
from tests.support.steps import DirectSteps

BLOCK = 256 * KIB
TWO_DISKS = [3 * BLOCK, BLOCK + 4096]
"""Sizes: whole blocks, and a short last one."""


class TestClock(FakeClock):
    """Jumps when something sleeps, but lets heartbeats and progress wait: they would never end."""

    __test__ = False

    async def sleep(self, seconds: float) -> None:
        if seconds in (1.0, 60.0):
            await _for_ever()
        await super().sleep(seconds)


async def _for_ever() -> None:
    await asyncio.Event().wait()


@dataclass
class World:
    """The node, and what it stands on."""

    node: Node
    hypervisor: FakeHypervisor
    devices: FakeDevices
    store: FaultyStore
    clock: FakeClock
    events: list[Progress]
    active: set[str]
    jobs: int = 0
    last_steps: DirectSteps = field(default_factory=DirectSteps)

    def steps(self) -> DirectSteps:
        self.jobs += 1
        self.last_steps = DirectSteps(f"{self.jobs:016x}")
        return self.last_steps

    def request(self, vm: Vm, **wishes: Any) -> BackupRequest:
        return replace(BackupRequest.of(vm, self.node.settings.backup, self.clock), **wishes)

    async def backup(self, vm: Vm, *, steps: DirectSteps | None = None, **wishes: Any) -> dict[str, Any]:
        return await backup_vm(self.node, self.request(vm, **wishes).values(), steps or self.steps())

    async def restore(
        self, point: str, name: str, *, steps: DirectSteps | None = None, **wishes: Any
    ) -> dict[str, Any]:
        return await restore_vm(self.node, RestoreRequest(point, name, **wishes).values(), steps or self.steps())

    async def reconcile(self) -> list[Any]:
        return await reconcile(self.node, apply=True)

    def ours(self) -> dict[str, int]:
        """How many things of ours there are on the cluster, by kind."""
        state = self.hypervisor.state
        proxy = state.vms[self.node.proxy_uuid]
        marked = [vm for vm in state.vms.values() if "description" in vm.spec]
        return {"snapshots": len(state.snapshots), "attached": len(proxy.disks) - 1, "vms": len(marked)}

    async def disk_bytes(self, report: dict[str, Any], slot: str = "scsi.0") -> bytes:
        """What the repository holds of a disk, through a real restore to a file."""
        node = ReadingNode(self.node.settings, self.clock, self.node.repository, self.node.workers)
        path = self.node.settings.state_dir / f"{report['point']}-{slot}"
        await restore_to_file(node, report["point"], slot, path)
        return path.read_bytes()

    def assert_only_base(self, bases: int = 1) -> None:
        assert self.ours() == {"snapshots": bases, "attached": 0, "vms": 0}
        assert all(device.is_closed for device in self.devices.opened)


def _small(folder: Path, flags: dict[str, Any]) -> Settings:
    """Settings of a world of small disks."""
    defaults = {
        "state_dir": str(folder),
        "data.block_size": BLOCK,
        "data.budget": 16 * MIB,
        "data.read_size": BLOCK,
        "repository.pack_size": MIB,
        "limits.container_free": 0,
        "limits.store_free": 0,
        "data.audit_blocks": 2,
        "data.readback_blocks": 2,
    }
    return load(environment={}, flags={**defaults, **flags})


async def _repository(folder: Path, store: FaultyStore, settings: Settings, budget: Budget, clock: Any) -> Repository:
    """The one that is in the store, or a new one."""
    if await store.inner.info("repository.json") is None:
        await Repository.init(store.inner, passphrase=None, clock=clock)
    return await Repository.open(
        store,
        passphrase=None,
        cache_dir=folder / "cache",
        clock=clock,
        pack_bytes=settings.repository.pack_size,
        uploads=1,
        paranoid=False,
        level=1,
        reserve=budget.reserve_pack,
        release=budget.release_pack,
    )


@asynccontextmanager
async def world(
    folder: Path,
    *,
    inner: Any = None,
    hypervisor: FakeHypervisor | None = None,
    seed: int = 0,
    clock: Any = None,
    **flags: Any,
) -> AsyncIterator[World]:
    """inner: the store (memory if not given); seed: of ids and dice; flags: dotted settings, ``limits__vms=1``."""
    clock = clock or TestClock(seed)
    settings = _small(folder, {name.replace("__", "."): value for name, value in flags.items()})
    fake = hypervisor or FakeHypervisor(now=clock.now)
    if not any(vm.name == "proxy" for vm in fake.state.vms.values()):
        fake.add_vm("proxy", [64 * KIB])
    store = FaultyStore(inner or MemoryStore())
    ledger = await Ledger.open(folder / "catalog.sqlite", clock=clock)
    history = History(folder / "catalog.sqlite")
    budget = Budget(settings.data.budget)
    repository = await _repository(folder, store, settings, budget, clock)
    events: list[Progress] = []
    active: set[str] = set()

    async def active_jobs() -> set[str]:
        return set(active)

    async def forget_jobs() -> None:
        """There is no book."""

    devices = FakeDevices(fake)
    with Workers(settings.data, budget) as workers:
        node = Node(
            settings=settings,
            clock=clock,
            hypervisor=fake,
            repository=repository,
            workers=workers,
            ledger=ledger,
            devices=devices,
            proxy_uuid=fake.named("proxy").uuid,
            install=install_id(folder),
            lanes=Lanes(settings.limits),
            active_jobs=active_jobs,
            forget_jobs=forget_jobs,
            board=Board.of(settings.serve, clock, history),
            progress=events.append,
        )
        store.calls.clear()
        try:
            yield World(node, fake, devices, store, clock, events, active)
        finally:
            await repository.close()
            node.board.standing.close()
            await history.close()
            await ledger.close()
