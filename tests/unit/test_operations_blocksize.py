"""``data.block_size: auto`` in backups: each disk gets its own, once, says why, and comes back bit by bit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.operations.report import classes_of_full
from mover.settings import load
from mover.units import KIB, MIB
from tests.support.world import world

DAY = 86400.0
DISK = 7 * MIB
FIRST = 512 * KIB
AUTO = {
    "data__block_size": "auto",
    "data__audit_blocks": 0,
    "data__compare_within": 0,
    "data__budget": 64 * MIB,
    "data__read_size": MIB,
}


class Life:
    """A VM with a disk that changes as told, backed up once a day."""

    def __init__(self, w, disks=1):
        self.w, self.day = w, 0
        self.vm = w.hypervisor.add_vm("web", [DISK] * disks, seed=1)

    async def image(self, report, disk=0):
        return (await self.w.node.repository.load(report["point"])).disks[disk]

    async def backup(self, *, pages=(), run=None, **wishes):
        """The disk's image, after writes of 8 KiB at these MiB, or of one run of so many bytes."""
        self.day += 1
        self.w.clock.elapsed += DAY
        for page in pages:
            self.write(page * MIB + self.day % 64 * 8 * KIB, 8 * KIB)
        if run:
            self.write(0, run)
        self.last = await self.w.backup(self.vm, **wishes)
        return await self.image(self.last)

    def write(self, offset, length, slot="scsi.0"):
        self.w.hypervisor.write(self.vm, slot, offset, bytes([self.day]) * length)

    async def assert_restores(self, *slots):
        for slot in slots or ("scsi.0",):
            assert await self.w.disk_bytes(self.last, slot) == self.w.hypervisor.bytes_of(self.vm, slot)


def set_size(w, size):
    """As if the settings said so from now on."""
    told = load(environment={}, flags={"data.block_size": size}).data.block_size
    data = w.node.settings.data.model_copy(update={"block_size": told})
    w.node = replace(w.node, settings=w.node.settings.model_copy(update={"data": data}))


def hide_changes(w):
    """From now on the cluster says that nothing changed."""
    answer = w.hypervisor.changed_regions

    async def silent(path, base_path, *, size_bytes):
        told = await answer(path, base_path, size_bytes=size_bytes)
        return told if base_path is None else replace(told, regions=Regions.of([], size_bytes=size_bytes))

    w.hypervisor.changed_regions = silent


@pytest.fixture
async def life(tmp_path):
    async with world(tmp_path, **AUTO) as w:
        yield Life(w)


async def test_a_disk_begins_with_the_usual_size_and_changes_it_once(life):
    sizes, images = [], []
    for _ in range(12):
        images.append(await life.backup(pages=(1, 3, 5)))
        sizes.append(images[-1].block_bytes)
    assert sizes == [FIRST] * 8 + [256 * KIB] * 4
    switch = images[8]
    assert switch.mode is ReadMode.FULL
    assert switch.reason.startswith("block size 256 KiB instead of 512 KiB: ")
    assert [name for name, holds in classes_of_full([switch]).items() if holds] == ["block-size"]
    assert [image.mode for image in images[1:8] + images[9:]] == [ReadMode.INCREMENTAL] * 10
    assert (len(switch.touched.days), len(images[11].touched.days)) == (0, 3)
    assert images[7].bytes_read == 3 * FIRST
    assert images[11].bytes_read == 3 * 256 * KIB
    await life.assert_restores()
    # Another pattern: neither size is a fifth better, so it stays.
    later = [await life.backup(run=4 * MIB) for _ in range(8)]
    assert {(image.block_bytes, image.mode) for image in later} == {(256 * KIB, ReadMode.INCREMENTAL)}
    await life.assert_restores()


async def test_what_is_touched_is_what_was_read(life):
    full = await life.backup()
    image = await life.backup(pages=(0, 1, 2, 6))
    (day,) = image.touched.days
    node = 1024 * 32
    assert day.bytes_at == (MIB + node, 2 * MIB + node, 4 * MIB + node, 5 * MIB + node, 7 * MIB + node)
    assert (day.since, image.bytes_read) == (life.w.clock.now(), 4 * FIRST)
    assert image.touched.held_bytes == full.touched.held_bytes + 4 * 8 * KIB
    assert 0 < full.touched.held_bytes <= full.bytes_changed


async def test_a_disk_that_was_filled_since_its_full_is_not_taken_for_an_empty_one(life):
    life.w.hypervisor.write(life.vm, "scsi.0", 0, bytes(DISK))
    images = [await life.backup(), await life.backup(run=6 * MIB)]
    for number in range(9):
        life.w.clock.elapsed += 4 * DAY
        images.append(await life.backup(pages=(number % 7,)))
    # Were it empty still, one page in five days would have paid for its full.
    assert images[0].touched.held_bytes < MIB
    assert 6 * MIB <= images[-1].touched.held_bytes <= DISK
    assert {image.block_bytes for image in images} == {FIRST}


async def test_each_disk_has_its_own(tmp_path):
    async with world(tmp_path, **AUTO) as w:
        life = Life(w, disks=2)
        for _ in range(10):
            life.write(0, 2 * MIB, "scsi.1")
            await life.backup(pages=(1, 3, 5))
        sizes = [(await life.image(life.last, disk)).block_bytes for disk in (0, 1)]
        assert sizes == [256 * KIB, FIRST]
        await life.assert_restores("scsi.0", "scsi.1")


async def test_a_full_for_another_reason_takes_the_better_size_along(life):
    for _ in range(8):
        await life.backup(pages=(1, 3, 5))
    image = await life.backup(full=True)
    assert image.block_bytes == 256 * KIB
    assert image.reason.startswith("asked for, block size 256 KiB instead of 512 KiB")


async def test_a_run_that_leaves_no_base_changes_nothing(life):
    for _ in range(8):
        await life.backup(pages=(1, 3, 5))
    image = await life.backup(pages=(1, 3, 5), keep_base=False)
    assert (image.block_bytes, image.mode) == (FIRST, ReadMode.INCREMENTAL)
    image = await life.backup(pages=(1, 3, 5))
    assert (image.block_bytes, image.mode) == (256 * KIB, ReadMode.FULL)


async def test_a_point_in_between_that_lacks_the_disk_costs_nothing(tmp_path):
    async with world(tmp_path, **AUTO) as w:
        life = Life(w, disks=2)
        for _ in range(10):
            await life.backup(pages=(1, 3, 5))
        known = (await life.image(life.last)).touched
        await life.backup(keep_base=False, exclude=("scsi.0",))
        image = await life.backup()
        assert (image.block_bytes, image.mode) == (256 * KIB, ReadMode.INCREMENTAL)
        assert image.touched.days[:-1] == known.days
        await life.assert_restores("scsi.0", "scsi.1")


async def test_a_list_that_lied_is_no_evidence(tmp_path):
    async with world(tmp_path, **{**AUTO, "data__audit_blocks": 64}) as w:
        life = Life(w)
        await life.backup()
        before = (await life.backup(pages=(1,))).touched
        hide_changes(w)
        image = await life.backup(pages=(3, 5))
        assert (image.mode, image.touched) == (ReadMode.FULL, before)
        await life.assert_restores()


async def test_turned_on_later_it_goes_by_what_is_known_already(tmp_path):
    flags = {**AUTO, "data__block_size": "4MiB"}
    async with world(tmp_path, **flags) as w:
        life = Life(w)
        for _ in range(8):
            assert (await life.backup(pages=(1, 5))).block_bytes == 4 * MIB
        set_size(w, "auto")
        assert (await life.backup(pages=(1, 5))).block_bytes == 256 * KIB
        await life.assert_restores()


async def test_turned_off_the_setting_counts_again(tmp_path):
    async with world(tmp_path, data__block_size="512KiB", data__budget=64 * MIB) as w:
        life = Life(w)
        await life.backup()
        set_size(w, "2MiB")
        image = await life.backup()
        assert (image.mode, image.block_bytes, image.reason) == (ReadMode.FULL, 2 * MIB, "block size was 512 KiB")
