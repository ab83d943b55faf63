"""A lab as root: attached clones are real block devices, and their faults are the kernel's."""

from __future__ import annotations

import os

import pytest

from mover.lab import loops
from tests.support.rawprism import MIB, serving

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or loops.usable() is not None, reason="needs root and loop devices"),
]


@pytest.fixture
async def both(tmp_path):
    async with serving(tmp_path, use_loop=True) as (lab, prism):
        yield lab, prism


async def device_of(lab, prism, slot=6):
    """Attach web01's first disk; its device node, its sysfs folder, and the frozen bytes."""
    made = await prism.snapshot("web01")
    task = await prism.attach(prism.path_of(made, "web01"), slot)
    assert task["progress_status"] == "Succeeded", task
    name = lab.plugged()[lab.disk("proxy01", f"scsi.{slot}").vmdisk_uuid]
    frozen = lab.frozen_path(made["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
    return lab.device_root / "dev" / name, lab.device_root / "sys/block" / name, frozen.read_bytes()


async def test_a_clone_is_a_block_device_with_the_frozen_bytes(both):
    lab, prism = both
    node, folder, frozen = await device_of(lab, prism)
    assert lab.has_real_devices
    assert node.is_block_device()
    assert node.read_bytes() == frozen
    assert (folder / "device/vendor").read_text().strip() == "NUTANIX"
    await lab.restart()
    assert node.read_bytes() == frozen


async def test_what_is_written_to_a_new_disk_is_in_its_clone(both):
    lab, prism = both
    container = lab.state.container_by_name("default").uuid
    disk = {"vm_disk_create": {"size": MIB, "storage_container_uuid": container}}
    await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/attach", {"vm_disks": [disk]})
    made = lab.disk("proxy01", "scsi.1")
    node = lab.device_root / "dev" / lab.plugged()[made.vmdisk_uuid]
    descriptor = os.open(node, os.O_WRONLY)
    os.pwrite(descriptor, b"restored" * 512, 4096)
    os.fsync(descriptor)
    os.close(descriptor)
    clone = {"vm_disk_clone": {"disk_address": {"vmdisk_uuid": made.vmdisk_uuid}}}
    task = await prism.v2("POST", f"vms/{lab.vms['db01'].uuid}/disks/attach", {"vm_disks": [clone]})
    assert task["progress_status"] == "Succeeded"
    slot = lab.vms["db01"].disks[-1].label
    assert lab.disk_path("db01", slot).read_bytes()[4096:8192] == b"restored" * 512


async def test_a_read_error_has_its_exact_place(both):
    lab, prism = both
    lab.faults.arm("device_eio", vm="web01", bad_ranges=[[MIB, 4096]])
    node, _, frozen = await device_of(lab, prism)
    descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert os.pread(descriptor, 4096, MIB - 65536 * 4) == frozen[MIB - 65536 * 4 :][:4096]
        with pytest.raises(OSError, match="Input/output"):
            os.pread(descriptor, 4096, MIB)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("sector", [512, 4096])
async def test_sectors_are_what_the_options_say(tmp_path, sector):
    async with serving(tmp_path, use_loop=True, sector_bytes=sector) as (lab, prism):
        _, folder, _ = await device_of(lab, prism)
        assert int((folder / "queue/logical_block_size").read_text()) == sector


async def test_an_administrator_pulls_the_disk_while_it_is_open(both):
    lab, prism = both
    node, folder, _ = await device_of(lab, prism)
    descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        await lab.administrator("remove_disk", vm="proxy01", slot="scsi.6")
        assert not folder.exists()
        assert "scsi.6" not in [disk.label for disk in lab.vms["proxy01"].disks]
    finally:
        os.close(descriptor)
