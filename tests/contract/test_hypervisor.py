"""What hypervisor.protocol promises, held by Ahv through an Element and through a Central.

The lab is strict and a stranger: both follow the same reference. Where the reference leaves
a question open the lab has a switch, and the whole journey runs in each position.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from mover.clock import SystemClock
from mover.errors import (
    BaseGone,
    CertificateRejected,
    ConfigError,
    LoginRefused,
    NotFound,
    ProxyUnfit,
    RequestRefused,
    RightsMissing,
    SlotOccupied,
    SnapshotIncomplete,
    UnsupportedEndpoint,
)
from mover.hypervisor.nutanix.ahv import Ahv, connect
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import (
    CloneSource,
    Consistency,
    DiskKind,
    EmptyDisk,
    Slot,
    SnapshotState,
)
from mover.model.region import RegionKind
from tests.support.prismworld import MIB, PREFIX, BriskClock, path_of, prism_world

SIDES = ("element", "central")
SWITCHES: dict[str, dict[str, Any]] = {
    "as-is": {},
    "container-required": {"attach_container": "required"},
    "container-required-by-task": {"attach_container": "required", "attach_refusal": "task"},
    "container-prohibited": {"attach_container": "prohibited"},
    "container-prohibited-by-task": {"attach_container": "prohibited", "attach_refusal": "task"},
    "no-context": {"snapshot_shows_context": False},
    "context-as-list": {"execution_context_list": True},
    "repeats-conflict": {"repeated_uuid": "conflict"},
    "missing-detach-succeeds": {"detach_missing": "succeed"},
    "base-400": {"missing_base_status": 400},
    "holes-unlisted": {"list_holes": False},
    "empty-categories": {"element_categories": "empty"},
    "no-extras": {"snapshot_extras": False},
    "deleted-lingers": {"deleted_snapshot_lingers_s": 0.2},
    "tiny-pages": {"v3_page_cap": 1, "v2_page_cap": 1, "regions_per_page": 1},
    "empty-region-pages": {"scan_window_bytes": 256 << 10},
    "short-sessions": {"session_life_s": 0.05},
    "lenient-bodies": {"refuse_unknown_members": False},
}


@pytest.fixture(params=SIDES)
async def world(request, tmp_path):
    async with prism_world(tmp_path, request.param) as made:
        yield made


# --- the journey, in each position of each switch -----------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("switch", SWITCHES)
async def test_the_whole_journey(tmp_path, side, switch):
    async with prism_world(tmp_path, side, **SWITCHES[switch]) as world:
        first, second = await _backups(world)
        await _restores(world)
        await _cleans(world, first, second)


async def _backups(world):
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


async def _restores(world):
    """An empty disk on the Proxy VM, filled, cloned into the slot of a new VM, detached."""
    ahv, proxy = world.ahv, world.lab.proxy_uuid
    saved = await ahv.vm(world.uuid("web01"))
    disk = saved.data_disks()[0]
    temporary = await ahv.attach(proxy, Slot("scsi", 20), EmptyDisk(disk.size_bytes, disk.container_uuid))
    world.lab.bank.path(temporary.vmdisk_uuid).write_bytes(b"\x55" * disk.size_bytes)
    request = VmRequest("web01-restored", saved.spec, NicMode.DISCONNECTED, {}, description=f"{PREFIX}job")
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
    assert warnings == ()
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


async def _cleans(world, first, second):
    ahv, proxy = world.ahv, world.lab.proxy_uuid
    left = await ahv.leftovers(PREFIX, proxy)
    assert {snapshot.uuid for snapshot in left.snapshots} == {first.uuid, second.uuid}
    assert left.attachments == ()
    assert [name for _, name in left.vms] == ["web01-restored"]
    disk = (await ahv.vm(world.uuid("web01"))).data_disks()[0]
    await ahv.extend_snapshot(second.uuid, SystemClock().now() + 7200)
    await ahv.delete_snapshot(first.uuid)
    await ahv.delete_snapshot(first.uuid)
    await world.lab.settle()
    with pytest.raises(BaseGone):
        await ahv.changed_regions(path_of(second, disk), path_of(first, disk), size_bytes=disk.size_bytes)
    with pytest.raises(NotFound):
        await ahv.changed_regions(path_of(first, disk), None, size_bytes=disk.size_bytes)
    for uuid, _ in left.vms:
        await ahv.delete_vm(uuid)
        await ahv.delete_vm(uuid)
        with pytest.raises(NotFound):
            await ahv.vm(uuid)
    await ahv.delete_snapshot(second.uuid)
    assert "web01" in world.lab.vms


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
    with pytest.raises(ProxyUnfit, match="MAC"):
        await world.ahv.find_proxy(proxy.uuid, ["00:00:00:00:00:01"])
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


# --- who may, and how one gets in ---------------------------------------------------------------


async def test_a_viewer_may_look_and_is_told_what_is_missing(world):
    settings = world.settings(username=world.lab.viewer_username, password=SecretStr(world.lab.viewer_password))
    ahv = Ahv(settings, clock=BriskClock(), state_dir=world.state_dir)
    assert not (await ahv.about()).is_admin
    assert len((await ahv.inventory()).vms) == 3
    with pytest.raises(RightsMissing, match="refused") as caught:
        await ahv.snapshot(
            world.uuid("web01"), name="x", consistency=Consistency.CRASH, key="v", expires_at=SystemClock().now() + 60
        )
    assert "Cluster Admin" in caught.value.remedy
    await ahv.close()


async def test_a_wrong_password_never_locks_the_account(world):
    wrong = world.settings(password=SecretStr("wrong"))
    for _ in range(10):
        ahv = Ahv(wrong, clock=BriskClock(), state_dir=world.state_dir)
        with pytest.raises(LoginRefused):
            await ahv.about()
        await ahv.close()
    assert len([call for call in world.lab.calls if call.status == 401]) == 1
    await (await connect(world.settings(), clock=BriskClock(), state_dir=world.state_dir)).close()


async def test_each_prism_has_a_certificate_of_its_own(world):
    one = world.lab.fingerprints.split(",")[1]
    with pytest.raises(CertificateRejected) as caught:
        await connect(world.settings(fingerprint="00" * 32), clock=BriskClock(), state_dir=world.state_dir)
    assert str(caught.value.facts["fingerprint"]) in world.lab.fingerprints
    if world.side == "central":
        with pytest.raises(CertificateRejected, match=world.lab.element_url.removeprefix("https://")):
            await connect(world.settings(fingerprint=one), clock=BriskClock(), state_dir=world.state_dir)
    by_ca = world.settings(fingerprint=None, ca_file=world.lab.ca_file)
    await (await connect(by_ca, clock=BriskClock(), state_dir=world.state_dir)).close()


async def test_a_central_whose_element_cannot_be_reached(tmp_path):
    async with prism_world(tmp_path, "central", central_lists_unreachable=True) as world:
        with pytest.raises(ConfigError, match="several clusters"):
            await world.ahv.about()
        names = {cluster["name"]: cluster for cluster in await _cluster_names(world)}
        other = next(name for name in names if name != "lab")
        lost = Ahv(world.settings(cluster=other), clock=BriskClock(), state_dir=tmp_path)
        with pytest.raises(UnsupportedEndpoint) as caught:
            await lost.about()
        assert "prism.element_url" in caught.value.remedy
        wrong = world.settings(cluster=other, element_url=world.lab.element_url)
        with pytest.raises(UnsupportedEndpoint, match="another Prism"):
            await Ahv(wrong, clock=BriskClock(), state_dir=tmp_path).about()
        named = Ahv(world.settings(cluster="LAB"), clock=BriskClock(), state_dir=tmp_path)
        assert (await named.about()).cluster.name == "lab"
        await named.close()
        with pytest.raises(ConfigError, match="the Central"):
            await Ahv(world.settings(cluster="typo"), clock=BriskClock(), state_dir=tmp_path).about()


async def test_a_cluster_that_is_not_this_element_is_said(tmp_path):
    async with prism_world(tmp_path, "element") as world:
        mine = Ahv(world.settings(cluster="Lab"), clock=BriskClock(), state_dir=tmp_path)
        assert (await mine.about()).cluster.name == "lab"
        await mine.close()
        with pytest.raises(ConfigError, match=r"'typo'; the Element 127.*knows lab") as caught:
            await Ahv(world.settings(cluster="typo"), clock=BriskClock(), state_dir=tmp_path).about()
        assert "prism.url" in caught.value.remedy


async def _cluster_names(world):
    with pytest.raises(ConfigError) as caught:
        await world.ahv.about()
    return [{"name": name.strip()} for name in caught.value.message.rpartition(":")[2].split(",")]


async def test_the_clock_difference_is_measured(tmp_path):
    async with prism_world(tmp_path, "element", clock_skew_s=600.0) as world:
        assert 597 < (await world.ahv.about()).clock_offset_s < 603


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
