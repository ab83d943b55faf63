"""From an attachment to a device that is proven to be it, or a refusal. Fails closed.

A disk is taken by what it says about itself (VPD pages, wwid, by-id names), never by its
letter, order or size alone. Here it is looked for in sysfs until it comes or patience ends;
``opening.py`` opens it. What is refused was neither read nor written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from mover.clock import Clock
from mover.config import NodeSettings
from mover.device import bus, sysfs
from mover.device.direct import DirectDevice, open_direct
from mover.device.identity import is_uuid
from mover.device.opening import WENT_AWAY, Opener, Opening
from mover.device.proof import Census, Want, absent, choose, refused
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused
from mover.metrics import DEVICE_REFUSED
from mover.model.machine import Attachment

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_RESCAN_AFTER_S = 10.0
_BUSY_PATIENCE_S = 5.0
"""udev and LVM look at every new disk for a moment, and udev gives it to its group; who holds it longer, keeps it."""

_T = TypeVar("_T")
_Found: TypeAlias = DirectDevice | DeviceAbsent | DeviceBusy | DeviceRefused
"""What a look gives: the device, or what may pass with time."""


def census(root: Path) -> Census:
    """The disks there are now. Taken before an attach, it lets ``trust_slot`` tell what is new."""
    return frozenset(disk.birth for disk in sysfs.disks(root))


class Locator:
    """Locates for one node: one for all its attachments, so that no disk is given out twice."""

    def __init__(self, settings: NodeSettings, clock: Clock, *, opener: Opener = open_direct) -> None:
        self._settings = settings
        self._root = settings.device_root
        self._clock = clock
        self._opening = Opening(self._root, clock, opener, allow_regular_files=settings.allow_regular_files)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="locate")

    def close(self) -> None:
        """End its threads. The devices belong to whoever asked for them."""
        self._threads.shutdown(wait=False)

    def census(self) -> Census:
        """The disks there are now, for ``locate``'s ``before``."""
        return census(self._root)

    async def locate(self, attachment: Attachment, *, writable: bool, before: Census | None = None) -> DirectDevice:
        """The proven, open device of an attachment. Cancelling it leaves nothing open.

        Waits up to ``device_timeout``. Raises DeviceAbsent (it never came), DeviceBusy
        (somebody holds it), DeviceRefused (wrong size, two of them, a contradiction,
        changed while it was opened, not empty though writable).
        """
        if not is_uuid(attachment.vmdisk_uuid):
            raise refused(
                "no-uuid",
                f"{attachment.slot} has no usable vmdisk UUID ({attachment.vmdisk_uuid!r})",
                "Detach the disk and run the job again; report this if it comes back.",
            )
        want = Want(attachment, writable, before, self._settings.trust_slot)
        return await self._poll(want)

    async def _poll(self, want: Want) -> DirectDevice:
        start, pause, rescanned = self._clock.monotonic(), _FIRST_PAUSE_S, False
        deadline = start + self._settings.device_timeout
        busy_since: float | None = None
        while True:
            found = await self._off_loop(lambda: self._try(want))
            if isinstance(found, DirectDevice):
                return found
            now = self._clock.monotonic()
            busy_since = None if isinstance(found, DeviceAbsent) else now if busy_since is None else busy_since
            held_s = 0.0 if busy_since is None else now - busy_since
            if held_s >= _BUSY_PATIENCE_S or now >= deadline:
                DEVICE_REFUSED.labels(_reason(found)).inc()
                raise found
            if not rescanned and now - start >= _RESCAN_AFTER_S:
                rescanned = True
                await self._off_loop(lambda: bus.rescan(self._root, frozenset(self._opening.held)))
            await self._clock.sleep(min(pause, deadline - now))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        future = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_unwanted)
            raise

    def _try(self, want: Want) -> _Found:
        """One look. What may pass with time is returned, what cannot is raised."""
        try:
            return self._look(want)
        except OSError as error:
            if error.errno in WENT_AWAY:
                return absent(want, (), f"It went away while it was looked at ({error.strerror})")
            raise refused(
                "unreadable",
                f"What the kernel says of disks and mounts cannot be read, so {want} cannot be proven: {error}",
                "Run as root; a container needs the host's /sys and /dev, and its own /proc.",
            ) from error

    def _look(self, want: Want) -> _Found:
        if want.before is not None:
            # What came since and is ours already is another attachment's, proven.
            want = replace(want, before=want.before | self._opening.held)
        disk = choose(sysfs.disks(self._root), want)
        return disk if isinstance(disk, DeviceAbsent) else self._opening.open(disk, want)


def _reason(error: DeviceAbsent | DeviceBusy | DeviceRefused) -> str:
    if isinstance(error, DeviceRefused):
        return str(error.facts["reason"])
    return "absent" if isinstance(error, DeviceAbsent) else "busy"


def _close_unwanted(future: Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        result = future.result()
        if isinstance(result, DirectDevice):
            result.close()
