"""What an operation is given: the ports of one node, its limits, and whom to tell of progress.

``app`` chooses the concrete classes. Nothing here is durable: operations keep only ids and
numbers between their steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from mover.catalog.ledger import Ledger
from mover.clock import Clock
from mover.config import LimitSettings, Settings
from mover.device.protocol import WritableDevice
from mover.hypervisor.protocol import Hypervisor
from mover.model.machine import Attachment
from mover.operations.board import Board
from mover.operations.gauges import Standing
from mover.operations.names import name_of
from mover.operations.ports import Repository
from mover.operations.progress import ProgressSink, ignore_progress
from mover.pipeline.workers import Workers


class AttachedDevice(WritableDevice, Protocol):
    """A device that the kernel can be told to forget. Sources refuse writes."""

    def release(self) -> None:
        """Flush, have the kernel forget the disk, close. Idempotent."""


class DeviceFinder(Protocol):
    """``device.Locator`` of one node."""

    def census(self) -> Any:
        """The devices there are now; given back to ``locate``, it tells what is new."""

    async def locate(self, attachment: Attachment, *, writable: bool, before: Any = None) -> AttachedDevice:
        """The proven, open device; a writable one is also proven empty. Raises DeviceError kinds."""


Place = tuple[str, int]
"""Who holds a place on the Proxy VM: a job and the ordinal of its disk."""


class Lanes:
    """What is scarce: disks being copied on this node and in each container, places on the Proxy VM, and
    the right to change a VM's slots."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._copying = asyncio.Semaphore(limits.disks)
        self._containers: dict[str, asyncio.Semaphore] = {}
        self._holders: set[Place] = set()
        self._given_back = asyncio.Event()
        self._leases: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def disk(self, container_uuid: str) -> AsyncIterator[None]:
        """Room to copy one disk. The container's first: who waits for a busy one keeps nobody else from going."""
        container = self._containers.setdefault(container_uuid, asyncio.Semaphore(self._limits.per_container))
        async with container, self._copying:
            yield

    def given_back(self) -> asyncio.Event:
        """Set once a place is given back from now on."""
        return self._given_back

    def take_place(self, place: Place, noted: Collection[Place]) -> bool:
        """Whether there is room for one more disk on the Proxy VM; then it is taken.

        noted: whose disks the ledger has there; those that nobody holds were left behind, and count too.
        """
        has_room = len(self._holders) + len(self.left_behind(noted)) < self._limits.attached
        if has_room:
            self._holders.add(place)
        return has_room

    def left_behind(self, noted: Collection[Place]) -> list[Place]:
        """Of these, those that nobody in this process holds."""
        return [place for place in noted if place not in self._holders]

    @property
    def has_holders(self) -> bool:
        """Somebody will give a place back."""
        return bool(self._holders)

    def give_back(self, place: Place) -> None:
        self._holders.discard(place)
        self._given_back.set()
        self._given_back = asyncio.Event()

    def lease(self, vm_uuid: str) -> asyncio.Lock:
        """The only right to attach to or detach from a VM: Prism's attach has no key."""
        return self._leases.setdefault(vm_uuid, asyncio.Lock())


@dataclass(frozen=True, slots=True)
class ReadingNode:
    """What needs no cluster: verify, restore to a file."""

    settings: Settings
    clock: Clock
    repository: Repository
    workers: Workers
    progress: ProgressSink = ignore_progress
    standing: Standing | None = None
    """What becomes known of VMs is kept there, where there is such a place."""


@dataclass(frozen=True, slots=True)
class Node:
    """All that a backup or a restore to a cluster needs."""

    settings: Settings
    clock: Clock
    hypervisor: Hypervisor
    repository: Repository
    workers: Workers
    ledger: Ledger
    devices: DeviceFinder
    proxy_uuid: str
    install: str
    lanes: Lanes
    active_jobs: Callable[[], Awaitable[set[str]]]
    """Ids of jobs that run or will be continued: what they made is not to be cleaned up."""
    forget_jobs: Callable[[], Awaitable[None]]
    """Those that ended long ago."""
    board: Board
    """What the metrics are fed from."""
    progress: ProgressSink = ignore_progress

    def name(self, job: str, kind: str) -> str:
        """The name of a thing that a job makes on a cluster."""
        return name_of(install=self.install, node=self.settings.node.name, job=job, kind=kind)
