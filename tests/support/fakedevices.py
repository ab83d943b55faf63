"""The disks of the hypervisor in memory, as devices."""

from __future__ import annotations

from typing import Any

from mover.errors import DeviceFault, MoverError
from mover.model.machine import Attachment
from tests.support.fakehypervisor import FakeHypervisor


class MemoryDevice:
    """The bytes of an attached disk."""

    def __init__(self, world: FakeHypervisor, attachment: Attachment, *, writable: bool) -> None:
        self.name = f"memory {attachment.slot}"
        self.size_bytes = attachment.size_bytes
        self.sector_bytes = 512
        self._world, self._data, self._writable = world, world.state.data[attachment.vmdisk_uuid], writable
        self.is_closed = False

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        buffer[:] = self._data[offset_bytes : offset_bytes + len(buffer)]

    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        assert self._writable
        self._data[offset_bytes : offset_bytes + len(buffer)] = buffer

    def flush(self) -> None:
        """The world is written with its next change; what a kill takes before that is restored anew."""

    def close(self) -> None:
        self.is_closed = True

    def release(self) -> None:
        self.close()


class FailingDevice(MemoryDevice):
    """Every read fails."""

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        raise DeviceFault(f"Reading {self.name} failed", remedy="See the kernel log.", offset_bytes=offset_bytes)


class FakeDevices:
    """``DeviceFinder`` over the world's bytes. Set ``error`` to refuse, ``kind`` to break the next device."""

    def __init__(self, world: FakeHypervisor) -> None:
        self.world = world
        self.opened: list[MemoryDevice] = []
        self.kind = MemoryDevice
        self.errors: list[MoverError] = []
        self.located = 0

    def census(self) -> Any:
        return None

    async def locate(self, attachment: Attachment, *, writable: bool, before: Any = None) -> MemoryDevice:
        self.located += 1
        if self.errors:
            raise self.errors.pop(0)
        assert not writable or not any(self.world.state.data[attachment.vmdisk_uuid])
        device = self.kind(self.world, attachment, writable=writable)
        self.opened.append(device)
        return device
