"""A fake kernel, its disks, and the question that every test of finding a device asks."""

from __future__ import annotations

import hashlib
from mmap import mmap
from pathlib import Path

import pytest

from mover.clock import Clock, FakeClock
from mover.config import NodeSettings
from mover.device.direct import DirectDevice
from mover.device.locate import Locator
from mover.device.proof import Census
from mover.errors import MoverError
from mover.model.machine import Attachment, Slot
from tests.support.fakekernel import FakeKernel

OURS = "7c174117-320b-480f-ac05-b0f622127511"
OTHER = "b29f577f-1354-4c4a-ae12-f3809dea44cf"
SIZE = 1 << 20


class Bench:
    """A fake kernel, its disks, and the question that every test asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = FakeKernel(folder / "root")
        self.clock = FakeClock()
        self.settings = NodeSettings(device_root=folder / "root", allow_regular_files=True)

    def disk(self, name: str, *, size_bytes: int = SIZE, empty: bool = False) -> Path:
        path = self.folder / f"{name}.raw"
        path.write_bytes(bytes(size_bytes) if empty else (name.encode() * size_bytes)[:size_bytes])
        return path

    def plug(self, name: str = "sdb", vmdisk_uuid: str = OURS, **how) -> Path:
        path = self.disk(name)
        self.kernel.plug(path, name=name, vmdisk_uuid=vmdisk_uuid, **how)
        return path

    async def locate(self, *, writable: bool = False, before=None, **changes) -> DirectDevice:
        settings = self.settings.model_copy(update=changes)
        return await locate(attachment(), settings=settings, clock=self.clock, writable=writable, before=before)

    async def refusal(self, kind: type[MoverError], **how) -> MoverError:
        with pytest.raises(kind) as caught:
            (await self.locate(**how)).close()
        assert caught.value.remedy
        return caught.value


async def locate(
    attachment: Attachment, *, settings: NodeSettings, clock: Clock, writable: bool, before: Census | None = None
) -> DirectDevice:
    """As ``Locator.locate``, with a locator of its own."""
    locator = Locator(settings, clock)
    try:
        return await locator.locate(attachment, writable=writable, before=before)
    finally:
        locator.close()


def attachment(vmdisk_uuid: str = OURS, size_bytes: int = SIZE) -> Attachment:
    return Attachment("proxy", Slot("scsi", 3), vmdisk_uuid, "device", size_bytes)


def first_bytes(device: DirectDevice) -> bytes:
    with mmap(-1, 4096) as page, memoryview(page) as view:
        device.read_into(view, 0)
        return bytes(view[:8])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
