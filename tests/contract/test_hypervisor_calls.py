"""What a backup costs a Prism, call by call; and how soon an attached disk can be read.

A call that is added must be added here too, with a reason.
"""

from __future__ import annotations

import mmap
from contextlib import closing

import pytest

from mover.clock import SystemClock, stopwatch
from mover.config import NodeSettings
from mover.hypervisor.nutanix.ahv import Ahv
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import CloneSource, EmptyDisk, Slot
from tests.support.devicebench import locate
from tests.support.prismworld import MIB, PREFIX, path_of, prism_world

SLOT = Slot("scsi", 9)
LOOK = ["v3.vms.get", "v2.vms.get"]
SNAPSHOT = ["v3.idempotence_identifiers.create", "v3.vm_snapshots.get", "v3.vm_snapshots.create"]
# Look before: the slot must be free, and what is deleted must be there. Look after: only a GET proves it.
ATTACH = ["v2.vms.get", "v2.vms.disks.attach", "v2.tasks.poll", "v2.vms.get"]
DETACH = ["v2.vms.get", "v2.vms.disks.detach", "v2.tasks.poll", "v2.vms.get"]


class Ledger:
    """Names the calls since the last look, and on which side they came in."""

    def __init__(self, world):
        self.world = world

    def since(self) -> list[str]:
        calls = self.world.lab.calls
        self.world.lab.forget_calls()
        return [call.operation for call in calls]


async def test_the_calls_of_an_incremental_backup(world):
    ahv, calls, proxy = world.ahv, Ledger(world), world.lab.proxy_uuid
    through_central = world.side == "central"
    log_in = ["v3.users.me", "v3.clusters.list"]
    await ahv.about()
    assert calls.since() == [*log_in * (1 + through_central), "v3.idempotence_identifiers.create"]
    base, central_view = await world.freeze("a"), ["v3.vms.get"] * through_central
    calls.since()
    vm = await ahv.vm(world.uuid("web01"))
    assert calls.since() == [*LOOK, *central_view]
    snapshot = await world.freeze("b")
    made = calls.since()
    assert made[:3] == SNAPSHOT
    assert made[3:] == ["v3.vm_snapshots.get"] * len(made[3:])
    assert 1 <= len(made[3:]) <= 4
    assert len(vm.data_disks()) == 2
    for disk in vm.data_disks():
        path = path_of(snapshot, disk)
        await ahv.changed_regions(path, path_of(base, disk), size_bytes=disk.size_bytes)
        assert calls.since() == ["v3.data.changed_regions"]
        attached = await ahv.attach(proxy, SLOT, CloneSource(path=path, container_uuid=disk.container_uuid))
        assert calls.since() == ATTACH
        await ahv.detach(proxy, attached.vmdisk_uuid)
        assert calls.since() == DETACH
    await ahv.delete_snapshot(base.uuid)
    assert calls.since() == ["v3.vm_snapshots.delete"]


async def test_the_calls_of_a_restore(world):
    ahv, calls, proxy = world.ahv, Ledger(world), world.lab.proxy_uuid
    through_central = world.side == "central"
    saved = await ahv.vm(world.uuid("web01"))
    disk = saved.data_disks()[0]
    calls.since()
    temporary = await ahv.attach(proxy, SLOT, EmptyDisk(disk.size_bytes, disk.container_uuid))
    assert calls.since() == ATTACH
    request = VmRequest("web02", saved.spec, NicMode.NEW_MAC, {})
    made = await ahv.create_vm(request, key=f"{PREFIX}r")
    done = [call for call in calls.since() if call != "v3.tasks.get"]
    reserved = ["v3.idempotence_identifiers.create"] * (1 + through_central)
    assert done == [*reserved, "v3.vms.get", "v3.subnets.list", "v3.vms.list", "v3.vms.create", "v3.vms.get"]
    await ahv.attach(made, disk.slot, CloneSource(vmdisk_uuid=temporary.vmdisk_uuid))
    assert calls.since() == ATTACH
    await ahv.finish_vm(made, request)
    assert calls.since() == [*["v3.vms.get"] * (1 + through_central), "v2.vms.update", "v2.tasks.poll"]


async def test_an_inventory_reads_each_list_once(world):
    await world.ahv.containers()
    calls = Ledger(world)
    calls.since()
    await world.ahv.inventory()
    found = calls.since()
    vm_lists = 2 if world.side == "central" else 1
    assert sorted(found) == sorted(
        ["v3.hosts.list", "v2.storage_containers.list", "v3.subnets.list", "v2.vms.list", *["v3.vms.list"] * vm_lists]
    )


async def test_only_categories_are_asked_of_a_central(tmp_path):
    async with prism_world(tmp_path, "central") as world:
        await world.ahv.containers()
        world.lab.forget_calls()
        await world.ahv.inventory()
        vm = await world.ahv.vm(world.uuid("web01"))
        snapshot = await world.freeze("a")
        source = CloneSource(path=path_of(snapshot, vm.data_disks()[0]))
        made = await world.ahv.attach(world.lab.proxy_uuid, SLOT, source)
        await world.ahv.detach(world.lab.proxy_uuid, made.vmdisk_uuid)
        of_central = [call.operation for call in world.lab.calls if call.side == "pc"]
        assert of_central == ["v3.vms.list", "v3.vms.get"]


async def test_no_call_ever_rewrites_a_vm_by_v3(world):
    """It would delete the disks that it does not list."""
    saved = await world.ahv.vm(world.uuid("web01"))
    request = VmRequest("web02", saved.spec, NicMode.NEW_MAC, {})
    made = await world.ahv.create_vm(request, key="k")
    await world.ahv.finish_vm(made, request)
    await world.ahv.set_power(made, on=True)
    assert "v3.vms.create" in {call.operation for call in world.lab.calls}
    assert "v3.vms.update" not in {call.operation for call in world.lab.calls}


async def test_a_slow_task_costs_one_long_poll(tmp_path):
    async with prism_world(tmp_path, "element") as world:
        snapshot = await world.freeze("a")
        world.lab.faults.arm("task_slow", operation="v2.vms.disks.attach", seconds=0.4)
        world.lab.forget_calls()
        await world.ahv.attach(world.lab.proxy_uuid, SLOT, CloneSource(path=snapshot.files[0].path))
        assert Ledger(world).since() == ATTACH


async def test_a_slow_snapshot_is_looked_at_ever_more_seldom(tmp_path):
    async with prism_world(tmp_path, "element", snapshot_delay_s=0.6) as world:
        await world.ahv.about()
        world.lab.forget_calls()
        # 0.6 s are 12 s to this clock: 0.1, 0.2, 0.4 … 5 s between looks.
        await world.freeze("a")
        assert len(Ledger(world).since()) <= len(SNAPSHOT) + 10


@pytest.mark.parametrize("side", ["element", "central"])
async def test_a_byte_is_read_within_a_second_of_the_answer_to_the_attach(tmp_path, side):
    async with prism_world(tmp_path, side) as world:
        world.ahv = Ahv(world.settings(), clock=SystemClock(), state_dir=tmp_path)
        disk = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
        snapshot = await world.freeze("a")
        world.write("scsi.0", 0, b"\xee" * 4096)
        node = NodeSettings(device_root=world.lab.device_root, allow_regular_files=True)
        frozen = world.lab.frozen_path(snapshot.uuid, disk.vmdisk_uuid).read_bytes()
        assert len(frozen) == 4 * MIB
        spent_s = []
        for index in range(9, 14):
            # From before the request is sent: more than is asked for.
            begun = stopwatch()
            source = CloneSource(path=path_of(snapshot, disk))
            attachment = await world.ahv.attach(world.lab.proxy_uuid, Slot("scsi", index), source)
            device = await locate(attachment, settings=node, clock=SystemClock(), writable=False)
            with closing(device):
                first = _first_block(device)
                spent_s.append(stopwatch() - begun)
            assert first == frozen[: len(first)]
        # The best of five: whatever else runs on this machine holds up some of them, and a pause of ours all.
        assert min(spent_s) <= 1.0
        await world.ahv.close()


def _first_block(device) -> bytes:
    with mmap.mmap(-1, 4096) as page, memoryview(page) as buffer:
        device.read_into(buffer, 0)
        return bytes(buffer)
