"""A disk image out of the repository: onto a device, or into nothing to verify it.

The way of the blocks is in ``writing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from mover.clock import Dice, stopwatch
from mover.device.protocol import WritableDevice
from mover.errors import DeviceRefused
from mover.model.point import DiskImage
from mover.pipeline.flow import Count, Meter, grown
from mover.pipeline.ports import BlockReader
from mover.pipeline.workers import Workers
from mover.pipeline.writing import Damage, Writing


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """Figures of one disk. damage is empty unless the target was None."""

    bytes_written: int
    bytes_zero: int
    bytes_fetched: int
    blocks_verified: int
    blocks_read_back: int
    damage: tuple[Damage, ...]
    seconds: dict[str, float]


async def restore_disk(
    image: DiskImage,
    *,
    reader: BlockReader,
    workers: Workers,
    target: WritableDevice | None,
    meter: Meter,
    skip_zero: bool,
    readback_blocks: int,
    dice: Dice,
) -> RestoreResult:
    """Write an image, or with target None open and verify all of it.

    skip_zero: the target is known to hold zeroes. Onto a target the first error ends it:
    Damaged, DeviceFault, a store's. Into nothing every damaged object is collected and
    only an unreachable store ends it. However it ends, no thread uses the target any more.
    """
    _check(image, target)
    restore = Writing(image, reader=reader, workers=workers, target=target, meter=meter, skip_zero=skip_zero)
    before, started = meter.read(), stopwatch()
    sample = _sample(image, readback_blocks if target is not None else 0, dice)
    async with workers.one_disk():
        await restore.run(sample)
    seconds = {"copy": stopwatch() - started}
    if target is not None:
        started = stopwatch()
        await workers.blocking(target.flush)
        seconds["flush"] = stopwatch() - started
        started = stopwatch()
        await restore.read_back(sample)
        seconds["readback"] = stopwatch() - started
    return _result(restore.damage, len(sample), seconds, before, meter.read())


def _result(
    damage: dict[str, Damage],
    read_back: int,
    seconds: dict[str, float],
    before: dict[str, Count],
    after: dict[str, Count],
) -> RestoreResult:
    done = partial(grown, before=before, after=after)
    return RestoreResult(
        bytes_written=done("written").size_bytes,
        bytes_zero=done("zero").size_bytes,
        bytes_fetched=done("fetched").size_bytes,
        blocks_verified=done("opened").items,
        blocks_read_back=read_back,
        damage=tuple(damage.values()),
        seconds=seconds,
    )


def _check(image: DiskImage, target: WritableDevice | None) -> None:
    if target is not None and target.size_bytes < image.size_bytes:
        raise DeviceRefused(
            f"{target.name} has {target.size_bytes} bytes, the image {image.size_bytes}",
            remedy="Restore to a disk of at least the image's size.",
        )


def _sample(image: DiskImage, blocks: int, dice: Dice) -> dict[int, bytes]:
    """Block numbers to read back; their ids are filled in on the way."""
    chosen = dice.sample(range(image.block_count), min(blocks, image.block_count))
    return dict.fromkeys(sorted(chosen), b"")
