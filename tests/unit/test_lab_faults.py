"""Every fault of the lab bites where, when and as often as it was armed; and a kill loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest

from mover.errors import UsageError
from mover.lab import faults as fault_menu
from mover.lab.faults import STAGES, Fault, Faults
from mover.lab.server import Lab
from tests.support.rawprism import MIB, RawPrism, options, serving


@pytest.fixture
async def both(tmp_path):
    async with serving(tmp_path) as (lab, prism):
        yield lab, prism


def power(lab, name="web01"):
    return "POST", f"v2.0/vms/{lab.vms[name].uuid}/set_power_state", {"transition": "OFF"}


# --- matching ---------------------------------------------------------------------------------------


def test_a_fault_bites_from_the_nth_match_on_for_its_count():
    faults = Faults()
    armed = faults.arm("status", operation="v3.vms.*", vm="web01", nth=2, count=2)
    calls = [("v3.vms.get", {"web01"})] * 5 + [("v3.hosts.list", {"web01"}), ("v3.vms.get", {"db01"})]
    assert [bool(faults.take("call", *call)) for call in calls] == [False, True, True, False, False, False, False]
    assert (armed.seen, armed.fired) == (5, 2)


def test_a_count_of_zero_bites_until_disarmed():
    faults = Faults()
    armed = faults.arm("latency", count=0, seconds=0.5)
    assert [faults.take("call", "v3.vms.get") for _ in range(3)] == [{"latency": {"seconds": 0.5}}] * 3
    faults.disarm(armed.number)
    assert faults.take("call", "v3.vms.get") == {}


def test_unknown_faults_and_parameters_are_refused_with_the_menu():
    with pytest.raises(UsageError, match="no fault"):
        Faults().arm("earthquake")
    with pytest.raises(UsageError, match="no parameter"):
        Faults().arm("latency", minutes=3)


def test_the_documentation_lists_every_fault():
    for kinds in STAGES.values():
        for name in kinds:
            assert name in (fault_menu.__doc__ or ""), name


# --- on the call ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 429, 500, 502, 503])
async def test_an_error_instead_of_the_effect(both, status):
    lab, prism = both
    lab.faults.arm("status", operation="v2.vms.set_power_state", status=status, retry_after=3)
    got, body, headers = await prism.send(*power(lab))
    assert got == status
    assert body["error_code"]["code"] == status
    assert headers["Retry-After"] == "3"
    await lab.settle()
    assert lab.vms["web01"].is_on


async def test_an_html_page_of_the_gateway(both):
    lab, prism = both
    lab.faults.arm("status", operation="v3.vms.list", status=502, html=True)
    status, body, headers = await prism.send("POST", "v3/vms/list", {})
    assert (status, headers["Content-Type"].split(";")[0]) == (502, "text/html")
    assert body.startswith("<html>")


async def test_an_error_after_the_effect(both):
    lab, prism = both
    lab.faults.arm("effect_then_status", operation="v2.vms.set_power_state", status=500)
    assert await prism.refused(*power(lab)) == 500
    await lab.settle()
    assert not lab.vms["web01"].is_on


@pytest.mark.parametrize(("fault", "is_on"), [("drop", True), ("lost_answer", False), ("cut_body", False)])
async def test_connections_that_are_cut(both, fault, is_on):
    lab, prism = both
    lab.faults.arm(fault, operation="v2.vms.set_power_state")
    with pytest.raises(aiohttp.ClientError):
        await prism.send(*power(lab))
    await lab.settle()
    assert lab.vms["web01"].is_on is is_on
    assert lab.calls[-1].faults == (fault,)


@pytest.mark.parametrize("status", [504, 0])
async def test_an_effect_that_comes_later_than_its_error(both, status):
    lab, prism = both
    lab.faults.arm("late_effect", operation="v2.vms.set_power_state", seconds=0.1, status=status)
    if status:
        assert await prism.refused(*power(lab)) == status
    else:
        with pytest.raises(aiohttp.ClientError):
            await prism.send(*power(lab))
    assert lab.vms["web01"].is_on
    async with asyncio.timeout(5):
        while lab.vms["web01"].is_on:
            await lab.settle()


@pytest.mark.parametrize(("fault", "is_on"), [("hang", True), ("effect_then_hang", False)])
async def test_calls_that_are_never_answered(both, fault, is_on):
    lab, prism = both
    lab.faults.arm(fault, operation="v2.vms.set_power_state")
    with pytest.raises(TimeoutError):
        await prism.send(*power(lab), timeout_s=0.2)
    await lab.settle()
    assert lab.vms["web01"].is_on is is_on


async def test_latency_delays_and_changes_nothing_else(both):
    lab, prism = both
    lab.faults.arm("latency", seconds=0.1)
    await prism.ok("GET", "v3/users/me")
    assert lab.calls[-1].seconds >= 0.1


async def test_being_logged_out_in_the_midst(both):
    lab, prism = both
    _, _, headers = await prism.send("GET", "v3/users/me")
    cookie = headers["Set-Cookie"].split(";")[0].partition("=")[2]
    lab.faults.arm("logged_out", operation="v3.vms.list")
    assert (await prism.send("POST", "v3/vms/list", {}, user=None, cookie=cookie))[0] == 401


async def test_an_administrator_steals_the_slot_that_is_asked_for(both):
    lab, prism = both
    path = prism.path_of(await prism.snapshot("web01"), "web01")
    lab.faults.arm("administrator", operation="v2.vms.disks.attach", action="steal_slot")
    task = await prism.attach(path, 6)
    assert task["progress_status"] == "Failed"
    assert lab.disk("proxy01", "scsi.6").source_path is None


async def test_an_administrator_deletes_the_vm_after_a_call(both):
    lab, prism = both
    lab.faults.arm("administrator", operation="v3.vm_snapshots.get", action="delete_vm", vm="web01", after=True)
    body = await prism.ok("POST", "v3/vm_snapshots", prism.snapshot_body("db01"))
    await prism.ok("GET", f"v3/vm_snapshots/{body['metadata']['uuid']}")
    assert "web01" in lab.vms
    lab.faults.disarm()
    lab.faults.add(
        Fault(name="administrator", operation="v3.users.me", args={"action": "delete_vm", "vm": "web01", "after": True})
    )
    await prism.ok("GET", "v3/users/me")
    assert "web01" not in lab.vms


# --- on tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "is_on"),
    [
        ("task_fails", "Failed", True),
        ("task_fails_after_effect", "Failed", False),
        ("task_aborts", "Aborted", True),
        ("task_slow", "Succeeded", False),
    ],
)
async def test_tasks_that_do_not_end_well(both, fault, status, is_on):
    lab, prism = both
    args = {"seconds": 0.05} if fault == "task_slow" else {}
    lab.faults.arm(fault, operation="v2.vms.set_power_state", vm="web01", **args)
    task = await prism.finished((await prism.ok(*power(lab)))["task_uuid"])
    assert task["progress_status"] == status
    assert bool(task["meta_response"]["error_detail"]) == (status != "Succeeded")
    assert lab.vms["web01"].is_on is is_on


async def test_a_task_that_is_lost(both):
    lab, prism = both
    lab.faults.arm("task_lost", operation="v2.vms.set_power_state")
    uuid = (await prism.ok(*power(lab)))["task_uuid"]
    await lab.settle()
    assert await prism.refused("GET", f"v2.0/tasks/{uuid}") == 404
    assert not lab.vms["web01"].is_on


# --- on devices -------------------------------------------------------------------------------------


@pytest.fixture
async def attached(both):
    """Arms a fault of a device, attaches web01's first disk at scsi.6 → its folder in sysfs, the disk."""
    lab, prism = both
    path = prism.path_of(await prism.snapshot("web01"), "web01")

    async def attach(fault, **args):
        lab.faults.arm(fault, vm="web01", disk="scsi.0", **args)
        assert (await prism.attach(path, 6))["progress_status"] == "Succeeded"
        disk = lab.disk("proxy01", "scsi.6")
        return lab.device_root / "sys/block" / lab.plugged()[disk.vmdisk_uuid], disk

    return attach


async def test_a_device_that_never_comes_though_the_task_succeeded(both):
    lab, prism = both
    path = prism.path_of(await prism.snapshot("web01"), "web01")
    lab.faults.arm("device_never", disk=lab.disk("web01").vmdisk_uuid)
    await prism.attach(path, 6)
    name = lab.plugged()[lab.disk("proxy01", "scsi.6").vmdisk_uuid]
    assert not (lab.device_root / "sys/block" / name).exists()


async def test_devices_that_lie(attached, both):
    lab, _ = both
    folder, disk = await attached("device_wrong_serial")
    assert disk.vmdisk_uuid.replace("-", "_").encode() not in (folder / "device/vpd_pg80").read_bytes()
    await lab.administrator("remove_disk", vm="proxy01", slot="scsi.6")
    folder, disk = await attached("device_wrong_size", missing_bytes=MIB)
    assert int((folder / "size").read_text()) * 512 == disk.size_bytes - MIB
    await lab.administrator("remove_disk", vm="proxy01", slot="scsi.6")
    before = len(lab.plugged())
    await attached("device_decoy")
    assert len(lab.plugged()) == before + 2


# --- over HTTP --------------------------------------------------------------------------------------


async def test_faults_and_the_rest_over_the_control_port(both):
    lab, prism = both
    async with aiohttp.ClientSession(lab.control_url) as control:
        fault = {"name": "status", "operation": "v3.users.me", "args": {"status": 503}}
        async with control.post("/lab/faults", json=fault) as answer:
            assert answer.status == 201
            number = (await answer.json())["number"]
        assert await prism.refused("GET", "v3/users/me") == 503
        async with control.get("/lab/faults") as answer:
            told = await answer.json()
            assert told["armed"][0]["fired"] == 1
            assert told["menu"].keys() == STAGES.keys()
        async with control.delete(f"/lab/faults/{number}") as answer:
            assert answer.status == 200
        assert lab.faults.armed() == []
        async with control.get("/lab/calls") as answer:
            assert (await answer.json())[-1]["operation"] == "v3.users.me"
        async with control.get("/lab") as answer:
            assert (await answer.json())["element_url"] == lab.element_url
        async with control.post("/lab/live", json={"vm": "web01", "round": 1}) as answer:
            assert len((await answer.json())["changed"]) == 2
        async with control.post("/lab/administrator", json={"action": "power", "vm": "web01", "on": False}) as answer:
            assert answer.status == 200
        assert not lab.vms["web01"].is_on


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"name": "earthquake"}),
        ("faults", {"nonsense": 1}),
        ("administrator", {"action": "dance"}),
        ("live", {"vm": "nobody"}),
    ],
)
async def test_the_control_port_explains_what_is_wrong(both, path, body):
    lab, _ = both
    async with aiohttp.ClientSession() as control, control.post(f"{lab.control_url}/lab/{path}", json=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["remedy"]


# --- life and death ---------------------------------------------------------------------------------


async def test_a_restart_keeps_everything_but_the_sessions(both):
    lab, prism = both
    made = await prism.snapshot("web01")
    await prism.attach(prism.path_of(made, "web01"), 6)
    _, _, headers = await prism.send("GET", "v3/users/me")
    cookie = headers["Set-Cookie"].split(";")[0].partition("=")[2]
    before, plugged, url = lab.vms, lab.plugged(), lab.element_url
    await lab.restart()
    assert (lab.vms, lab.plugged(), lab.element_url) == (before, plugged, url)
    assert (await prism.send("GET", "v3/users/me", user=None, cookie=cookie))[0] == 401
    assert await prism.ok("GET", f"v3/vm_snapshots/{made['metadata']['uuid']}") == made


async def test_a_lab_whose_proxy_vm_was_deleted_starts_again(both):
    lab, prism = both
    await lab.administrator("delete_vm", vm="proxy01")
    await lab.restart()
    assert lab.plugged() == {}
    assert await prism.refused("GET", f"v2.0/vms/{lab.proxy_uuid}") == 404


async def test_unfinished_tasks_are_finished_after_a_restart(both):
    lab, prism = both
    lab.faults.arm("task_slow", seconds=3600)
    task = (await prism.ok(*power(lab)))["task_uuid"]
    await lab.restart()
    assert (await prism.finished(task))["progress_status"] == "Succeeded"
    assert not lab.vms["web01"].is_on


_CHILD = """
import asyncio, sys
from pathlib import Path
from mover.lab.server import serve
from tests.support.rawprism import options
asyncio.run(serve(Path(sys.argv[1]), options(), lambda lab: print(lab.element_url, flush=True)))
"""


async def test_a_killed_lab_remembers_all_that_it_had_answered(tmp_path):
    root = Path(__file__).parents[2]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, str(tmp_path / "lab"), stdout=asyncio.subprocess.PIPE, cwd=root
    )
    async with asyncio.timeout(30):
        assert b"https://" in await child.stdout.readline()
    facts = orjson.loads((tmp_path / "lab/state.json").read_bytes())
    vms = {vm["name"]: uuid for uuid, vm in facts["vms"].items()}
    told: list[str] = []

    async def work(lab_side: RawPrism) -> None:
        for number in range(1000):
            body = {
                "metadata": {"kind": "vm_snapshot"},
                "spec": {"name": f"s{number}", "resources": {"entity_uuid": vms["db01"]}},
            }
            answer = await lab_side.ok("POST", "v3/vm_snapshots", body)
            told.append(answer["metadata"]["uuid"])
            if len(told) == 12:
                os.kill(child.pid, signal.SIGKILL)

    class Outside:
        """What RawPrism needs of a lab in another process."""

        ca_file = tmp_path / "lab/ca.pem"
        element_url = f"https://{facts['address']}:9440"
        username, password = options().username, options().password

    async with RawPrism(Outside()) as prism:
        with pytest.raises(aiohttp.ClientError):
            await work(prism)
    await child.wait()
    async with await Lab.start(tmp_path / "lab", options=options()) as lab:
        await lab.settle()
        states = {one.uuid: one.state for one in lab.snapshots()}
        files = [lab.frozen_path(uuid, lab.disk("db01").vmdisk_uuid).exists() for uuid in told]
    assert {states[uuid] for uuid in told} == {"COMPLETE"}
    assert all(files)
