"""The lab's switches for what the reference leaves open, asked without a product; and what it says of itself."""

from __future__ import annotations

import pytest

from mover.lab import tools
from mover.lab.server import DiskSpec, Lab, VmSpec
from mover.lab.trees import GrowingTree, XfsTree
from tests.support.rawprism import MIB, options, serving

NOBODY = "11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize("status", [404, 500])
async def test_a_vm_that_is_not_there_by_v2(tmp_path, status):
    async with serving(tmp_path, missing_vm_status=status) as (_, prism):
        for method, path, body in (
            ("GET", "", None),
            ("POST", "/set_power_state", {"transition": "ON"}),
            ("POST", "/disks/detach", {"vm_disks": [{"disk_address": {"vmdisk_uuid": NOBODY}}]}),
        ):
            found, answer, _ = await prism.send(method, f"v2.0/vms/{NOBODY}{path}", body)
            assert (found, answer["error_code"]["code"]) == (status, 1202)
            assert NOBODY in answer["message"]
        assert await prism.refused("GET", f"v3/vms/{NOBODY}") == 404


@pytest.mark.parametrize(("how", "status"), [("accept", 202), ("conflict", 409), ("refuse", 422)])
async def test_a_uuid_used_twice(tmp_path, how, status):
    async with serving(tmp_path, repeated_uuid=how) as (lab, prism):
        body = prism.snapshot_body("web01", uuid=await prism.new_uuid("one"))
        await prism.ok("POST", "v3/vm_snapshots", body)
        assert (await prism.send("POST", "v3/vm_snapshots", body))[0] == status
        await lab.settle()
        assert len(lab.snapshots("web01")) == 1


async def test_a_cookie_that_has_expired_may_be_sent_to_a_page(tmp_path):
    async with serving(tmp_path, stale_session="login-page") as (_, prism):
        status, page, headers = await prism.send("GET", "v3/users/me", user=None, cookie="STALE")
        assert (status, headers["Content-Type"].partition(";")[0]) == (403, "text/html")
        assert "<title>Log in</title>" in page
        assert await prism.refused("GET", "v3/users/me", user=None) == 401
        assert (await prism.send("GET", "v3/users/me", cookie="STALE"))[0] == 200


async def test_v3_may_lag_behind_v2(tmp_path):
    async with serving(tmp_path, v3_lag_s=3600.0) as (lab, prism):
        path = prism.path_of(await prism.snapshot("web01"), "web01")
        await prism.attach(path, 5)
        proxy = f"v3/vms/{lab.proxy_uuid}"
        shown = (await prism.ok("GET", proxy))["status"]["resources"]["disk_list"]
        assert len(shown) == len((await prism.vm(lab.proxy_uuid))["vm_disk_info"]) - 1
        await prism.ok("DELETE", f"v3/vms/{lab.vms['db01'].uuid}")
        await lab.settle()
        names = [one["status"]["name"] for one in (await prism.ok("POST", "v3/vms/list", {"kind": "vm"}))["entities"]]
        assert "db01" in names
        assert "db01" not in lab.vms


async def test_a_snapshot_deleted_before_it_is_complete_leaves_no_file(tmp_path):
    async with serving(tmp_path, snapshot_delay_s=0.05) as (lab, prism):
        made = await prism.ok("POST", "v3/vm_snapshots", prism.snapshot_body("web01"))
        assert made["status"]["state"] == "PENDING"
        await prism.ok("DELETE", f"v3/vm_snapshots/{made['metadata']['uuid']}")
        await lab.settle()
        task = await prism.ok("GET", f"v3/tasks/{made['status']['execution_context']['task_uuid']}")
        assert task["status"] == "FAILED"
        assert "deleted before it was complete" in task["error_detail"]
        assert lab.snapshots("web01") == []
        assert [path for path in lab.bank.root.glob("frozen/**/*") if path.is_file()] == []


@pytest.mark.parametrize("state", ["DELETE_PENDING", "COMPLETE"])
async def test_what_a_deleted_snapshot_says_while_it_lingers(tmp_path, state):
    async with serving(tmp_path, deleted_snapshot_lingers_s=0.5, deleted_snapshot_state=state) as (lab, prism):
        path = f"v3/vm_snapshots/{(await prism.snapshot('web01'))['metadata']['uuid']}"
        await prism.ok("DELETE", path)
        while lab.snapshots("web01")[0].deleted_at is None:
            await prism.ok("GET", path)
        assert (await prism.ok("GET", path))["status"]["state"] == state
        assert await prism.refused("DELETE", path) == 404


async def test_a_fault_may_be_armed_for_one_side(tmp_path):
    async with serving(tmp_path) as (lab, prism):
        lab.faults.arm("status", side="pc", status=503, count=0)
        assert await prism.refused("GET", "v3/users/me", side="central") == 503
        await prism.ok("GET", "v3/users/me")


async def test_what_a_machine_cannot_make_is_told_at_every_start(tmp_path, monkeypatch):
    find = tools.find
    monkeypatch.setattr(tools, "find", lambda name: None if name.startswith("mkfs") else find(name))
    web = VmSpec(name="web", disks=(DiskSpec(size_bytes=24 * MIB, content="web", content_bytes=MIB),))
    said = ["a web disk: no file system, mkfs.ext4 is missing"]
    async with await Lab.start(tmp_path / "lab", options=options(vms=(web,))) as lab:
        assert lab.describe()["notes"] == said
        await lab.restart()
        assert lab.describe()["notes"] == said


def test_an_xfs_in_a_file_can_only_be_overwritten():
    assert not issubclass(XfsTree, GrowingTree)
