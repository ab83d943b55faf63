"""Restore one disk to a raw file: needs the repository and its key alone, no Prism, no catalog."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mover.device.files import FileTarget
from mover.errors import UsageError
from mover.jobs.steps import Values
from mover.model.point import PointSummary, ReadMode
from mover.operations.images import bring_back
from mover.operations.node import ReadingNode
from mover.operations.progress import DiskWatch
from mover.operations.reading import reading
from mover.operations.report import point_words
from mover.operations.restore import image_at

JOB = "restore-to-file"


async def restore_to_file(node: ReadingNode, point: PointSummary | str, disk: str | None, path: Path) -> Values:
    """Write the image of ``disk`` (its slot; None: the only one) to a new file, whole or not at all.

    Raises TargetExists, UsageError, Damaged, DeviceFault, StorageError.
    """
    whole = await node.repository.load(point)
    image = image_at(whole, disk)
    if image.mode is ReadMode.EXCLUDED:
        raise UsageError(
            f"Disk {image.slot} is not in point {whole.id} of {whole.vm_name}: {image.reason}",
            remedy="Choose another disk or another point.",
        )
    watch = DiskWatch(node.progress, node.clock, job=JOB, vm=whole.vm_name, disk=str(image.slot))
    target = await node.workers.blocking(partial(FileTarget.create, path, image.size_bytes))
    try:
        async with reading(node.repository) as reader:
            result = await bring_back(node, image, reader=await reader.get(), target=target, watch=watch)
        await node.workers.blocking(target.commit)
        watch.phase("done")
    finally:
        watch.close()
        target.close()
    row = {
        "disk": str(image.slot),
        "size_bytes": image.size_bytes,
        "bytes_written": result.bytes_written,
        "bytes_zero": result.bytes_zero,
        "bytes_fetched": result.bytes_fetched,
        "seconds": result.seconds,
        "is_empty": False,
    }
    return {"vm": whole.vm_name, **point_words(whole), "path": str(path), "disks": [row], "warnings": []}
