"""A disk plugged into the Proxy VM, its device found, proven and open for the length of a block.

The device is closed however the block ends; the disk stays, and its entry in the ledger: only
who knows that it is not needed any more detaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mover.catalog.ledger import Entry
from mover.jobs.steps import Cancellation
from mover.model.machine import Attachment
from mover.operations.attach import Wish, plug, plug_leased
from mover.operations.node import AttachedDevice, Node
from mover.operations.timer import Timer


@dataclass(frozen=True, slots=True)
class Plugged:
    """What a block is given."""

    entry: Entry
    attachment: Attachment
    device: AttachedDevice


@asynccontextmanager
async def plugged_device(
    node: Node, wish: Wish, *, writable: bool, cancellation: Cancellation, timer: Timer
) -> AsyncIterator[Plugged]:
    """Raises what ``plug`` raises, DeviceError kinds, JobCancelled.

    Left without an error, the kernel forgets the disk: detach comes next.
    """
    found: list[AttachedDevice] = []

    async def locate(attachment: Attachment, before: Any) -> None:
        # Kept here at once: a cancellation on the way back to the caller must not lose it.
        found.append(await node.devices.locate(attachment, writable=writable, before=before))

    async def plug_and_locate() -> tuple[Entry, Attachment]:
        if not node.settings.node.trust_slot:
            entry, attachment = await timer.during("attach", plug(node, wish))
            await timer.during("find", cancellation.unless(locate(attachment, None)))
            return entry, attachment
        # Where only what is new and in our slot tells, nothing else may come or go in the meantime.
        async with node.lanes.lease(wish.vm_uuid):
            before = await node.workers.blocking(node.devices.census)
            entry, attachment = await timer.during("attach", plug_leased(node, wish))
            await timer.during("find", cancellation.unless(locate(attachment, before)))
            return entry, attachment

    try:
        entry, attachment = await plug_and_locate()
        yield Plugged(entry, attachment, found[0])
        await node.workers.blocking(found[0].release)
    finally:
        for device in found:
            device.close()
