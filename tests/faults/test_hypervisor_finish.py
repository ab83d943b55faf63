"""A restored VM whose disks are in place: whatever Prism answers from then on is a warning, never a failed restore."""

from __future__ import annotations

import pytest

from mover.errors import RequestRefused
from mover.hypervisor.nutanix.central import Central
from mover.hypervisor.nutanix.endpoints import Endpoints
from mover.hypervisor.nutanix.vms import finish_vm, set_power
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import Cluster
from tests.support.tinyprism import CLUSTER, TinyPrism, answers, error, hang_up, html, serving, session_with

VM = "bbbbbbbb-0000-4000-8000-000000000001"
BOOT_DISK = {"boot_device_type": "DISK", "disk_address": {"device_bus": "SCSI", "device_index": 0}}
ANSWERS = {
    "403": answers(403),
    "409": answers(409),
    "429": answers(429),
    "500": answers(500, {"message": "kSomethingNew", "error_code": {"code": 1}}),
    "html": html(),
    "hang-up": hang_up(),
}
ORDER = {"boot_device_order_list": ["CDROM", "DISK"]}


def request(*, categories=None, **boot):
    boot_device = {"disk_address": {"adapter_type": "SCSI", "device_index": 0}}
    resources = {"boot_config": {"boot_type": "LEGACY", "boot_device": boot_device, **boot}}
    entity = {
        "metadata": {"uuid": VM, "categories_mapping": categories or {}},
        "spec": {"name": "web", "resources": resources},
        "status": {"name": "web", "resources": resources},
    }
    return VmRequest("web", {"v3": entity, "v2": {"ha_priority": 7}}, NicMode.NEW_MAC, {})


@pytest.fixture
async def tiny(tmp_path):
    prism = TinyPrism()
    prism.routes[f"GET v3/vms/{VM}"] = lambda _m, _c: (200, request(**ORDER).spec["v3"])
    prism.routes[f"PUT v2/vms/{VM}/"] = lambda _m, _c: (200, {"task_uuid": "t"})
    done = {"uuid": "t", "progress_status": "Succeeded"}
    prism.routes["POST v2/tasks/poll"] = lambda _m, _c: (200, {"completed_tasks_info": [done]})
    async with serving(prism, tmp_path):
        yield prism


def endpoints(session, *, central=None):
    return Endpoints(session, central, Cluster(CLUSTER, "pe", "6.5"), (), "admin")


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_cannot_be_set_is_a_warning_whatever_prism_answers(tiny, tmp_path, answer):
    tiny.script("PUT v2/vms", *[ANSWERS[answer]] * 500)
    async with session_with(tiny, tmp_path) as session:
        warnings = await finish_vm(endpoints(session), VM, request())
    assert [" could not be set" in warning for warning in warnings] == [True, True]
    assert ["boot disk scsi.0" in warnings[0], "HA priority 7" in warnings[1]] == [True, True]


async def test_a_central_that_must_answer_and_does_not_is_a_warning_and_the_boot_disk_is_set(tiny, tmp_path):
    silent, folder = TinyPrism(), tmp_path / "central"
    folder.mkdir()
    silent.script("GET v3/vms", *[html()] * 500)
    async with serving(silent, folder), session_with(silent, folder) as other, session_with(tiny, tmp_path) as session:
        at = endpoints(session, central=Central(other, is_needed=True))
        warnings = await finish_vm(at, VM, request(categories={"Backup": ["Gold"]}))
    assert "categories again is not known" in " ".join(warnings)
    assert len(tiny.sent("PUT v2/vms")) == 2


@pytest.mark.parametrize("answer", ["403", "422", "500"])
async def test_a_boot_disk_that_is_refused_beside_the_order_is_set_alone(tiny, tmp_path, answer):
    refusal = {**ANSWERS, "422": answers(422)}[answer]

    tiny.script("PUT v2/vms", *[refusal] * (3 if answer == "500" else 1))
    async with session_with(tiny, tmp_path) as session:
        warnings = await finish_vm(endpoints(session), VM, request(**ORDER))
    bodies = [call.body for call in tiny.sent("PUT v2/vms")]
    assert bodies[0]["boot"] == {"boot_device_order": ["CDROM", "DISK"], **BOOT_DISK}
    assert bodies[-2:] == [{"boot": BOOT_DISK}, {"ha_priority": 7}]
    assert len(warnings) == 1
    assert "boot disk scsi.0 is set, but not boot_device_order" in warnings[0]


async def test_a_boot_disk_that_is_refused_alone_too_is_told_once(tiny, tmp_path):
    tiny.script("PUT v2/vms", answers(422), answers(422))
    async with session_with(tiny, tmp_path) as session:
        warnings = await finish_vm(endpoints(session), VM, request(**ORDER))
    assert len(warnings) == 1
    assert "boot disk scsi.0 could not be set" in warnings[0]


def power(tiny, state):
    tiny.routes[f"GET v2/vms/{VM}"] = lambda _m, _c: (200, {"uuid": VM, "power_state": state()})
    tiny.routes[f"POST v2/vms/{VM}/set_power_state/"] = lambda _m, _c: (201, {"task_uuid": "t"})


async def test_a_power_change_that_takes_effect_at_the_last_request_is_seen(tiny, tmp_path):
    power(tiny, lambda: "on" if len(tiny.sent("set_power_state")) == 5 else "off")
    tiny.script("set_power_state", *[answers(409)] * 5)
    async with session_with(tiny, tmp_path) as session:
        await set_power(session, VM, on=True)
    assert len(tiny.sent("set_power_state")) == 5


async def test_a_power_state_that_nobody_knows_is_not_asked_for_again_and_again(tiny, tmp_path):
    power(tiny, lambda: "kSomethingNew")
    tiny.script("set_power_state", answers(422, error(422, "INVALID", "is locked")))
    async with session_with(tiny, tmp_path) as session:
        with pytest.raises(RequestRefused, match="is locked"):
            await set_power(session, VM, on=True)
        assert session.clock.monotonic() < 300
    assert len(tiny.sent("set_power_state")) == 1


NO_REFUSAL = {
    "409": answers(409),
    "503": answers(503),
    "500 unready": answers(500, {"message": "service unavailable", "error_code": {"code": 1}}),
    "500 html": html(500),
    "hang-up": hang_up(),
}


@pytest.mark.parametrize("answer", NO_REFUSAL)
async def test_less_is_asked_for_only_where_prism_refused_the_whole(tiny, tmp_path, answer):
    tiny.script("PUT v2/vms", *[NO_REFUSAL[answer]] * 500)
    async with session_with(tiny, tmp_path, retry_budget=5.0) as session:
        warnings = await finish_vm(endpoints(session), VM, request(**ORDER))
    assert all("boot_device_order" in call.body["boot"] for call in tiny.sent("PUT v2/vms") if "boot" in call.body)
    assert "boot disk scsi.0 could not be set" in warnings[0]


async def test_less_is_not_asked_for_while_the_task_of_the_whole_is_not_known(tiny, tmp_path):
    tiny.script("tasks/", *[ANSWERS["500"]] * 4)
    async with session_with(tiny, tmp_path) as session:
        warnings = await finish_vm(endpoints(session), VM, request(**ORDER))
    assert ["boot" in call.body for call in tiny.sent("PUT v2/vms")] == [True, False]
    assert "boot disk scsi.0 could not be set" in warnings[0]


async def test_a_boot_disk_whose_task_fails_beside_the_order_is_set_alone(tiny, tmp_path):
    failed = {"uuid": "t", "progress_status": "Failed", "meta_response": {"error_detail": "kBadOrder"}}
    tiny.script("tasks/poll", answers(200, {"completed_tasks_info": [failed]}))
    async with session_with(tiny, tmp_path) as session:
        warnings = await finish_vm(endpoints(session), VM, request(**ORDER))
    assert [call.body for call in tiny.sent("PUT v2/vms")][1] == {"boot": BOOT_DISK}
    assert "is set, but not boot_device_order" in warnings[0]
