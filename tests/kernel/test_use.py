"""A real kernel holds others off what is open, tells of what is in use, and of disks that come and go."""

from __future__ import annotations

import errno
import re

import pytest

from tests.kernel.disks import (
    MIB,
    NOTHING,
    OTHER,
    OURS,
    SIZE,
    content,
    ext4,
    locate,
    named,
    raw,
    read,
    refusal,
    serial,
    wait_for_disks,
)
from tests.support.qemu import ANNOUNCING, SILENT, needs_qemu
from tests.support.watching import until

pytestmark = [*needs_qemu, pytest.mark.timeout(300)]


# --- whose it is ----------------------------------------------------------------------


def test_nobody_writes_to_a_source_while_it_is_open(vm, tmp_path):
    file = raw(tmp_path)
    before = file.read_bytes()
    vm.plug(file, name="ours", slot=3, **named(OURS))
    name = wait_for_disks(vm)[0]["name"]
    assert vm.ask("open_as_stranger", name=name, writable=True) == ""
    found = locate(vm)
    assert found["is_read_only"]
    assert vm.ask("write_as_stranger", name=name) == "EPERM"
    vm.ask("close_as_stranger", name=name)
    # Older kernels let it be opened for writing, and refuse the write.
    if vm.ask("open_as_stranger", name=name, writable=True) == "":
        assert vm.ask("write_as_stranger", name=name) == "EPERM"
        vm.ask("close_as_stranger", name=name)
    assert file.read_bytes() == before
    vm.ask("close", device=found["device"])
    assert vm.ask("open_as_stranger", name=name, writable=True) == ""
    assert vm.ask("write_as_stranger", name=name) == ""


def test_a_source_that_the_cluster_made_read_only_stays_so(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, read_only=True, **named(OURS))
    found = locate(vm)
    assert read(vm, found, 0) == content("ours", 0)
    vm.ask("close", device=found["device"])
    assert vm.ask("open_as_stranger", name=found["name"], writable=True) == "EROFS"
    assert refusal(vm, writable=True).facts["reason"] == "read-only"


def test_a_target_is_written_through_to_the_disk(vm, tmp_path):
    file = tmp_path / "target.raw"
    with file.open("wb") as disk:
        disk.truncate(SIZE)
    vm.plug(file, name="target", slot=3, **named(OURS))
    found = locate(vm, writable=True)
    assert not found["is_read_only"]
    vm.ask("write", device=found["device"], offset_bytes=SIZE // 2, content=content("new", 0).hex())
    assert file.read_bytes()[SIZE // 2 :][:4096] == content("new", 0)
    vm.ask("release", device=found["device"])
    assert vm.ask("left") == NOTHING


def test_a_target_with_data_is_refused(vm, tmp_path):
    file = raw(tmp_path)
    before = file.read_bytes()
    vm.plug(file, name="ours", slot=3, **named(OURS))
    assert refusal(vm, writable=True).facts["reason"] == "not-empty"
    assert file.read_bytes() == before


def test_what_is_open_nobody_mounts_or_takes(vm, tmp_path):
    vm.plug(ext4(tmp_path), name="ours", slot=3, **named(OURS))
    found = locate(vm)
    assert vm.ask("mount", name=found["name"]) == "EBUSY"
    assert vm.ask("open_as_stranger", name=found["name"], writable=False, exclusive=True) == "EBUSY"


@pytest.mark.parametrize("is_partition", [False, True], ids=["disk", "partition"])
def test_what_is_mounted_is_not_taken(vm, tmp_path, is_partition):
    vm.plug(ext4(tmp_path, is_partition=is_partition), name="ours", slot=3, **named(OURS))
    name = wait_for_disks(vm)[0]["name"] + ("1" if is_partition else "")
    assert vm.ask("mount", name=name) == ""
    refused = refusal(vm)
    vm.ask("unmount")
    assert refused.kind == "DeviceBusy"
    assert f"/dev/{name} is mounted on /mnt" in refused.message
    assert locate(vm)["size_bytes"] == SIZE


@pytest.mark.parametrize("is_partition", [False, True], ids=["disk", "partition"])
def test_what_is_mounted_where_we_cannot_see_it_is_not_taken(vm, tmp_path, is_partition):
    vm.plug(ext4(tmp_path, is_partition=is_partition), name="ours", slot=3, **named(OURS))
    name = wait_for_disks(vm)[0]["name"] + ("1" if is_partition else "")
    process = vm.ask("mount_out_of_sight", name=name)
    refused = refusal(vm)
    vm.ask("end_process", process=process)
    assert refused.kind == "DeviceBusy"
    assert "held exclusively" in refused.message
    assert locate(vm)["size_bytes"] == SIZE


def test_what_the_device_mapper_took_is_not_ours(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, **named(OURS))
    (disk,) = wait_for_disks(vm)
    vm.ask("map", number=disk["number"], size_bytes=SIZE)
    refused = refusal(vm)
    vm.ask("unmap")
    assert refused.kind == "DeviceBusy"
    assert re.search(rf"dm-\d+ holds {disk['name']}", refused.message)
    assert locate(vm)["size_bytes"] == SIZE


def test_a_process_without_rights_may_ask_an_open_disk(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, **named(OURS))
    found = locate(vm)
    said = vm.ask("ask_without_rights", device=found["device"])
    assert said == vm.ask("disks")[found["name"]]["identity"]["kernel"][: len(said)]
    assert serial(OURS) in said


# --- coming and going -----------------------------------------------------------------


def test_what_is_released_leaves_nothing_and_its_slot_is_free(vm, tmp_path):
    for turn, uuid in enumerate((OURS, OTHER)):
        vm.plug(raw(tmp_path, f"turn{turn}"), name=f"turn{turn}", slot=3, **named(uuid))
        found = locate(vm, uuid)
        assert read(vm, found, 0) == content(f"turn{turn}", 0)
        vm.ask("release", device=found["device"])
        assert vm.ask("left") == NOTHING
        vm.unplug(f"turn{turn}")
        assert vm.ask("left") == NOTHING


def test_a_disk_that_was_not_announced_is_found_by_looking_again(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, adapter=SILENT, **named(OURS))
    assert refusal(vm, timeout_s=2).kind == "DeviceAbsent"
    found = locate(vm)
    assert read(vm, found, 0) == content("ours", 0)
    vm.ask("release", device=found["device"])
    assert vm.ask("left") == NOTHING


@pytest.mark.parametrize(("adapter", "numbers"), [(ANNOUNCING, {errno.ENODEV, errno.ENXIO}), (SILENT, {errno.EIO})])
def test_a_disk_pulled_while_it_is_read_is_a_fault_with_its_place(vm, tmp_path, adapter, numbers):
    vm.plug(raw(tmp_path), name="ours", slot=3, adapter=adapter, **named(OURS))
    if adapter == SILENT:
        vm.ask("scan", slot=3)
    found = locate(vm)
    vm.ask("begin_reading", device=found["device"])
    vm.unplug("ours")
    fault = vm.ask("end_of_reading")
    assert (fault["operation"], fault["length_bytes"], fault["offset_bytes"] % MIB) == ("reading", MIB, 0)
    assert fault["errno"] in numbers
    assert ("went away" in fault["remedy"]) == (adapter == ANNOUNCING)
    vm.ask("release", device=found["device"])
    until(lambda: vm.ask("left") == NOTHING, what="the guest to forget the disk")


def test_a_disk_exchanged_unannounced_is_not_taken_for_the_former_one(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, adapter=SILENT, **named(OURS))
    vm.ask("scan", slot=3)
    vm.ask("close", device=locate(vm)["device"])
    vm.unplug("ours")
    file = raw(tmp_path, "other")
    vm.plug(file, name="other", slot=3, adapter=SILENT, **named(OTHER))
    (stale,) = wait_for_disks(vm)
    assert serial(OURS) in stale["identity"]["kernel"]
    refused = refusal(vm)
    assert refused.facts["reason"] == "changed"
    assert f"it answers that it is {serial(OTHER)}" in refused.message
    # Whoever looks for the other one finds it once the kernel has asked again.
    assert read(vm, locate(vm, OTHER), 0) == content("other", 0)


def test_a_disk_that_grew_has_another_size(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, **named(OURS))
    vm.ask("close", device=locate(vm)["device"])
    vm.resize("ours", 2 * SIZE)
    while wait_for_disks(vm)[0]["size_bytes"] == SIZE:
        pass
    assert refusal(vm).facts["seen_bytes"] == 2 * SIZE
    assert locate(vm, size_bytes=2 * SIZE)["size_bytes"] == 2 * SIZE
