"""A whole node as the product assembles it, against a lab with tiny disks: executor, jobs and proof.

Slow things are few: the clock's pauses last a twentieth, disks are files, repositories are
without a passphrase unless told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mover.app import nodes, stores
from mover.clock import Clock
from mover.config import Settings
from mover.jobs.book import Job
from mover.lab.server import DiskSpec, Lab, LabOptions, NicSpec, VmSpec
from mover.lab.state import VmRecord
from mover.model.point import RestorePoint
from mover.operations.node import ReadingNode
from mover.operations.progress import ProgressSink, ignore_progress
from mover.operations.request import BACKUP, RESTORE, RESTORE_DISK, BackupRequest, RestoreDiskRequest, RestoreRequest
from mover.repository.keys import ScryptCost
from mover.repository.repository import Repository
from mover.settings import load
from mover.storage.probe import probe
from mover.storage.protocol import StoreTraits
from mover.units import KIB, MIB
from tests.support.prismworld import BriskClock

BLOCK = 256 * KIB
PASSPHRASE = "a passphrase for tests"
CHEAP = ScryptCost(n=16, p=1)
WEB = VmSpec(
    name="web01",
    disks=(DiskSpec(size_bytes=4 * MIB), DiskSpec(size_bytes=2 * MIB, container="fast")),
    nics=(NicSpec(),),
    categories={"Backup": ["Gold"]},
)


@contextmanager
def small_lab(folder: Path, *vms: VmSpec, **options: Any) -> Iterator[Lab]:
    """A lab in its own thread; any event loop may talk to it."""
    chosen = LabOptions(vms=vms or (WEB,), use_loop=False, **options)
    lab = asyncio.run(Lab.start(folder, options=chosen))
    try:
        yield lab
    finally:
        asyncio.run(lab.stop())


def settings_for(lab: Lab, folder: Path, **flags: Any) -> Settings:
    """flags: dotted settings, ``limits__vms=1``. The repository is a folder unless told."""
    return load(environment={}, flags=flags_for(lab, folder, **flags))


def flags_for(lab: Lab, folder: Path, **flags: Any) -> dict[str, Any]:
    """Dotted settings; a settings file may hold them as they are."""
    defaults = {
        "state_dir": str(folder / "state"),
        "node.device_root": str(lab.device_root),
        "node.allow_regular_files": True,
        "node.check_guard": False,
        "prism.url": lab.element_url,
        "prism.username": lab.username,
        "prism.password": lab.password,
        "prism.fingerprint": lab.fingerprints,
        "repository.url": str(folder / "repository"),
        "repository.pack_size": MIB,
        "data.block_size": BLOCK,
        "data.read_size": BLOCK,
        "data.budget": 16 * MIB,
        "limits.container_free": 0,
        "limits.store_free": 0,
    }
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return {**defaults, **named}


async def init(settings: Settings) -> StoreTraits:
    """What ``mover init`` does, at a low price of a guess at the passphrase; what the probe found."""
    clock = BriskClock()
    async with stores.store(settings, clock, create=True) as store:
        traits = await probe(store, clock)
        phrase = settings.repository.passphrase.get_secret_value() or None
        await Repository.init(store, passphrase=phrase, clock=clock, cost=CHEAP)
    return traits


@dataclass
class Running:
    """An executor that runs, and its lab."""

    lab: Lab
    executor: nodes.Executor

    @property
    def node(self) -> Any:
        return self.executor.node

    @property
    def reading(self) -> ReadingNode:
        node = self.node
        return ReadingNode(node.settings, node.clock, node.repository, node.workers)

    async def job(self, operation: str, request: Mapping[str, Any], *, job_id: str | None = None) -> Job:
        """Ordered, run, ended; well or not."""
        book = self.executor.book
        return await book.wait(await book.submit(operation, request, job_id=job_id))

    async def done(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The report of a job that ended well."""
        job = await self.job(operation, request)
        if job.error is not None:
            raise job.error
        return dict(job.result or {})

    async def backup_request(self, vm_name: str = "web01", **wishes: Any) -> Mapping[str, Any]:
        vm = await self.node.hypervisor.vm(self.lab.vms[vm_name].uuid)
        request = BackupRequest.of(vm, self.node.settings.backup, self.node.clock)
        return replace(request, **wishes).values()

    async def backup(self, vm_name: str = "web01", **wishes: Any) -> dict[str, Any]:
        return await self.done(BACKUP, await self.backup_request(vm_name, **wishes))

    async def restore(self, point_id: str, **wishes: Any) -> tuple[dict[str, Any], VmRecord]:
        """The report, and the new VM as the lab has it."""
        name = wishes.pop("name", None) or f"back-{self.node.clock.new_uuid()[:8]}"
        report = await self.done(RESTORE, RestoreRequest(point_id, name, **wishes).values())
        return report, self.lab.vms[name]

    async def restore_disk(self, point_id: str, disk: str, vm_name: str, slot: str | None = None) -> dict[str, Any]:
        request = RestoreDiskRequest(point_id, disk, self.lab.vms[vm_name].uuid, slot)
        return await self.done(RESTORE_DISK, request.values())

    async def load(self, report: Mapping[str, Any]) -> RestorePoint:
        return await self.node.repository.load(report["point"])

    def frozen(self, point: RestorePoint, slot: str) -> bytes:
        """What the snapshot of a point holds of a disk; the base's stays on the cluster."""
        image = next(image for image in point.disks if str(image.slot) == slot)
        return self.lab.frozen_path(point.snapshot_uuid or "", image.vmdisk_uuid or "").read_bytes()

    def held(self, vm_name: str, slot: str) -> bytes:
        """What a guest reads from its disk now."""
        return self.lab.disk_path(vm_name, slot).read_bytes()

    def ours(self) -> dict[str, list[str]]:
        """What bears our name on the cluster, and what is plugged into the Proxy VM beside its own disk."""
        mark = f"mover-{self.node.install}-"
        proxy = next(vm for vm in self.lab.vms.values() if vm.uuid == self.lab.proxy_uuid)
        return {
            "snapshots": [one.uuid for one in self.lab.snapshots() if one.name.startswith(mark)],
            "attached": [disk.label for disk in proxy.disks[1:]],
            "plugged": sorted(set(self.lab.plugged()) - {str(disk.vmdisk_uuid) for disk in proxy.disks}),
        }

    async def assert_only_base(self, point: RestorePoint | None) -> None:
        await self.lab.settle()
        expected = [point.snapshot_uuid] if point else []
        assert self.ours() == {"snapshots": expected, "attached": [], "plugged": []}


@asynccontextmanager
async def running(
    lab: Lab, settings: Settings, *, progress: ProgressSink = ignore_progress, clock: Clock | None = None
) -> AsyncIterator[Running]:
    """The executor of the settings' state folder."""
    async with nodes.executor(settings, progress=progress, clock=clock or BriskClock()) as executor:
        yield Running(lab, executor)


def write(lab: Lab, vm_name: str, slot: str, offset_bytes: int, data: bytes) -> None:
    """A guest writes."""
    with lab.disk_path(vm_name, slot).open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


def noise(seed: int, size_bytes: int) -> bytes:
    """Seeded bytes that no compressor makes smaller."""
    return random.Random(seed).randbytes(size_bytes)
