"""What hypervisor.protocol promises, held by Ahv through an Element and through a Central.

The lab is strict and a stranger: both follow the same reference.
"""

from __future__ import annotations

import asyncio

import pytest

from mover.clock import SystemClock
from mover.errors import (
    BaseGone,
    EffectUnknown,
    NotFound,
    ProxyUnfit,
    RequestRefused,
    SlotOccupied,
    SnapshotIncomplete,
)
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import (
    CloneSource,
    Consistency,
    EmptyDisk,
    Slot,
    SnapshotState,
)
from tests.support.prismworld import MIB, PREFIX, path_of, prism_world

# --- one promise each ---------------------------------------------------------------------------


async def test_about_says_which_prism_and_who_we_are(world):
    about = await world.ahv.about()
    assert (about.kind, about.version, about.cluster.name) == (world.side, "6.10", "lab")
    assert about.user == "admin"
    assert about.is_admin
    assert abs(about.clock_offset_s) < 3


async def test_inventory_holds_everything(world):
    found = await world.ahv.inventory()
    assert [vm.name for vm in found.vms] == ["proxy01", "web01", "win01"]
    assert [network.name for network in found.networks] == ["vlan10", "vlan20"]
    assert {container.name for container in found.containers} == {"default", "fast"}
    assert all(container.free_bytes > 0 for container in found.containers)
    assert [cluster.name for cluster in found.clusters] == ["lab"]
    assert len(found.hosts) == 2
    web = found.vms[1]
    assert web == await world.ahv.vm(web.uuid)
    assert web.spec == {}
    assert [(str(disk.slot), disk.kind.value, disk.size_bytes) for disk in web.disks] == [
        ("ide.0", "cdrom", 0),
        ("scsi.0", "disk", 4 * MIB),
        ("scsi.1", "disk", 2 * MIB),
        ("scsi.2", "volume_group", 0),
    ]
    assert web.volume_groups()[0].volume_group_uuid
    assert all(disk.vmdisk_uuid and disk.device_uuid != disk.vmdisk_uuid for disk in web.data_disks())
    assert web.can_quiesce
    assert web.nics[0].ip_addresses == ("192.0.2.10",)
    assert web.categories == ({"Backup": ("Gold",)} if world.side == "central" else {})
    win = found.vms[2]
    assert win.boot_type == "secure_boot"
    assert not win.can_quiesce


async def test_a_vm_that_is_not_there_is_not_found(world):
    with pytest.raises(NotFound):
        await world.ahv.vm("11111111-2222-4333-8444-555555555555")


async def test_the_disks_of_a_vm_cost_one_call_of_the_element(world):
    web = await world.ahv.vm(world.uuid("web01"))
    world.lab.forget_calls()
    assert await world.ahv.disks(web.uuid) == web.disks
    assert [(call.operation, call.side) for call in world.lab.calls] == [("v2.vms.get", "pe")]
    with pytest.raises(NotFound):
        await world.ahv.disks("11111111-2222-4333-8444-555555555555")


async def test_an_answer_without_disks_is_asked_of_v3_too(world):
    """v2 shows none where it was not asked for them: that never means that there are none."""
    await world.ahv.about()
    world.lab.forget_calls()
    await world.lab.administrator("remove_disk", vm="win01", slot="scsi.0")
    assert await world.ahv.disks(world.uuid("win01")) == ()
    assert [call.operation for call in world.lab.calls] == ["v2.vms.get", "v3.vms.get", "v2.vms.get"]


async def test_a_disk_that_moved_to_another_container_is_the_same_in_another_file(world):
    before = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
    content = world.lab.disk_path("web01").read_bytes()
    await world.lab.administrator("migrate_disk", vm="web01", slot="scsi.0", container="fast")
    after = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
    assert (after.device_uuid, after.slot, after.size_bytes) == (before.device_uuid, before.slot, before.size_bytes)
    assert after.vmdisk_uuid != before.vmdisk_uuid
    assert after.container_uuid == world.lab.state.container_by_name("fast").uuid
    assert world.lab.disk_path("web01").read_bytes() == content


async def test_a_snapshot_is_one_under_its_key(world):
    first, again, other = await world.freeze("k"), await world.freeze("k"), await world.freeze("l")
    assert first == again
    assert first.uuid != other.uuid
    assert len(world.lab.snapshots("web01")) == 2
    assert (first.state, first.name) == (SnapshotState.COMPLETE, f"{PREFIX}k")
    assert await world.ahv.find_snapshot(first.uuid) == first
    assert await world.ahv.find_snapshot("11111111-2222-4333-8444-555555555555") is None


async def test_ten_at_once_under_one_key_are_one(world):
    made = await asyncio.gather(*(world.freeze("same") for _ in range(10)))
    assert len({snapshot.uuid for snapshot in made}) == 1
    assert len(world.lab.snapshots("web01")) == 1


async def test_consistency_is_what_was_made(world):
    asked = Consistency.APPLICATION
    assert (await world.freeze("q", asked)).consistency is Consistency.APPLICATION
    assert (await world.freeze("d", asked, vm="win01")).consistency is Consistency.CRASH


async def test_a_snapshot_of_nothing_is_not_found(world):
    with pytest.raises(NotFound):
        await world.ahv.snapshot(
            "11111111-2222-4333-8444-555555555555",
            name="x",
            consistency=Consistency.CRASH,
            key="nothing",
            expires_at=SystemClock().now() + 60,
        )


async def test_expiry_can_be_put_off(world):
    snapshot = await world.freeze("e")
    later = float(int(SystemClock().now()) + 9000)
    await world.ahv.extend_snapshot(snapshot.uuid, later)
    await world.ahv.extend_snapshot(snapshot.uuid, later)
    found = await world.ahv.find_snapshot(snapshot.uuid)
    assert found is not None
    assert found.expires_at == later
    with pytest.raises(NotFound):
        await world.ahv.extend_snapshot("11111111-2222-4333-8444-555555555555", later)


async def test_an_occupied_slot_stays_what_it_is(world):
    proxy = world.lab.proxy_uuid
    before = (await world.ahv.vm(proxy)).disks
    source = EmptyDisk(MIB, before[0].container_uuid)
    with pytest.raises(SlotOccupied):
        await world.ahv.attach(proxy, before[0].slot, source)
    assert (await world.ahv.vm(proxy)).disks == before


async def test_a_source_that_is_gone_is_not_found(world):
    snapshot = await world.freeze("g")
    path = snapshot.files[0].path
    await world.ahv.delete_snapshot(snapshot.uuid)
    with pytest.raises(NotFound):
        await world.ahv.attach(world.lab.proxy_uuid, Slot("scsi", 9), CloneSource(path=path))


async def test_the_disk_of_a_proxy_that_was_restored_itself_is_no_leftover(world):
    """Seen on a real cluster: it names the snapshot's file that it came from, and bears the same vmdisk UUID."""
    disk = world.lab.vms["proxy01"].disks[0]
    disk.source_path = f"/default/.snapshot/52/198-155-52/.acropolis/vmdisk/{disk.vmdisk_uuid}"
    assert (await world.ahv.leftovers(PREFIX, world.lab.proxy_uuid)).attachments == ()


async def test_a_snapshot_that_failed_by_its_inner_name_is_an_error_at_once(tmp_path):
    async with prism_world(tmp_path, "element", error_spelling="kError") as world:
        world.lab.faults.arm("snapshot_error", detail="no space")
        with pytest.raises(SnapshotIncomplete, match="no space"):
            await world.freeze("a")


MIGRATES = "kVmMigrating: VM proxy01 is being migrated to another host"


async def test_a_proxy_that_moves_to_another_host_takes_its_disk_later(world):
    snapshot = await world.freeze("a")
    proxy, source = world.lab.proxy_uuid, CloneSource(path=snapshot.files[0].path)
    world.lab.faults.arm("task_fails", operation="v2.vms.disks.attach", detail=MIGRATES, count=2)
    made = await world.ahv.attach(proxy, Slot("scsi", 9), source)
    assert len([call for call in world.lab.calls if call.operation == "v2.vms.disks.attach"]) == 3
    world.lab.faults.arm("task_fails", operation="v2.vms.disks.detach", detail=MIGRATES)
    await world.ahv.detach(proxy, made.vmdisk_uuid)
    assert len(world.lab.vms["proxy01"].disks) == 1


async def test_work_that_takes_prism_long_is_waited_for(tmp_path):
    """A page of VMs with all their disks, the map of a whole disk: longer than other calls may last."""
    async with prism_world(tmp_path, "element", changes={"call_timeout": 0.5}) as world:
        disk = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
        path = path_of(await world.freeze("a"), disk)
        for slow in ("v2.vms.list", "v3.data.changed_regions"):
            world.lab.faults.arm("latency", operation=slow, seconds=0.7)
        world.lab.forget_calls()
        await world.ahv.inventory()
        await world.ahv.changed_regions(path, None, size_bytes=disk.size_bytes)
        asked = [call.operation for call in world.lab.calls]
        assert (asked.count("v2.vms.list"), asked.count("v3.data.changed_regions")) == (1, 1)


async def test_a_vm_that_v3_of_an_element_does_not_make_is_made_by_v2(tmp_path):
    """A Central, where there is one, makes it by v3, with its categories."""
    async with prism_world(tmp_path, "element", element_makes_vms=False) as world:
        saved = await world.ahv.vm(world.uuid("win01"))
        request = VmRequest("win02", saved.spec, NicMode.NEW_MAC, {})
        made = await world.ahv.create_vm(request, key="k")
        vm = await world.ahv.vm(made)
        assert (vm.boot_type, vm.memory_bytes, vm.vcpus, vm.is_on) == ("secure_boot", saved.memory_bytes, 2, False)
        assert await world.ahv.create_vm(request, key="k") == made
        assert any("vTPM" in warning for warning in await world.ahv.finish_vm(made, request))
        await world.ahv.delete_vm(made)
        assert "win02" not in world.lab.vms


async def test_what_v2_cannot_say_of_a_vm_is_told_and_what_it_can_is_carried(tmp_path):
    async with prism_world(tmp_path, "element", element_makes_vms=False) as world:
        original = world.lab.state.vms[world.uuid("web01")]
        original.extra |= {
            "serial_port_list": [{"index": 0, "is_connected": True}],
            "vnuma_config": {"num_vnuma_nodes": 2},
            "hardware_virtualization_enabled": True,
            "is_agent_vm": True,
        }
        original.nics[0].extra = {"vlan_mode": "TRUNKED", "trunked_vlan_list": [10, 20], "model": "E1000"}
        original.ha_priority = -1
        saved = await world.ahv.vm(original.uuid)
        request = VmRequest("web02", saved.spec, NicMode.NEW_MAC, {})
        made = await world.ahv.create_vm(request, key="k")
        warnings = " ".join(await world.ahv.finish_vm(made, request))
        assert all(word in warnings for word in ("COM1", "vNUMA", "vlan_mode TRUNKED", "10, 20"))
        assert not any(word in warnings for word in ("hardware virtualization", "agent", "HA priority"))
        vm = world.lab.vms["web02"]
        assert (vm.ha_priority, vm.nics[0].extra["model"], vm.boot_slot) == (-1, "E1000", ("SCSI", 0))
        assert vm.extra["hardware_virtualization_enabled"]


@pytest.mark.parametrize("stats", ["unknown", "missing"])
async def test_a_container_whose_space_is_not_known_is_not_full(tmp_path, stats):
    async with prism_world(tmp_path, "element", container_stats=stats) as world:
        assert all(one.free_bytes == one.capacity_bytes > 0 for one in await world.ahv.containers())


async def test_a_prism_that_shows_no_source_has_its_answers_believed_and_nothing_else(tmp_path):
    """An attach whose answer came is ours by its slot; what is only found in that slot may be somebody's own."""
    async with prism_world(tmp_path, "element", source_is_shown=False) as world:
        proxy, source = world.lab.proxy_uuid, CloneSource(path=(await world.freeze("a")).files[0].path)
        made = await world.ahv.attach(proxy, Slot("scsi", 9), source)
        assert made.source_path is None
        assert await world.ahv.find_attachment(proxy, made.slot, source, known_vmdisk_uuids=()) is None
        world.lab.faults.arm("lost_answer", operation="v2.vms.disks.attach")
        with pytest.raises(EffectUnknown):
            await world.ahv.attach(proxy, Slot("scsi", 10), source)


async def test_two_snapshots_that_prism_cannot_compare_are_no_reason_to_have_no_backup(world):
    disk = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
    base, now = path_of(await world.freeze("a"), disk), path_of(await world.freeze("b"), disk)
    world.lab.faults.arm("status", operation="v3.data.changed_regions", status=500, count=3)
    with pytest.raises(BaseGone, match="cannot be compared"):
        await world.ahv.changed_regions(now, base, size_bytes=disk.size_bytes)
    assert (await world.ahv.changed_regions(now, base, size_bytes=disk.size_bytes)).pages == 1


async def test_a_poll_that_only_fails_is_replaced_by_a_look_at_the_task(world):
    snapshot = await world.freeze("a")
    proxy, source = world.lab.proxy_uuid, CloneSource(path=snapshot.files[0].path)
    world.lab.faults.arm("status", operation="v2.tasks.poll", status=500, count=0)
    made = await world.ahv.attach(proxy, Slot("scsi", 9), source)
    await world.ahv.detach(proxy, made.vmdisk_uuid)
    operations = [call.operation for call in world.lab.calls]
    assert (operations.count("v2.vms.disks.attach"), operations.count("v2.vms.disks.detach")) == (1, 1)


async def test_leftovers_are_ours_by_name_and_by_origin(world):
    snapshot = await world.freeze("o")
    proxy = world.lab.proxy_uuid
    made = await world.ahv.attach(proxy, Slot("scsi", 9), CloneSource(path=snapshot.files[0].path))
    left = await world.ahv.leftovers(PREFIX, proxy)
    assert [one.uuid for one in left.snapshots] == [snapshot.uuid]
    assert left.attachments == (made,)
    other = await world.ahv.leftovers("mover-another1-", proxy)
    assert other.snapshots == ()


async def test_our_own_vm_is_found_by_uuid_and_mac(world):
    proxy = world.lab.vms["proxy01"]
    macs = [proxy.nics[0].mac_address.upper()]
    assert (await world.ahv.find_proxy(proxy.uuid.upper(), macs)).name == "proxy01"
    with pytest.raises(ProxyUnfit, match="MAC") as caught:
        await world.ahv.find_proxy(proxy.uuid, ["00:00:00:00:00:01"])
    assert "--network host" in caught.value.remedy
    with pytest.raises(ProxyUnfit, match=r"no VM of cluster") as caught:
        await world.ahv.find_proxy("11111111-2222-4333-8444-555555555555", macs)
    assert "node.proxy_uuid" in caught.value.remedy
    with pytest.raises(ProxyUnfit):
        await world.ahv.find_proxy("To Be Filled By O.E.M.", macs)


async def test_secure_boot_and_vtpm_come_back_or_are_said(world):
    saved = await world.ahv.vm(world.uuid("win01"))
    request = VmRequest("win01-restored", saved.spec, NicMode.NEW_MAC, {})
    made = await world.ahv.create_vm(request, key="win")
    vm = await world.ahv.vm(made)
    assert vm.boot_type == "secure_boot"
    assert vm.spec["v3"]["status"]["resources"]["machine_type"] == "Q35"
    warnings = " ".join(await world.ahv.finish_vm(made, request))
    assert "UEFI variables" in warnings
    assert ("TPM" in warnings) is saved.has_vtpm


async def test_categories_come_back_through_central(world):
    saved = await world.ahv.vm(world.uuid("web01"))
    request = VmRequest("web02", saved.spec, NicMode.NEW_MAC, {})
    made = await world.ahv.create_vm(request, key="cat")
    warnings = await world.ahv.finish_vm(made, request)
    assert not any("categories" in warning for warning in warnings)
    assert (await world.ahv.vm(made)).categories == saved.categories


async def test_nics_keep_their_macs_only_when_nobody_has_them(world):
    saved = await world.ahv.vm(world.uuid("web01"))
    request = VmRequest("web02", saved.spec, NicMode.KEEP, {})
    with pytest.raises(RequestRefused, match="in use by VM web01"):
        await world.ahv.create_vm(request, key="keep")
    await world.lab.administrator("delete_vm", vm="web01")
    made = await world.ahv.create_vm(request, key="keep")
    assert [nic.mac_address for nic in (await world.ahv.vm(made)).nics] == [nic.mac_address for nic in saved.nics]


async def test_an_unknown_network_is_refused_before_anything_is_made(world):
    saved = await world.ahv.vm(world.uuid("web01"))
    gone = {saved.nics[0].network_uuid: "11111111-2222-4333-8444-555555555555"}
    with pytest.raises(RequestRefused, match="vlan10"):
        await world.ahv.create_vm(VmRequest("web02", saved.spec, NicMode.NEW_MAC, gone), key="net")
    assert "web02" not in world.lab.vms


async def test_the_proxy_is_never_put_by_v3(world):
    await world.freeze("p")
    assert not [call for call in world.lab.calls if call.operation == "v3.vms.update"]


async def test_growth_is_complete_whether_or_not_the_tail_is_listed(tmp_path):
    for number, listed in enumerate((True, False)):
        async with prism_world(tmp_path / str(number), "element", list_grown_tail=listed) as world:
            disk = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
            first = await world.freeze("a")
            await world.lab.administrator("grow_disk", vm="web01", slot="scsi.0", size_bytes=6 * MIB)
            second = await world.freeze("b")
            grown = (await world.ahv.vm(world.uuid("web01"))).data_disks()[0]
            assert (grown.size_bytes, grown.device_uuid) == (6 * MIB, disk.device_uuid)
            found = await world.ahv.changed_regions(
                path_of(second, grown), path_of(first, disk), size_bytes=grown.size_bytes
            )
            assert found.file_size_bytes == 6 * MIB


async def test_a_quiesce_that_ends_in_error_is_said(tmp_path):
    async with prism_world(tmp_path, "element", quiesce_failure="error") as world:
        with pytest.raises(SnapshotIncomplete):
            await world.freeze("q", Consistency.APPLICATION, vm="win01")
