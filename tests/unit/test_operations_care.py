"""What a backup does against slow lies and old damage: the rolling slice, and the base that needs marked packs."""

from __future__ import annotations

import dataclasses

import pytest

from mover.errors import Damaged
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.operations.node import ReadingNode
from mover.operations.repair import repair_repository
from mover.operations.verify import verify_point
from mover.repository import layout
from tests.support.repositories import flip, names
from tests.support.world import BLOCK, world

DAY = 86400.0
BLOCKS = 18


def reading(w):
    return ReadingNode(w.node.settings, w.clock, w.node.repository, w.node.workers)


async def image_of(w, report, disk=0):
    return (await w.node.repository.load(report["point"])).disks[disk]


def hide_changes(w):
    """From now on the cluster says that nothing changed."""
    answer = w.hypervisor.changed_regions

    async def silent(path, base_path, *, size_bytes):
        told = await answer(path, base_path, size_bytes=size_bytes)
        return told if base_path is None else dataclasses.replace(told, regions=Regions.of([], size_bytes=size_bytes))

    w.hypervisor.changed_regions = silent


async def test_the_slice_moves_on_from_point_to_point_and_through_fulls(tmp_path):
    async with world(tmp_path, data__compare_within="18d", data__audit_blocks=0) as w:
        vm = w.hypervisor.add_vm("web", [BLOCKS * BLOCK])
        first = await w.backup(vm)
        begun = (await image_of(w, first)).slice_place
        assert (begun.offset_bytes, begun.paid_until) == (0, w.clock.now())
        places, read = [], []
        for wishes in ({}, {}, {"keep_base": False}, {}, {"full": True}, {}):
            w.clock.elapsed += 2 * DAY
            image = await image_of(w, await w.backup(vm, **wishes))
            places.append(image.slice_place.offset_bytes // BLOCK)
            read.append(image.bytes_read // BLOCK)
            assert image.slice_place.paid_until == pytest.approx(w.clock.now())
            assert "wrong" not in image.reason
        assert places == [2, 4, 6, 8, 10, 12]
        assert read[:4] == [2, 2, 2, 2], "two blocks of eighteen for two days of eighteen"


@pytest.mark.parametrize("hidden", [0, 11, BLOCKS - 1])
async def test_a_change_that_the_cluster_hid_is_found_within_the_time(tmp_path, hidden):
    async with world(tmp_path, data__compare_within="18d", data__audit_blocks=0) as w:
        vm = w.hypervisor.add_vm("web", [BLOCKS * BLOCK])
        await w.backup(vm)
        hide_changes(w)
        w.hypervisor.write(vm, "scsi.0", hidden * BLOCK + 5, b"never told")
        for _ in range(19):
            w.clock.elapsed += DAY
            report = await w.backup(vm)
            image = await image_of(w, report)
            if image.mode is ReadMode.FULL:
                break
        assert "the changed regions were wrong" in image.reason
        assert await w.disk_bytes(report) == w.hypervisor.bytes_of(vm, "scsi.0")
        assert image.slice_place.paid_until == w.clock.now(), "all was read: nothing is owed"
        w.assert_only_base()


async def test_after_a_long_gap_half_of_the_disk_is_compared_and_the_report_says_so(tmp_path):
    async with world(tmp_path, data__compare_within="18d", data__audit_blocks=0) as w:
        vm = w.hypervisor.add_vm("web", [BLOCKS * BLOCK])
        await w.backup(vm)
        w.clock.elapsed += 300 * DAY
        half = await image_of(w, await w.backup(vm))
        assert half.bytes_read == BLOCKS // 2 * BLOCK
        assert half.reason.endswith(", 50% of the disk compared after 18 days")
        rest = await image_of(w, await w.backup(vm))
        assert (rest.bytes_read, rest.slice_place.offset_bytes) == (BLOCKS // 2 * BLOCK, 0)


async def test_switched_off_only_samples_are_compared(tmp_path):
    async with world(tmp_path, data__compare_within=0, data__audit_blocks=0) as w:
        vm = w.hypervisor.add_vm("web", [BLOCKS * BLOCK])
        await w.backup(vm)
        w.clock.elapsed += 300 * DAY
        image = await image_of(w, await w.backup(vm))
        assert (image.bytes_read, image.slice_place) == (0, None)


async def test_a_damaged_pack_is_named_marked_and_healed_by_the_next_backup(tmp_path):
    async with world(tmp_path) as w:
        vm = w.hypervisor.add_vm("web", [6 * BLOCK, 3 * BLOCK], seed=3)
        first = await w.backup(vm)
        held = [w.hypervisor.bytes_of(vm, slot) for slot in ("scsi.0", "scsi.1")]
        pack = max(names(w.store.inner, "packs/"), key=lambda name: len(w.store.inner._objects[name].data))
        flip(w.store.inner, pack, 200)
        with pytest.raises(Damaged, match=pack) as caught:
            await verify_point(reading(w), first["point"])
        assert "mover repair" in caught.value.remedy
        assert caught.value.facts["objects"] == [pack]

        assert (await repair_repository(reading(w), None, read_data=False))["damaged"] == []
        report = await repair_repository(reading(w), "web", read_data=True)
        assert [one["object"] for one in report["damaged"]] == report["marked"] == [pack]
        assert [one["point"] for one in report["leaning"]] == [first["point"]]

        w.clock.elapsed += 60
        second = await w.backup(vm)
        leaning = report["leaning"][0]["disks"]
        assert leaning
        for row in second["disks"]:
            wanted = ("full", "the base needs packs that are damaged") if row["disk"] in leaning else ("incremental",)
            assert (row["mode"], row["reason"])[: len(wanted)] == wanted
        for made in (first, second):
            assert (await verify_point(reading(w), made["point"]))["verified"]
            assert [await w.disk_bytes(made, slot) for slot in ("scsi.0", "scsi.1")] == held
        assert (await repair_repository(reading(w), None, read_data=False))["leaning"] == []
        assert pack in names(w.store.inner)
        w.clock.elapsed += 60
        assert {row["mode"] for row in (await w.backup(vm))["disks"]} == {"incremental"}


async def test_what_is_not_met_again_stays_named(tmp_path):
    """The damaged block was overwritten on the disk: the old point cannot come back, later ones are whole."""
    async with world(tmp_path) as w:
        vm = w.hypervisor.add_vm("web", [2 * BLOCK])
        first = await w.backup(vm)
        (pack,) = [name for name in names(w.store.inner, "packs/") if layout.pack_id_of(name)][:1]
        flip(w.store.inner, pack, 200)
        w.hypervisor.write(vm, "scsi.0", 0, bytes(range(256)) * (2 * BLOCK // 256))
        await repair_repository(reading(w), None, read_data=True)
        w.clock.elapsed += 60
        second = await w.backup(vm)
        assert (await verify_point(reading(w), second["point"]))["verified"]
        with pytest.raises(Damaged, match=pack):
            await verify_point(reading(w), first["point"])
        leaning = (await repair_repository(reading(w), None, read_data=False))["leaning"]
        assert [one["point"] for one in leaning] == [first["point"]]
