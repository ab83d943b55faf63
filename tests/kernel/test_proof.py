"""What a real kernel shows of hot-plugged SCSI disks, and which of them ``mover.device`` takes for ours."""

from __future__ import annotations

import re

import pytest

from mover.lab import identity
from tests.kernel.disks import (
    MIB,
    NOTHING,
    OTHER,
    OURS,
    SIZE,
    content,
    locate,
    named,
    raw,
    read,
    refusal,
    serial,
    wait_for_disks,
)
from tests.support.qemu import MAC, UUID, needs_qemu

pytestmark = [*needs_qemu, pytest.mark.timeout(300)]


# --- which disk -----------------------------------------------------------------------


def test_the_machine_knows_itself_by_firmware_and_nics(vm):
    assert vm.ask("machine") == [UUID, [MAC]]


@pytest.mark.parametrize(
    "says",
    [
        {"serial": serial(OURS, "_")},
        {"serial": serial(OURS, "-").upper()},
        {"serial": serial(OURS, ":")},
        {"device_id": f"NFS_4_0_289_{serial(OURS)}"},
        named(OURS),
    ],
    ids=["page 80, underscores", "page 80, dashes", "page 80, colons", "page 83 alone", "as AHV"],
)
def test_the_disk_that_says_so_is_found_beside_one_of_the_same_size(vm, tmp_path, says):
    vm.plug(raw(tmp_path, "decoy"), name="decoy", slot=4, **named(OTHER))
    vm.plug(raw(tmp_path), name="ours", slot=3, **says)
    found = locate(vm)
    for offset in (0, SIZE // 2, SIZE - 4096):
        assert read(vm, found, offset) == content("ours", offset)
    assert found["is_direct"]


def test_a_decoy_alone_is_left_alone_and_named(vm, tmp_path):
    file = raw(tmp_path, "decoy")
    before = file.read_bytes()
    vm.plug(file, name="decoy", slot=3, **named(OTHER))
    wait_for_disks(vm)
    refused = refusal(vm, timeout_s=2, writable=True)
    assert refused.kind == "DeviceAbsent"
    assert serial(OTHER) in refused.message
    (disk,) = vm.ask("disks").values()
    assert bytes.fromhex(disk["files"]["ro"]) == b"0\n"
    assert file.read_bytes() == before


def test_what_disks_of_one_target_share_is_no_proof(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, wwn=0x6506B8D000000001, port_wwn=0x5000C50000000001)
    (disk,) = wait_for_disks(vm)
    assert refusal(vm, timeout_s=2).kind == "DeviceAbsent"
    assert disk["identity"]["kernel"] == ["6506b8d000000001", "naa.6506b8d000000001"]


@pytest.mark.parametrize("seen", [SIZE - 4096, SIZE + MIB], ids=["smaller", "larger"])
def test_another_size_is_refused(vm, tmp_path, seen):
    vm.plug(raw(tmp_path, size_bytes=seen), name="ours", slot=3, **named(OURS))
    refused = refusal(vm)
    assert (refused.kind, refused.facts["reason"], refused.facts["seen_bytes"]) == ("DeviceRefused", "size", seen)


def test_two_disks_of_one_uuid_are_refused(vm, tmp_path):
    vm.plug(raw(tmp_path, "one"), name="one", slot=3, **named(OURS))
    vm.plug(raw(tmp_path, "two"), name="two", slot=4, **named(OURS))
    wait_for_disks(vm, 2)
    assert refusal(vm).facts["reason"] == "duplicate"


def test_a_disk_that_names_two_is_refused(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, **{**named(OTHER), "serial": serial(OURS)})
    assert refusal(vm).facts["reason"] == "contradiction"


def test_eight_disks_are_each_found(vm, tmp_path):
    uuids = {slot: f"{slot:08x}-320b-480f-ac05-b0f622127511" for slot in (9, 3, 200, 17, 5, 255, 64, 1)}
    for slot, uuid in uuids.items():
        vm.plug(raw(tmp_path, f"d{slot}"), name=f"d{slot}", slot=slot, **named(uuid))
    for slot, uuid in sorted(uuids.items()):
        found = locate(vm, uuid, slot=slot)
        assert read(vm, found, 0) == content(f"d{slot}", 0)
        assert vm.ask("disks")[found["name"]]["target"] == slot
        vm.ask("release", device=found["device"])
    assert vm.ask("left") == NOTHING


@pytest.mark.parametrize("sector", [512, 4096])
def test_sectors_are_the_disks_own(vm, tmp_path, sector):
    sizes = {"logical_block_size": sector, "physical_block_size": sector}
    vm.plug(raw(tmp_path), name="ours", slot=3, **named(OURS), **sizes)
    found = locate(vm)
    assert (found["sector_bytes"], found["size_bytes"]) == (sector, SIZE)
    assert read(vm, found, SIZE - sector, sector) == content("ours", SIZE - 4096)[-sector:]


# --- the slot, where the operator trusts it --------------------------------------------


@pytest.mark.parametrize(("slot", "lun"), [(1, 0), (255, 0), (7, 1)])
def test_a_target_is_a_slot_whatever_the_lun(vm, tmp_path, slot, lun):
    vm.ask("remember")
    vm.plug(raw(tmp_path), name="ours", slot=slot, lun=lun)
    assert read(vm, locate(vm, slot=slot, trust_slot=True), 0) == content("ours", 0)


def test_a_new_disk_in_another_slot_is_refused(vm, tmp_path):
    vm.ask("remember")
    vm.plug(raw(tmp_path), name="ours", slot=4)
    assert refusal(vm, slot=3, trust_slot=True).facts["reason"] == "slot"


def test_a_disk_that_was_there_before_is_not_new_until_it_is_plugged_again(vm, tmp_path):
    file = raw(tmp_path)
    vm.plug(file, name="ours", slot=3)
    (first,) = wait_for_disks(vm)
    vm.ask("remember")
    assert refusal(vm, trust_slot=True, timeout_s=2).kind == "DeviceAbsent"
    vm.unplug("ours")
    vm.plug(file, name="ours", slot=3)
    assert read(vm, locate(vm, trust_slot=True), 0) == content("ours", 0)
    (second,) = wait_for_disks(vm)
    assert (first["name"], first["number"]) == (second["name"], second["number"])
    assert first["sequence"] < second["sequence"]


# --- the lab's kernel and this one -------------------------------------------------------


def test_the_lab_shows_a_disk_as_the_kernel_does(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, **named(OURS))
    seen = {name: bytes.fromhex(value) for name, value in wait_for_disks(vm)[0]["files"].items()}
    facts = identity.BlockFacts(seen["dev"].decode().strip(), SIZE, 512, int(seen["diskseq"]), 3)
    identity.make_skeleton(tmp_path / "lab")
    identity.show(tmp_path / "lab", "sdb", identity.Identity.of(OURS), facts)
    folder = tmp_path / "lab/sys/block/sdb"
    lab = {name: (folder / name).read_bytes() for name in seen if name != "address"}
    lab["address"] = (folder / "device").resolve().name.encode()
    host = re.compile(rb"^\d+:")
    assert host.sub(b"", lab.pop("address")) == host.sub(b"", seen.pop("address"))
    # QEMU's NAA has 16 digits, its serial no room for a prefix, its page 0x83 another order.
    assert lab.pop("device/wwid")[:20] == seen.pop("device/wwid")[:20]
    assert lab.pop("device/vpd_pg80")[-36:] == seen.pop("device/vpd_pg80")[-36:]
    del lab["device/vpd_pg83"], seen["device/vpd_pg83"]
    assert lab == seen
