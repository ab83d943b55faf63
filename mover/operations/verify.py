"""Verify a restore point: the way of a restore, into nothing. Names every object that is damaged.

Needs the repository and its key alone.
"""

from __future__ import annotations

from mover.errors import Damaged
from mover.jobs.steps import Values
from mover.model.point import DiskImage, PointSummary, ReadMode, RestorePoint
from mover.operations.images import bring_back
from mover.operations.node import ReadingNode
from mover.operations.ports import ReadingSession
from mover.operations.progress import DiskWatch
from mover.operations.reading import reading
from mover.operations.report import point_words
from mover.pipeline.repository_to_disk import RestoreResult

_NAMED = 20
JOB = "verify"


async def verify_point(node: ReadingNode, point: PointSummary | str) -> Values:
    """Open and verify every block of a point; gives what was checked.

    Raises Damaged with all damaged objects in its facts (``objects``), NoSuchPoint, StorageError.
    """
    whole = await node.repository.load(point)
    disks = [image for image in whole.disks if image.mode is not ReadMode.EXCLUDED]
    async with reading(node.repository) as reader:
        results = [await _verify(node, whole, image, await reader.get()) for image in disks]
    damage = [(image, found) for image, result in zip(disks, results, strict=True) for found in result.damage]
    # What a restore does not read, and is needed all the same: index objects, and each pack's own table.
    others = {problem.object: problem.what for problem in (await node.repository.check(whole)).problems}
    if (damage or others) and node.standing is not None:
        await node.standing.damaged(whole)
    if damage:
        objects = sorted({found.object_name for _, found in damage} | set(others))
        lost = sum(found.lost_bytes for _, found in damage)
        shown = ", ".join(objects[:_NAMED]) + (" …" if len(objects) > _NAMED else "")
        raise Damaged(
            f"Restore point {whole.id} of {whole.vm_name} is damaged: {shown}",
            remedy="Restore another point; run mover repair --read-data, then a backup: it stores anew what it meets.",
            objects=objects,
            lost_bytes=lost,
            disks=sorted({str(image.slot) for image, _ in damage}),
        )
    if others:
        raise Damaged(
            f"Every block of restore point {whole.id} of {whole.vm_name} is whole, "
            f"but other objects are damaged: {'; '.join([*others.values()][:_NAMED])}",
            remedy="The point can be restored. Run mover repair, before more is hit.",
            objects=sorted(others),
            lost_bytes=0,
            disks=[],
        )
    if node.standing is not None:
        await node.standing.verified(whole)
    rows = [_row(image, result) for image, result in zip(disks, results, strict=True)]
    return {**point_words(whole), "vm": whole.vm_name, "verified": True, "disks": rows}


async def _verify(node: ReadingNode, point: RestorePoint, image: DiskImage, reader: ReadingSession) -> RestoreResult:
    watch = DiskWatch(node.progress, node.clock, job=JOB, vm=point.vm_name, disk=str(image.slot))
    try:
        result = await bring_back(node, image, reader=reader, target=None, watch=watch)
        watch.phase("done")
        return result
    finally:
        watch.close()


def _row(image: DiskImage, result: RestoreResult) -> Values:
    return {
        "disk": str(image.slot),
        "size_bytes": image.size_bytes,
        "blocks_verified": result.blocks_verified,
        "bytes_fetched": result.bytes_fetched,
        "bytes_zero": result.bytes_zero,
        "seconds": result.seconds,
    }
