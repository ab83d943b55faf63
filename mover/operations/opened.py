"""The device of an attachment, found, proven and open for the length of a block; closed however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mover.jobs.steps import Cancellation
from mover.model.machine import Attachment
from mover.operations.node import AttachedDevice, Node
from mover.operations.timer import Timer


def census(node: Node) -> Any:
    """What there is before an attach, where the slot alone may have to tell; None otherwise."""
    return node.devices.census() if node.settings.node.trust_slot else None


@asynccontextmanager
async def opened_device(
    node: Node, attachment: Attachment, *, writable: bool, before: Any, cancellation: Cancellation, timer: Timer
) -> AsyncIterator[AttachedDevice]:
    """Raises DeviceError kinds, JobCancelled. Left without an error, the kernel forgets the disk: detach comes next."""
    found: list[AttachedDevice] = []

    async def locate() -> None:
        # Kept here at once: a cancellation on the way back to the caller must not lose it.
        found.append(await node.devices.locate(attachment, writable=writable, before=before))

    try:
        await timer.during("find", cancellation.unless(locate()))
        yield found[0]
        await node.workers.blocking(found[0].release)
    finally:
        for device in found:
            device.close()
