"""Devices and changed regions that are not what they should be: refused, or read in full; never a wrong byte."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from tests.support.commandline import MIB, Desk
from tests.support.commandline import desk as new_desk

DEVICE = 4


def same_as_frozen(desk: Desk, report: dict, folder) -> None:
    """Each disk of a point, restored to a file, is what its snapshot holds."""
    snapshot = desk.lab.snapshots(report["vm"])[-1]
    vm = desk.lab.vms[report["vm"]]
    for row in report["disks"]:
        target = folder / f"{report['point']}-{row['disk']}.raw"
        done = desk.run("restore", report["point"], "--disk", row["disk"], "--to-file", str(target))
        assert done.code == 0, done.err
        disk = next(disk for disk in vm.disks if disk.label == row["disk"])
        assert target.read_bytes() == desk.lab.frozen_path(snapshot.uuid, str(disk.vmdisk_uuid)).read_bytes()


@pytest.fixture
def point(desk):
    """One point of ``one``, and its base on the cluster."""
    report = desk.backed_up("one")
    desk.forget_cluster()
    return report["point"]


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (["device_never"], "device.absent"),
        (["device_wrong_serial"], "device.absent"),
        (["device_wrong_size"], "device.refused"),
        (["device_wrong_serial", "device_decoy"], "device.absent"),
    ],
    ids=["never", "wrong-serial", "wrong-size", "decoy"],
)
def test_a_device_that_is_not_proven_is_not_read(desk, point, faults, code):
    armed = [desk.lab.faults.arm(name, vm="proxy01", count=0) for name in faults]
    outcome = desk.run("backup", "one", "--full")
    assert all(fault.fired for fault in armed)
    assert (outcome.code, outcome.error_code) == (DEVICE, code), outcome.err
    assert outcome.remedy
    desk.lab.faults.disarm()
    desk.nothing_is_left()
    assert desk.points()[-1] == point
    desk.verified(point)


def test_a_decoy_of_the_same_size_stays_untouched(desk, tmp_path):
    seen = []
    unplug = desk.lab.hotplug.unplug

    def looking(uuid, *rest, **more):
        with suppress(KeyError):
            seen.append(desk.lab.hotplug.decoy_untouched(uuid))
        return unplug(uuid, *rest, **more)

    desk.lab.hotplug.unplug = looking
    try:
        with desk.fault("device_decoy", vm="proxy01"):
            report = desk.backed_up("one", "--full")
    finally:
        desk.lab.hotplug.unplug = unplug
    assert seen == [True]
    same_as_frozen(desk, report, tmp_path)


def test_a_device_that_comes_late_is_waited_for(desk):
    with desk.fault("device_late", vm="proxy01", args={"late_s": 0.4}):
        desk.backed_up("one", "--full")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="read errors need real devices")
def test_a_read_error_names_its_range(tmp_path, certificates):
    with new_desk(tmp_path, certificates, use_loop=True) as desk:
        with desk.fault("device_eio", vm="proxy01", count=0, args={"bad_ranges": [[2 * MIB, 4096]]}):
            desk.run("backup", "one").refuses(DEVICE, "device.io", f"bytes {2 * MIB} to {2 * MIB + 4095}")
        desk.nothing_is_left()
        assert desk.points() == []
        desk.backed_up("one")


def test_lvm_that_would_activate_the_disk(desk, point):
    lvm = desk.lab.device_root / "etc/lvm/lvm.conf"
    lvm.parent.mkdir(parents=True)
    lvm.write_text("devices {\n}\n")
    try:
        outcome = desk.run("backup", "one")
        assert "PROBLEM lvm" in desk.run("check").out
    finally:
        lvm.unlink()
        lvm.parent.rmdir()
    outcome.refuses(DEVICE, "device.guard", "lvm")
    desk.nothing_is_left()


LEGAL = {"regions_overlapping", "regions_unsorted", "regions_unaligned"}
HARMLESS = {"regions_beyond_end", "regions_looping", "regions_say_zero"}
"""May stay incremental: what they hide lies in blocks that are read whole."""
REGIONS = [
    *sorted(LEGAL),
    "regions_cut_short",
    "regions_text",
    "regions_beyond_end",
    "regions_negative",
    "regions_looping",
    "regions_omit",
    "regions_say_zero",
    "regions_wrong_size",
    "base_gone",
]


@pytest.mark.parametrize("name", REGIONS)
def test_no_list_of_changes_makes_a_wrong_point(desk, point, tmp_path, name):
    path = desk.lab.disk_path("one")
    with path.open("r+b") as disk:
        for offset in (MIB, 3 * MIB + 4096, 5 * MIB):
            disk.seek(offset)
            disk.write(os.urandom(3 * 4096))
    args = {"share": 1.0} if name in ("regions_omit", "regions_say_zero") else {}
    with desk.fault(name, operation="v3.data.changed_regions", vm="one", args=args):
        report = desk.backed_up("one")
    disk = report["disks"][0]
    if name in LEGAL:
        assert disk["mode"] == "incremental", disk["reason"]
    else:
        assert disk["mode"] == "full" or name in HARMLESS, disk
        assert disk["reason"]
    same_as_frozen(desk, report, tmp_path)
    desk.verified(point)


def test_a_base_that_expired_makes_a_full_one(desk, point, tmp_path):
    desk.act("expire_snapshots", vm="one")
    report = desk.backed_up("one")
    assert report["disks"][0]["mode"] == "full"
    assert "base" in report["disks"][0]["reason"]
    same_as_frozen(desk, report, tmp_path)


def test_disks_that_grow_come_and_go(desk, tmp_path):
    first = desk.backed_up("two")
    assert [row["disk"] for row in first["disks"]] == ["scsi.0", "scsi.1"]
    desk.act("grow_disk", vm="two", slot="scsi.0", size_bytes=6 * MIB)
    grown = desk.backed_up("two")
    assert [row["size_bytes"] for row in grown["disks"]] == [6 * MIB, 8 * MIB]
    same_as_frozen(desk, grown, tmp_path)
    desk.act("replace_disk", vm="two", slot="scsi.1")
    desk.act("add_disk", vm="two", slot="scsi.4", size_bytes=2 * MIB)
    replaced = desk.backed_up("two")
    assert [(row["disk"], row["mode"]) for row in replaced["disks"]] == [
        ("scsi.0", "incremental"),
        ("scsi.1", "full"),
        ("scsi.4", "full"),
    ]
    same_as_frozen(desk, replaced, tmp_path)
    desk.act("remove_disk", vm="two", slot="scsi.4")
    assert [row["disk"] for row in desk.backed_up("two")["disks"]] == ["scsi.0", "scsi.1"]
    desk.verified(first["point"])
    desk.verified(replaced["point"])


def test_excluded_disks_are_named_and_come_back_empty(desk):
    report = desk.backed_up("two", "--exclude", "scsi.1")
    assert report["disks"][1]["mode"] == "excluded"
    restored = desk.run("restore", report["point"], "--name", "two-again", "--json")
    assert restored.code == 0, restored.out
    made = {disk.label: disk.size_bytes for disk in desk.lab.vms["two-again"].disks if disk.kind == "DISK"}
    assert made == {row["disk"]: row["size_bytes"] for row in report["disks"]}
    assert not any(desk.lab.disk_path("two-again", "scsi.1").read_bytes())
    desk.act("delete_vm", vm="two-again")
    desk.run("backup", "two", "--exclude", "scsi").refuses(2, "usage", "excluded")
    desk.run("backup", "two", "--exclude", "?").refuses(2, "usage", "'?'")
