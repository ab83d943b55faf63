"""What a real kernel shows of hot-plugged SCSI disks, and what ``mover.device`` makes of it."""

from __future__ import annotations

import errno
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.lab import identity
from tests.support.qemu import ANNOUNCING, MAC, SILENT, UUID, GuestRefused, Machine, machine, needs_qemu

pytestmark = [*needs_qemu, pytest.mark.timeout(300)]

OURS = "7c174117-320b-480f-ac05-b0f622127511"
OTHER = "b29f577f-1354-4c4a-ae12-f3809dea44cf"
MIB = 1 << 20
SIZE = 8 * MIB
NOTHING = {"disks": [], "scsi": [], "nodes": [], "open": [], "held": 0}


@pytest.fixture(scope="module")
def booted(tmp_path_factory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine"), program="tests.kernel.agent") as running:
        yield running


@pytest.fixture
def vm(booted: Machine) -> Iterator[Machine]:
    yield booted
    booted.unplug_all()
    assert booted.ask("forget_all") == NOTHING


def raw(folder: Path, name: str = "ours", size_bytes: int = SIZE) -> Path:
    """A disk whose blocks of 4 KiB tell disk and place, near both ends and in the middle."""
    file = folder / f"{name}.raw"
    with file.open("wb") as disk:
        disk.truncate(size_bytes)
        for offset in (0, size_bytes // 2, size_bytes - 4096):
            disk.seek(offset)
            disk.write(content(name, offset))
    return file


def content(name: str, offset: int) -> bytes:
    return f"{name}@{offset};".encode().ljust(32, b".") * 128


def serial(vmdisk_uuid: str, separator: str = "_") -> str:
    return vmdisk_uuid.replace("-", separator)


def named(vmdisk_uuid: str) -> dict[str, Any]:
    """As a Nutanix disk does it; QEMU has 36 letters for page 0x80, so the prefix stands in page 0x83 alone."""
    naa = int(identity.Identity.of(vmdisk_uuid).naa[:16], 16)
    nfs = f"NUTANIX NFS_4_0_289_{serial(vmdisk_uuid)}"
    return {"serial": serial(vmdisk_uuid), "device_id": nfs, "wwn": naa, "port_wwn": 0x5000C50000000001}


def locate(vm: Machine, vmdisk_uuid: str = OURS, *, slot: int = 3, size_bytes: int = SIZE, **how: Any) -> Any:
    return vm.ask("locate", vmdisk_uuid=vmdisk_uuid, size_bytes=size_bytes, slot=slot, **how)


def refusal(vm: Machine, vmdisk_uuid: str = OURS, **how: Any) -> GuestRefused:
    with pytest.raises(GuestRefused) as refused:
        locate(vm, vmdisk_uuid, **how)
    return refused.value


def read(vm: Machine, found: dict[str, Any], offset: int, length: int = 4096) -> bytes:
    return bytes.fromhex(vm.ask("read", device=found["device"], offset_bytes=offset, length_bytes=length))


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
    refused = refusal(vm, timeout_s=2, writable=True)
    assert refused.kind == "DeviceAbsent"
    assert serial(OTHER) in refused.message
    (disk,) = vm.ask("disks").values()
    assert bytes.fromhex(disk["files"]["ro"]) == b"0\n"
    assert file.read_bytes() == before


def test_what_disks_of_one_target_share_is_no_proof(vm, tmp_path):
    vm.plug(raw(tmp_path), name="ours", slot=3, wwn=0x6506B8D000000001, port_wwn=0x5000C50000000001)
    assert refusal(vm, timeout_s=2).kind == "DeviceAbsent"
    (disk,) = vm.ask("disks").values()
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


def wait_for_disks(vm: Machine, count: int = 1) -> list[dict[str, Any]]:
    """All there are, once they are completely described."""
    while len(disks := vm.ask("disks")) < count:
        pass
    return list(disks.values())


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
    assert refusal(vm, writable=True).facts["reason"] == "rights"


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


def ext4(folder: Path, *, is_partition: bool = False) -> Path:
    """A disk that is one file system, or has it in its first partition, at 1 MiB."""
    system, file = folder / "ext4", folder / "ours.raw"
    start = MIB if is_partition else 0
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    with system.open("wb") as disk:
        disk.truncate(SIZE - start)
    subprocess.run([mkfs, "-q", "-O", "^has_journal", system], check=True, timeout=30)
    table = bytes(446) + struct.pack("<B3sB3sII", 0, b"", 0x83, b"", start // 512, (SIZE - start) // 512)
    with file.open("wb") as disk:
        disk.write((table + bytes(48) + b"\x55\xaa").ljust(start, b"\0") if is_partition else b"")
        disk.write(system.read_bytes())
    return file


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
    assert vm.ask("left") == NOTHING


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
