"""The whole way of a backup and a restore, through an Element and a Central, in each position of each switch.

Where the reference leaves a question open the lab has a switch instead of an opinion.
"""

from __future__ import annotations

from typing import Any

import pytest

from mover.clock import SystemClock
from mover.errors import BaseGone, NotFound
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import CloneSource, DiskKind, EmptyDisk, Slot
from mover.model.region import RegionKind
from tests.support.prismworld import MIB, PREFIX, path_of, prism_world

SIDES = ("element", "central")
SWITCHES: dict[str, dict[str, Any]] = {
    "as-is": {},
    "container-required": {"attach_container": "required"},
    "container-required-by-task": {"attach_container": "required", "attach_refusal": "task"},
    "container-required-by-500": {"attach_container": "required", "attach_refusal": "sync-500"},
    "source-bus-required": {"attach_source_bus": "required"},
    "source-bus-and-container-required-by-500": {
        "attach_source_bus": "required",
        "attach_container": "required",
        "attach_refusal": "sync-500",
    },
    "container-prohibited": {"attach_container": "prohibited"},
    "container-prohibited-by-task": {"attach_container": "prohibited", "attach_refusal": "task"},
    "no-context": {"snapshot_shows_context": False},
    "context-as-list": {"execution_context_list": True},
    "repeats-conflict": {"repeated_uuid": "conflict"},
    "repeats-refused": {"repeated_uuid": "refuse"},
    "missing-vm-500": {"missing_vm_status": 500},
    "login-page": {"stale_session": "login-page", "session_life_s": 0.05},
    "v3-lags": {"v3_lag_s": 0.15},
    "missing-detach-succeeds": {"detach_missing": "succeed"},
    "base-400": {"missing_base_status": 400},
    "holes-unlisted": {"list_holes": False},
    "empty-categories": {"element_categories": "empty"},
    "no-extras": {"snapshot_extras": False},
    "deleted-lingers": {"deleted_snapshot_lingers_s": 0.2},
    "deleted-lingers-complete": {"deleted_snapshot_lingers_s": 0.2, "deleted_snapshot_state": "COMPLETE"},
    "tiny-pages": {"v3_page_cap": 1, "v2_page_cap": 1, "regions_per_page": 1},
    "empty-region-pages": {"scan_window_bytes": 256 << 10},
    "short-sessions": {"session_life_s": 0.05},
    "lenient-bodies": {"refuse_unknown_members": False},
    "element-makes-no-vms-by-v3": {"element_makes_vms": False},
    "side-not-told": {"tells_side": False},
    "element-lists-all-clusters": {"element_lists_all": True},
    "odd-answers": {"odd_answers": True},
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("switch", SWITCHES)
async def test_the_whole_journey(tmp_path, side, switch):
    async with prism_world(tmp_path, side, **SWITCHES[switch]) as world:
        first, second = await backs_up(world)
        await restores(world)
        await cleans(world, first, second)


async def backs_up(world):
    """Full, then incremental, of both disks; each clone shows the frozen bytes."""
    ahv, proxy = world.ahv, world.lab.proxy_uuid
    vm = await ahv.vm(world.uuid("web01"))
    first = await world.freeze("a")
    assert {file.vmdisk_uuid for file in first.files} >= {disk.vmdisk_uuid for disk in vm.data_disks()}
    world.write("scsi.0", MIB, b"\x07" * 8192)
    world.write("scsi.1", 0, b"\x08" * 4096)
    second = await world.freeze("b")
    for number, disk in enumerate(vm.data_disks()):
        base, path = path_of(first, disk), path_of(second, disk)
        whole = await ahv.changed_regions(path, None, size_bytes=disk.size_bytes)
        assert whole.regions.bytes_of(RegionKind.DATA) > 0
        changed = await ahv.changed_regions(path, base, size_bytes=disk.size_bytes)
        assert [(r.offset_bytes, r.length_bytes) for r in changed.regions] == [[(MIB, 8192)], [(0, 4096)]][number]
        source = CloneSource(path=path, container_uuid=disk.container_uuid)
        slot = Slot("scsi", 10 + number)
        known = {one.vmdisk_uuid for one in (await ahv.vm(proxy)).disks}
        made = await ahv.attach(proxy, slot, source)
        assert (made.slot, made.size_bytes, made.source_path) == (slot, disk.size_bytes, path)
        assert await ahv.find_attachment(proxy, slot, source, known_vmdisk_uuids=known) == made
        assert await ahv.find_attachment(proxy, slot, source, known_vmdisk_uuids={made.vmdisk_uuid}) is None
        frozen = world.lab.frozen_path(second.uuid, disk.vmdisk_uuid)
        assert world.lab.bank.path(made.vmdisk_uuid).read_bytes() == frozen.read_bytes()
        await ahv.detach(proxy, made.vmdisk_uuid)
        await ahv.detach(proxy, made.vmdisk_uuid)
        assert slot not in {one.slot for one in (await ahv.vm(proxy)).disks}
    return first, second


async def restores(world):
    """An empty disk on the Proxy VM, filled, cloned into the slot of a new VM, detached."""
    ahv, proxy = world.ahv, world.lab.proxy_uuid
    saved = await ahv.vm(world.uuid("web01"))
    disk = saved.data_disks()[0]
    temporary = await ahv.attach(proxy, Slot("scsi", 20), EmptyDisk(disk.size_bytes, disk.container_uuid))
    world.lab.bank.path(temporary.vmdisk_uuid).write_bytes(b"\x55" * disk.size_bytes)
    request = VmRequest("web01-restored", saved.spec, NicMode.DISCONNECTED, {}, description=f"{PREFIX}job: restored")
    made = await ahv.create_vm(request, key=f"{PREFIX}restore")
    assert await ahv.create_vm(request, key=f"{PREFIX}restore") == made
    source = CloneSource(vmdisk_uuid=temporary.vmdisk_uuid, container_uuid=disk.container_uuid)
    clone = await ahv.attach(made, disk.slot, source)
    assert clone.source_vmdisk_uuid == temporary.vmdisk_uuid
    assert await ahv.find_attachment(made, disk.slot, source, known_vmdisk_uuids=()) == clone
    await ahv.detach(proxy, temporary.vmdisk_uuid)
    assert world.lab.bank.path(clone.vmdisk_uuid).read_bytes() == b"\x55" * disk.size_bytes
    warnings = await ahv.finish_vm(made, request)
    assert await ahv.finish_vm(made, request) == warnings
    assert [warning for warning in warnings if "guest tools" not in warning] == []
    assert len(warnings) == 1
    vm = await ahv.vm(made)
    assert (vm.name, vm.is_on, vm.memory_bytes, vm.vcpus) == (
        "web01-restored",
        False,
        saved.memory_bytes,
        saved.vcpus,
    )
    assert [str(one.slot) for one in vm.data_disks()] == ["scsi.0"]
    assert [one.kind for one in vm.disks if one.kind is not DiskKind.DISK] == [DiskKind.CDROM]
    assert [nic.is_connected for nic in vm.nics] == [False, False]
    assert world.lab.vms["web01-restored"].boot_slot == ("SCSI", 0)
    await ahv.set_power(made, on=True)
    await ahv.set_power(made, on=True)
    assert (await ahv.vm(made)).is_on
    await ahv.set_power(made, on=False)
    assert not (await ahv.vm(made)).is_on


async def cleans(world, first, second):
    ahv, proxy = world.ahv, world.lab.proxy_uuid
    left = await ahv.leftovers(PREFIX, proxy)
    assert {snapshot.uuid for snapshot in left.snapshots} == {first.uuid, second.uuid}
    assert left.attachments == ()
    assert [(vm.name, vm.mark.partition(":")[0]) for vm in left.vms] == [("web01-restored", f"{PREFIX}job")]
    disk = (await ahv.vm(world.uuid("web01"))).data_disks()[0]
    await ahv.extend_snapshot(second.uuid, SystemClock().now() + 7200)
    await ahv.delete_snapshot(first.uuid)
    await ahv.delete_snapshot(first.uuid)
    await world.lab.settle()
    with pytest.raises(BaseGone):
        await ahv.changed_regions(path_of(second, disk), path_of(first, disk), size_bytes=disk.size_bytes)
    with pytest.raises(NotFound):
        await ahv.changed_regions(path_of(first, disk), None, size_bytes=disk.size_bytes)
    for vm in left.vms:
        await ahv.delete_vm(vm.uuid)
        await ahv.delete_vm(vm.uuid)
        with pytest.raises(NotFound):
            await ahv.vm(vm.uuid)
    await ahv.delete_snapshot(second.uuid)
    assert "web01" in world.lab.vms
