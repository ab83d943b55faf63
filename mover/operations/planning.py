"""How each disk of a backup is read: what the repository and the cluster still have, put before ``decide``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mover.config import AUTO
from mover.errors import Damaged, NoSuchPoint
from mover.model.machine import Disk
from mover.model.point import DiskImage, PointSummary, ReadMode, RestorePoint
from mover.operations.blocksize import BlockChoice, choose
from mover.operations.copy import DiskPlan
from mover.operations.decide import Base, Wishes, decide, newest_full
from mover.operations.freeze import Frozen
from mover.operations.node import Node
from mover.operations.ports import Repository, WriteSession
from mover.operations.request import BackupRequest
from mover.pipeline.rolling import next_slice


async def plan_disks(
    node: Node,
    request: BackupRequest,
    frozen: Frozen,
    *,
    excluded: Mapping[str, str],
    points: Sequence[PointSummary],
    base: Base | None,
    session: WriteSession,
) -> list[DiskPlan]:
    """A plan per disk that is not excluded. points: the VM's others, newest last; base: what the newest one left."""
    data = node.settings.data
    wishes = Wishes(
        full=request.full,
        blocks=BlockChoice(data.first_block_bytes),
        cluster_uuid=frozen.vm.cluster_uuid,
        full_every_s=request.full_every_s,
        last_full_at=newest_full(points),
        now=node.clock.now(),
        unsound=await _unsound(session, base),
    )
    paths = {file.vmdisk_uuid: file.path for file in frozen.snapshot.files}
    former = await _former_images(node.repository, points, base)
    chosen = [disk for disk in frozen.vm.data_disks() if disk.device_uuid not in excluded]

    def plan(ordinal: int, disk: Disk) -> DiskPlan:
        image = former.get(disk.device_uuid)
        blocks = wishes.blocks
        if data.block_size == AUTO and image is not None:
            blocks = _own_blocks(image, _base_block_bytes(base, disk), keep_base=request.keep_base)
        rolling = next_slice(
            image.slice_place if image else None,
            now=wishes.now,
            size_bytes=disk.size_bytes,
            block_bytes=blocks.block_bytes,
            within_s=data.compare_within,
        )
        path = paths[disk.vmdisk_uuid or ""]
        # A manifest of an older version does not say it: then the VM's points do, as far as they are kept.
        full_at = wishes.last_full_at if image is None or image.full_at is None else image.full_at
        decision = decide(disk, base, replace(wishes, blocks=blocks, last_full_at=full_at))
        return DiskPlan.of(
            ordinal, disk, path, decision, blocks, former=image, rolling=rolling, full_at=full_at, now=wishes.now
        )

    return [plan(ordinal, disk) for ordinal, disk in enumerate(chosen)]


async def _unsound(session: WriteSession, base: Base | None) -> frozenset[str]:
    """Device UUIDs of disks whose former image needs damaged packs: what inherits from it would need them too."""
    disks = base.point.disks if base is not None else ()
    kept = [disk for disk in disks if disk.mode is not ReadMode.EXCLUDED]
    return frozenset([disk.device_uuid for disk in kept if await session.leans_on_suspects(disk)])


def _own_blocks(former: DiskImage, base_block_bytes: int, *, keep_base: bool) -> BlockChoice:
    """The size of blocks of a disk that was read before. base_block_bytes: of its base, 0 without one."""
    current = base_block_bytes or former.block_bytes
    # Only what becomes a base makes up for its full read.
    return choose(current, former.touched) if keep_base else BlockChoice(current)


def _base_block_bytes(base: Base | None, disk: Disk) -> int:
    image = base.image_of(disk.device_uuid) if base else None
    return image.block_bytes if image else 0


async def _former_images(
    repository: Repository, points: Sequence[PointSummary], base: Base | None
) -> dict[str, DiskImage]:
    """Device UUID → the disk as it was last read, for a base or not: what is remembered from run to run.

    What the newest point does not hold is as the base has it.
    """
    newest = next((point.id for point in reversed(points) if not point.problem), None)
    kept = base.point if base is not None else None
    last = await _advice(repository, newest) if newest is not None and (kept is None or kept.id != newest) else None
    images = [image for point in (kept, last) if point is not None for image in point.disks]
    return {image.device_uuid: image for image in images if image.mode is not ReadMode.EXCLUDED}


async def _advice(repository: Repository, point_id: str) -> RestorePoint | None:
    """A point that can be done without."""
    try:
        return await repository.load(point_id)
    except (Damaged, NoSuchPoint):
        return None
