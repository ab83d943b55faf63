"""A bank of disks and the bus that they are plugged into."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mover.lab import loops
from mover.lab.disks import DiskBank
from mover.lab.hotplug import Hotplug, PlugFaults
from tests.support.loopdevices import none_left

MIB = 1 << 20
SIZE = 4 * MIB
UUID = "5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13"
OTHER = "7c174117-320b-480f-ac05-b0f622127511"
needs_root = pytest.mark.skipif(loops.usable() is not None, reason=f"loop devices: {loops.usable()}")
as_root = [pytest.mark.root, needs_root]
KINDS = [pytest.param(False, id="files"), pytest.param(True, id="loops", marks=as_root)]


class Bus:
    """A bank, a bus, and the disk's bytes for comparison."""

    def __init__(self, folder: Path, use_loop: bool) -> None:
        self.folder, self.use_loop = folder, use_loop
        self.start()

    def start(self) -> None:
        self.bank = DiskBank(self.folder, use_loop=self.use_loop)
        self.hotplug = Hotplug(self.folder / "kernel", self.bank, seed=7, use_loop=self.use_loop)

    def stop(self) -> None:
        self.hotplug.close()
        self.bank.close()

    def plug(self, vmdisk_uuid: str = UUID, slot_index: int = 3, size: int = SIZE, **faults: object) -> str:
        path = self.bank.create(vmdisk_uuid, size)
        path.write_bytes(os.urandom(size))
        return self.hotplug.plug(
            path, vmdisk_uuid=vmdisk_uuid, slot_index=slot_index, faults=PlugFaults.of(faults) if faults else None
        )

    def sysfs(self, name: str, fact: str) -> str:
        return (self.hotplug.root / "sys/block" / name / fact).read_text().strip()

    def shown(self) -> set[str]:
        return set(os.listdir(self.hotplug.root / "sys/block"))

    def node(self, name: str) -> Path:
        return self.hotplug.root / "dev" / name

    def read(self, name: str, offset: int, length: int) -> bytes:
        descriptor = os.open(self.node(name), os.O_RDONLY | os.O_DIRECT)
        try:
            return read(descriptor, offset, length)
        finally:
            os.close(descriptor)

    def wanted(self, offset: int, length: int, vmdisk_uuid: str = UUID) -> bytes:
        return self.bank.path(vmdisk_uuid).read_bytes()[offset : offset + length]


def read(descriptor: int, offset: int, length: int) -> bytes:
    page = mmap.mmap(-1, max(length, mmap.PAGESIZE))
    view = memoryview(page)[:length]
    return bytes(view[: os.preadv(descriptor, [view], offset)])


@contextmanager
def buses(folder: Path) -> Iterator[Callable[[bool], Bus]]:
    """Makes a bus, of loop devices or of files; at the end nothing of it is left in the kernel."""
    made: list[Bus] = []

    def make(use_loop: bool) -> Bus:
        made.append(Bus(folder / "lab", use_loop))
        return made[-1]

    yield make
    for bus in made:
        bus.stop()
    assert none_left(folder)
    assert loops.mounts_below(folder) == []
