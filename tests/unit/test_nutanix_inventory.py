"""VMs as two interfaces show them: what disagrees is waited for, and never spoils the rest."""

from __future__ import annotations

import pytest

from mover.clock import FakeClock
from mover.errors import Conflict
from mover.hypervisor.nutanix.ahv import Ahv
from mover.hypervisor.nutanix.inventory import disagreement
from tests.support.tinyprism import CLUSTER, GUEST, MIB, PROXY, TinyPrism, answers, error, serving, settings_for


def by_v3(uuid, name, device):
    place = {"device_type": "DISK", "disk_address": {"adapter_type": "SCSI", "device_index": 0}}
    disk = {"uuid": device, "disk_size_bytes": MIB, "device_properties": place}
    resources = {"disk_list": [disk], "num_sockets": 1, "memory_size_mib": 64}
    return {"metadata": {"uuid": uuid}, "status": {"name": name, "state": "COMPLETE", "resources": resources}}


def by_v2(uuid, device):
    address = {"device_bus": "scsi", "device_index": 0, "device_uuid": device, "vmdisk_uuid": f"file-{device}"}
    return {"uuid": uuid, "power_state": "on", "vm_disk_info": [{"disk_address": address, "size": MIB}]}


class Views:
    """A Prism whose two interfaces may disagree about one VM."""

    def __init__(self, tiny):
        self.v3 = {PROXY: by_v3(PROXY, "proxy01", "p"), GUEST: by_v3(GUEST, "web01", "new")}
        self.v2 = {PROXY: by_v2(PROXY, "p"), GUEST: by_v2(GUEST, "old")}
        cluster = {"metadata": {"uuid": CLUSTER}, "status": {"name": "pe", "resources": {}}}
        tiny.routes["POST v3/clusters/list"] = lambda _m, _c: (200, listed([cluster]))
        tiny.routes["POST v3/(hosts|subnets)/list"] = lambda _m, _c: (200, listed([]))
        tiny.routes["GET v2/storage_containers/"] = lambda _m, _c: (200, listed([]))
        tiny.routes["POST v3/vms/list"] = lambda _m, _c: (200, listed(list(self.v3.values())))
        tiny.routes["GET v2/vms/"] = lambda _m, _c: (200, listed(list(self.v2.values())))
        self.unlisted = {}
        tiny.routes["GET v3/vms/(.*)"] = lambda match, _c: self._one(match[1])
        tiny.routes["GET v2/vms/(.+)"] = lambda match, _c: (200, self.v2[match[1]])

    def _one(self, vm_uuid):
        found = self.v3.get(vm_uuid) or self.unlisted.get(vm_uuid)
        return (200, found) if found else (404, error(404, "ENTITY_NOT_FOUND"))


def listed(entities):
    return {"entities": entities, "metadata": {"total_matches": len(entities), "grand_total_entities": len(entities)}}


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        clock = FakeClock()
        ahv = Ahv(settings_for(tiny), clock=clock, state_dir=tmp_path)
        yield Views(tiny), ahv, clock, tiny
        await ahv.close()


@pytest.mark.parametrize("is_forbidden", [False, True])
async def test_a_vm_that_only_v2_lists_is_read_by_itself_or_noted(prism, is_forbidden):
    views, ahv, _, tiny = prism
    late, hidden = "1a7e0000-0000-4000-8000-000000000008", "41dde000-0000-4000-8000-000000000009"
    views.v2 = {
        PROXY: by_v2(PROXY, "p"),
        GUEST: by_v2(GUEST, "new"),
        late: by_v2(late, "l"),
        hidden: by_v2(hidden, "h"),
    }
    views.unlisted = {late: by_v3(late, "db01", "l")}
    if is_forbidden:
        tiny.script(f"GET v3/vms/{hidden}", answers(403, error(403, "ACCESS_DENIED")))
    found = await ahv.inventory()
    assert [vm.name for vm in found.vms] == ["db01", "proxy01", "web01"]
    (note,) = found.notes
    assert hidden in note
    assert late not in note


def test_a_v3_that_tells_no_size_in_bytes_agrees_by_the_devices():
    """Older builds round to MiB: that must not be used, and is no disagreement."""
    entity, other = by_v3(GUEST, "web01", "d"), by_v2(GUEST, "d")
    del entity["status"]["resources"]["disk_list"][0]["disk_size_bytes"]
    assert disagreement(entity, other) == ""
    other["vm_disk_info"][0]["disk_address"]["device_uuid"] = "e"
    assert "disk e" in disagreement(entity, other)


async def test_one_vm_that_is_shown_differently_does_not_spoil_the_inventory(prism):
    _, ahv, clock, _ = prism
    begun = clock.monotonic()
    found = await ahv.inventory()
    assert [vm.name for vm in found.vms] == ["proxy01", "web01"]
    assert [disk.device_uuid for disk in found.vms[1].disks] == ["old"]
    assert clock.monotonic() - begun < 2


async def test_an_interface_that_lags_is_waited_for(prism):
    views, ahv, clock, tiny = prism
    await ahv.containers()
    begun, tiny.calls[:] = clock.monotonic(), []

    def lagging(_match, _call):
        return 200, views.v3[GUEST] if clock.monotonic() - begun < 8 else by_v3(GUEST, "web01", "old")

    tiny.routes = {f"GET v3/vms/{GUEST}": lagging, **tiny.routes}
    assert (await ahv.vm(GUEST)).disks[0].vmdisk_uuid == "file-old"
    assert len(tiny.sent("GET v3/vms")) < 8


async def test_an_interface_that_never_agrees_is_said_with_the_disk(prism):
    _, ahv, clock, tiny = prism
    await ahv.containers()
    begun = clock.monotonic()
    with pytest.raises(Conflict, match=r"web01.*new of"):
        await ahv.vm(GUEST)
    assert 10 < clock.monotonic() - begun < 20
    assert 4 <= len(tiny.sent("GET v3/vms")) <= 8
