"""VMs made, finished, switched and deleted when a task is lost or lies: look, then say what is true."""

from __future__ import annotations

import pytest

from mover.errors import EffectUnknown, TaskFailed
from mover.hypervisor.nutanix.ahv import Ahv
from mover.hypervisor.nutanix.vms import set_power
from mover.hypervisor.protocol import NicMode, VmRequest
from tests.support.prismworld import WEB, WIN, BriskClock, prism_world
from tests.support.tinyprism import CLUSTER, TinyPrism, error, serving, session_with, settings_for

VM = "bbbbbbbb-0000-4000-8000-000000000001"


@pytest.fixture
async def world(tmp_path):
    async with prism_world(tmp_path, "element", vms=(WEB,)) as made:
        yield made


@pytest.fixture
async def impatient(world):
    """For tasks that never end alone: a busy machine would time out the others."""
    made = Ahv(world.settings(task_timeout=10.0, call_timeout=2.0), clock=BriskClock(), state_dir=world.state_dir)
    yield made
    await made.close()


@pytest.mark.parametrize("fault", ["task_lost", "task_fails_after_effect"])
async def test_a_vm_whose_deletion_is_reported_badly_is_looked_for(world, fault):
    world.lab.faults.arm(fault, operation="v3.vms.delete")
    await world.ahv.delete_vm(world.uuid("web01"))
    assert "web01" not in world.lab.vms


@pytest.mark.parametrize(("fault", "kind"), [("task_fails", TaskFailed), ("task_stuck", EffectUnknown)])
async def test_a_vm_that_stays_is_never_called_deleted(world, impatient, fault, kind):
    world.lab.faults.arm(fault, operation="v3.vms.delete", count=0)
    with pytest.raises(kind):
        await (impatient if fault == "task_stuck" else world.ahv).delete_vm(world.uuid("web01"))
    assert "web01" in world.lab.vms


async def test_a_made_vm_is_found_although_its_task_is_lost(world):
    saved = await world.ahv.vm(world.uuid("web01"))
    world.lab.faults.arm("task_lost", operation="v3.vms.create")
    made = await world.ahv.create_vm(VmRequest("web02", saved.spec, NicMode.NEW_MAC, {}), key="k")
    assert [vm.uuid for vm in world.lab.vms.values() if vm.name == "web02"] == [made]


@pytest.mark.parametrize("fault", ["task_lost", "task_stuck"])
async def test_an_unclear_boot_disk_is_a_warning_not_a_failed_restore(world, impatient, fault):
    saved = await world.ahv.vm(world.uuid("web01"))
    world.lab.faults.arm(fault, operation="v2.vms.update")
    warnings = await impatient.finish_vm(saved.uuid, VmRequest("web01", saved.spec, NicMode.NEW_MAC, {}))
    assert any("boot disk scsi.0" in warning for warning in warnings)


async def test_power_is_what_prism_shows_although_the_task_is_lost(world):
    world.lab.faults.arm("task_lost", operation="v2.vms.set_power_state")
    await world.ahv.set_power(world.uuid("web01"), on=False)
    assert not world.lab.vms["web01"].is_on


async def test_a_vm_that_is_still_going_off_is_not_called_off(tmp_path):
    tiny = TinyPrism()
    states = iter(["on", "kPoweringOff", "powering_off", "off"])
    tiny.routes[f"GET v2/vms/{VM}"] = lambda _m, _c: (200, {"uuid": VM, "power_state": next(states)})
    tiny.routes[f"POST v2/vms/{VM}/set_power_state/"] = lambda _m, _c: (201, {"task_uuid": "t"})
    done = {"uuid": "t", "progress_status": "Succeeded"}
    tiny.routes["POST v2/tasks/poll"] = lambda _m, _c: (200, {"completed_tasks_info": [done]})
    async with serving(tiny, tmp_path), session_with(tiny, tmp_path) as session:
        await set_power(session, VM, on=False)
    assert next(states, "all were read") == "all were read"
    assert len(tiny.sent("set_power_state")) == 1


async def test_an_expiry_is_put_off_although_the_task_is_lost(world):
    snapshot = await world.freeze("e")
    later = float(int(world.lab.state.snapshots[snapshot.uuid].created_at) + 9000)
    world.lab.faults.arm("task_lost", operation="v3.vm_snapshots.update")
    await world.ahv.extend_snapshot(snapshot.uuid, later)
    assert (await world.ahv.find_snapshot(snapshot.uuid)).expires_at == later


async def test_a_vm_that_exists_already_is_not_made_a_second_time_by_another_way(tmp_path):
    """A Prism that answers 422 to a repeated UUID: the next way (no vTPM, another UUID) would make two."""
    async with prism_world(tmp_path / "lab", "central", vms=(WIN,)) as world:
        saved = await world.ahv.vm(world.uuid("win01"))
    tiny = TinyPrism()
    cluster = {"metadata": {"uuid": CLUSTER}, "status": {"name": "pe", "resources": {}}}
    tiny.routes["POST v3/clusters/list"] = lambda _m, _c: (200, {"entities": [cluster], "metadata": {}})
    tiny.routes["POST v3/idempotence_identifiers"] = lambda _m, _c: (200, {"uuid_list": [VM]})
    subnet = {"metadata": {"uuid": saved.nics[0].network_uuid}, "status": {"name": "vlan10"}}
    tiny.routes["POST v3/subnets/list"] = _list_of(subnet)
    tiny.routes["POST v3/vms/list"] = _list_of()
    tiny.routes["POST v3/clusters/list"] = _list_of(cluster)
    bodies = []

    def create(_match, call):
        bodies.append(call.body)
        tiny.routes[f"GET v3/vms/{VM}"] = lambda _m, _c: (
            200,
            {"metadata": {"uuid": VM}, "status": {"state": "COMPLETE"}},
        )
        return 422, error(422, "ENTITY_ALREADY_EXISTS", "exists")

    tiny.routes["POST v3/vms"] = create
    async with serving(tiny, tmp_path):
        ahv = Ahv(settings_for(tiny), clock=BriskClock(), state_dir=tmp_path)
        request = VmRequest("win02", saved.spec, NicMode.NEW_MAC, {})
        assert await ahv.create_vm(request, key="k") == VM
        await ahv.close()
    assert len(bodies) == 1


def _list_of(*entities):
    return lambda _m, _c: (200, {"entities": list(entities), "metadata": {"total_matches": len(entities)}})
