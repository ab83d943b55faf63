"""Plugged disks are what they claim, show themselves as AHV disks do, and stand again after a kill."""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mover.errors import LabError
from mover.lab import identity, loops
from mover.lab.hotplug import Hotplug, PlugFaults
from tests.support.hotplugs import KINDS, MIB, OTHER, SIZE, UUID, Bus, buses, read


@pytest.fixture
def make_bus(tmp_path: Path) -> Iterator[Callable[[bool], Bus]]:
    with buses(tmp_path) as make:
        yield make


@pytest.fixture(params=KINDS)
def bus(request: pytest.FixtureRequest, make_bus: Callable[[bool], Bus]) -> Bus:
    return make_bus(request.param)


def test_device_has_the_disks_bytes_and_takes_writes(bus: Bus) -> None:
    name = bus.plug()
    assert bus.read(name, MIB, MIB) == bus.wanted(MIB, MIB)
    page = mmap.mmap(-1, 4096)
    page.write(b"written".ljust(4096, b"!"))
    descriptor = os.open(bus.node(name), os.O_RDWR | os.O_DIRECT)
    os.pwritev(descriptor, [page], 8192)
    os.close(descriptor)
    assert bus.wanted(8192, 7) == b"written"


def test_sysfs_looks_like_the_kernels(bus: Bus) -> None:
    name = bus.plug()
    facts = {fact: bus.sysfs(name, fact) for fact in ("size", "ro", "dev", "queue/logical_block_size", "device/vendor")}
    real = os.stat(bus.node(name))
    device = f"{os.major(real.st_rdev)}:{os.minor(real.st_rdev)}" if bus.use_loop else "0:0"
    sector = "4096" if bus.use_loop and bus.bank.has_reflink else "512"
    assert facts == {
        "size": str(SIZE // 512),
        "ro": "0",
        "dev": device,
        "queue/logical_block_size": sector,
        "device/vendor": "NUTANIX",
    }
    assert bus.sysfs(name, "device/model") == "VDISK"
    assert int(bus.sysfs(name, "diskseq")) > 0
    assert os.listdir(bus.hotplug.root / "sys/block" / name / "holders") == []
    assert (bus.hotplug.root / "sys/block" / name / "device").resolve().name == "2:0:3:0"
    assert (bus.hotplug.root / "proc/self/mountinfo").read_text() == ""


@pytest.mark.parametrize(("spelling", "mark"), [("underscore", "_"), ("dash", "-"), ("colon", ":")])
def test_vpd_pages_are_binary_and_carry_the_uuid(bus: Bus, spelling: str, mark: str) -> None:
    name = bus.plug(spelling=spelling)
    device = bus.hotplug.root / "sys/block" / name / "device"
    page80, page83 = (device / "vpd_pg80").read_bytes(), (device / "vpd_pg83").read_bytes()
    assert page80[:2] == b"\0\x80"
    assert struct.unpack(">H", page80[2:4])[0] == len(page80) - 4
    serial = page80[4:].decode()
    assert serial.startswith("NFS_")
    assert serial.endswith("_" + UUID.replace("-", mark))
    assert page83[:2] == b"\0\x83"
    assert struct.unpack(">H", page83[2:4])[0] == len(page83) - 4
    assert b"NUTANIX " + serial.encode() in page83
    assert page83[-16:].hex().startswith("6506b8d")
    assert (device / "wwid").read_text() == f"naa.{page83[-16:].hex()}\n"


def test_links_by_id_lead_to_the_node(bus: Bus) -> None:
    name = bus.plug()
    links = bus.hotplug.root / "dev/disk/by-id"
    told = [link for link in links.iterdir() if UUID.replace("-", "_") in link.name]
    assert {link.name.split("NFS")[0] for link in told} == {"scsi-SNUTANIX_VDISK_", "scsi-1NUTANIX_"}
    assert {link.readlink().as_posix() for link in links.iterdir()} == {f"../../{name}"}
    assert any(link.name.startswith("wwn-0x6506b8d") for link in links.iterdir())


def test_letters_do_not_follow_the_slots(bus: Bus) -> None:
    names = [bus.plug(f"{index}{UUID[1:]}", slot_index=index) for index in range(1, 5)]
    assert len(set(names)) == 4
    assert names != sorted(names)
    assert "sda" not in names


def test_unplug_takes_everything_away(bus: Bus) -> None:
    name = bus.plug()
    bus.hotplug.unplug(UUID)
    bus.hotplug.unplug(UUID)
    assert bus.shown() == set()
    assert not os.path.lexists(bus.node(name))
    assert os.listdir(bus.hotplug.root / "dev/disk/by-id") == []
    assert bus.bank.path(UUID).stat().st_size == SIZE


def test_deleted_disk_fails_under_its_reader(bus: Bus) -> None:
    descriptor = os.open(bus.node(bus.plug()), os.O_RDONLY | os.O_DIRECT)
    try:
        assert read(descriptor, 0, 4096)
        bus.hotplug.unplug(UUID)
        bus.bank.drop(bus.bank.path(UUID))
        if bus.use_loop:
            with pytest.raises(OSError, match="Input/output error"):
                read(descriptor, MIB, 4096)
        else:
            assert read(descriptor, MIB, 4096) == b""
    finally:
        os.close(descriptor)


def test_late_device_appears_by_itself_and_on_demand(bus: Bus) -> None:
    name = bus.plug(late_s=1e6)
    assert bus.shown() == set()
    bus.hotplug.appear(UUID)
    bus.hotplug.appear(UUID)
    assert bus.shown() == {name}
    appeared = threading.Event()
    real, bus.hotplug.appear = bus.hotplug.appear, lambda uuid: (real(uuid), appeared.set())  # type: ignore[method-assign]
    bus.plug(OTHER, late_s=0.01)
    assert appeared.wait(10)
    assert len(bus.shown()) == 2


def test_device_that_never_appears(bus: Bus) -> None:
    bus.plug(never=True)
    assert bus.shown() == set()
    bus.hotplug.unplug(UUID)
    assert bus.hotplug.plugs() == {}


def test_wrong_serial_nowhere_shows_the_right_one(bus: Bus) -> None:
    name = bus.plug(wrong_serial=True)
    device = bus.hotplug.root / "sys/block" / name / "device"
    said = b"".join((device / fact).read_bytes() for fact in ("vpd_pg80", "vpd_pg83", "wwid"))
    assert UUID.replace("-", "_").encode() not in said
    assert not [link for link in os.listdir(bus.hotplug.root / "dev/disk/by-id") if UUID.replace("-", "_") in link]


def test_wrong_size_is_the_devices_real_size(bus: Bus) -> None:
    name = bus.plug(missing_bytes=MIB)
    assert int(bus.sysfs(name, "size")) * 512 == SIZE - MIB
    descriptor = os.open(bus.node(name), os.O_RDONLY)
    assert os.lseek(descriptor, 0, os.SEEK_END) == SIZE - MIB
    os.close(descriptor)
    assert bus.wanted(0, SIZE) == bus.bank.path(UUID).read_bytes()


def test_decoy_has_the_size_but_not_the_serial_and_notices_a_write(bus: Bus) -> None:
    name = bus.plug(decoy=True)
    [decoy] = bus.shown() - {name}
    assert bus.sysfs(decoy, "size") == bus.sysfs(name, "size")
    assert bus.sysfs(decoy, "device/wwid") != bus.sysfs(name, "device/wwid")
    assert bus.read(decoy, 0, 4096).startswith(b"DECOY ")
    assert bus.hotplug.decoy_untouched(UUID)
    descriptor = os.open(bus.node(decoy), os.O_RDWR | os.O_DIRECT)
    os.pwritev(descriptor, [mmap.mmap(-1, 4096)], 4096)
    os.close(descriptor)
    assert not bus.hotplug.decoy_untouched(UUID)
    bus.hotplug.unplug(UUID)
    assert bus.shown() == set()


def test_grown_disk_is_seen_by_the_device(bus: Bus) -> None:
    name = bus.plug()
    bus.bank.grow(UUID, 2 * SIZE)
    bus.hotplug.resized(UUID)
    assert int(bus.sysfs(name, "size")) * 512 == 2 * SIZE
    assert bus.read(name, SIZE, 4096) == bytes(4096)


def test_restart_shows_the_same_devices(bus: Bus) -> None:
    names = {bus.plug(), bus.plug(OTHER, slot_index=4, decoy=True)} | bus.shown()
    bus.stop()
    assert bus.shown() == set()
    bus.start()
    assert bus.shown() == names
    assert bus.hotplug.decoy_untouched(OTHER)
    again = bus.hotplug.plugs()[UUID]
    assert bus.read(again.name, 0, 4096) == bus.wanted(0, 4096)


def test_same_vmdisk_twice_is_refused(bus: Bus) -> None:
    bus.plug()
    with pytest.raises(LabError, match="plugged already"):
        bus.hotplug.plug(bus.bank.path(UUID), vmdisk_uuid=UUID, slot_index=9)
    assert len(bus.shown()) == 1


def test_node_says_who_it_is(bus: Bus) -> None:
    bus.hotplug.set_node(product_uuid=UUID, mac_addresses=["50:6B:8D:00:00:01", "50:6b:8d:00:00:02"])
    root = bus.hotplug.root
    assert (root / "sys/class/dmi/id/product_uuid").read_text() == UUID.upper() + "\n"
    assert (root / "sys/class/net/eth0/address").read_text() == "50:6b:8d:00:00:01\n"


def test_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match="no such device fault: lates") as caught:
        PlugFaults.of({"lates": 1})
    assert "late_s" in caught.value.remedy


@pytest.mark.parametrize("loss", ["not noted", "no node", "no sysfs", "noted only"])
def test_a_kill_between_two_steps_is_made_good(bus: Bus, loss: str) -> None:
    name = bus.plug()
    plug = bus.hotplug.plugs()[UUID]
    state = bus.hotplug.root / ".hotplug.json"
    known = json.loads(state.read_text())
    if loss == "not noted":
        known["plugs"][0]["is_shown"] = False
    elif loss == "no node":
        bus.node(name).unlink()
    elif loss == "no sysfs":
        identity.hide(bus.hotplug.root, name)
    else:
        known["plugs"][0]["loop_number"] = None
    state.write_text(json.dumps(known))
    again = Hotplug(bus.folder / "kernel", bus.bank, seed=7, use_loop=bus.use_loop)
    assert bus.shown() == {name}
    assert bus.read(name, 0, 4096) == bus.wanted(0, 4096)
    again.close()
    assert plug.loop_number is None or loops.backing_of(plug.loop_number) is None
