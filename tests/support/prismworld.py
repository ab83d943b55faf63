"""Ahv and the lab, face to face: what the contract suite and the fault sweeps start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mover.clock import SystemClock
from mover.config import PrismSettings
from mover.hypervisor.nutanix.ahv import Ahv
from mover.hypervisor.protocol import Hypervisor
from mover.lab.server import DiskSpec, Lab, LabOptions, NicSpec, VmSpec
from mover.model.machine import Consistency, Disk, Snapshot

MIB = 1 << 20
PREFIX = "mover-test0001-"
WEB = VmSpec(
    name="web01",
    disks=(
        DiskSpec(size_bytes=4 * MIB),
        DiskSpec(size_bytes=2 * MIB, container="fast"),
        DiskSpec(kind="CDROM", is_empty=True),
        DiskSpec(kind="VOLUME_GROUP", size_bytes=MIB),
    ),
    nics=(NicSpec(ip_address="192.0.2.10"), NicSpec(network="vlan20", is_connected=False)),
    categories={"Backup": ["Gold"]},
    guest_tools="vss",
)
WIN = VmSpec(
    name="win01", disks=(DiskSpec(size_bytes=2 * MIB),), boot_type="SECURE_BOOT", has_vtpm=True, machine_type="Q35"
)


class BriskClock(SystemClock):
    """Real time, only faster: the lab's tasks take milliseconds."""

    def __init__(self, times: float = 20.0) -> None:
        super().__init__()
        self._times = times

    def monotonic(self) -> float:
        return super().monotonic() * self._times

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self._times)


@dataclass
class PrismWorld:
    lab: Lab
    side: str
    state_dir: Path
    ahv: Hypervisor = field(init=False)

    def settings(self, **changes: Any) -> PrismSettings:
        url = self.lab.element_url if self.side == "element" else self.lab.central_url
        values: dict[str, Any] = {
            "url": f"{url}/api/nutanix/v3",
            "username": self.lab.username,
            "password": SecretStr(self.lab.password),
            "fingerprint": self.lab.fingerprints,
            **changes,
        }
        return PrismSettings(**values)

    def uuid(self, name: str) -> str:
        return self.lab.vms[name].uuid

    def write(self, slot: str, offset_bytes: int, data: bytes) -> None:
        with self.lab.disk_path("web01", slot).open("r+b") as file:
            file.seek(offset_bytes)
            file.write(data)

    async def freeze(self, key: str, consistency: Consistency = Consistency.CRASH, vm: str = "web01") -> Snapshot:
        return await self.ahv.snapshot(
            self.uuid(vm),
            name=f"{PREFIX}{key}",
            consistency=consistency,
            key=f"{PREFIX}{key}",
            expires_at=SystemClock().now() + 3600,
        )


def path_of(snapshot: Snapshot, disk: Disk) -> str:
    """Of the file that a snapshot froze of a disk."""
    return next(file.path for file in snapshot.files if file.vmdisk_uuid == disk.vmdisk_uuid)


@asynccontextmanager
async def prism_world(
    folder: Path, side: str, *, changes: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[PrismWorld]:
    """A fresh lab with two guests, and Ahv on it. changes: of Ahv's settings. options: the lab's."""
    chosen: dict[str, Any] = {"vms": (WEB, WIN), "use_loop": False, **options}
    async with await Lab.start(folder / "lab", options=LabOptions(**chosen)) as lab:
        world = PrismWorld(lab, side, folder)
        world.ahv = Ahv(world.settings(**(changes or {})), clock=BriskClock(), state_dir=folder)
        try:
            yield world
        finally:
            await world.ahv.close()
