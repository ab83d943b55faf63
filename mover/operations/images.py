"""One image of a point on its way back, onto a target or into nothing, as this node's settings say."""

from __future__ import annotations

from mover.device.protocol import WritableDevice
from mover.model.point import DiskImage
from mover.operations.node import Node, ReadingNode
from mover.operations.ports import ReadingSession
from mover.operations.progress import DiskWatch
from mover.pipeline.flow import Meter
from mover.pipeline.repository_to_disk import RestoreResult, restore_disk


async def bring_back(
    node: Node | ReadingNode,
    image: DiskImage,
    *,
    reader: ReadingSession,
    target: WritableDevice | None,
    watch: DiskWatch,
) -> RestoreResult:
    """Restore onto a target that holds nothing but zeroes; with target None verify. Raises as ``restore_disk``."""
    meter = Meter()
    work = restore_disk(
        image,
        reader=reader,
        workers=node.workers,
        target=target,
        meter=meter,
        skip_zero=True,
        readback_blocks=node.settings.data.readback_blocks,
        dice=node.clock.random(),
    )
    return await watch.during("verify" if target is None else "restore", meter, work)
