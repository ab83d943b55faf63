"""The lab answers as Prism does: log-in, sides, paging, strict bodies, habits of real clients."""

from __future__ import annotations

import asyncio

import pytest

from mover.clock import FakeClock
from mover.lab.answers import Refusal
from mover.lab.auth import COOKIE, Gate
from mover.lab.operations import OPERATIONS, find, plain_path
from mover.lab.server import Lab, VmSpec
from mover.lab.state import State
from tests.support.rawprism import RawPrism, options, serving


@pytest.fixture
async def lab(tmp_path):
    async with await Lab.start(tmp_path / "lab", options=options()) as lab:
        yield lab


@pytest.fixture
async def prism(lab):
    async with RawPrism(lab) as prism:
        yield prism


async def test_basic_makes_a_session_and_the_cookie_alone_suffices(prism):
    status, _, headers = await prism.send("GET", "v3/users/me")
    cookie = headers["Set-Cookie"].split(";")[0].partition("=")[2]
    assert status == 200
    assert (await prism.send("GET", "v3/users/me", user=None, cookie=cookie))[0] == 200
    assert (await prism.send("GET", "v2.0/cluster", user=None, cookie=cookie))[0] == 200
    assert (await prism.send("GET", "v3/users/me", user=None, cookie=cookie, side="central"))[0] == 401


async def test_a_stale_cookie_is_401_alone_and_harmless_beside_basic(prism):
    assert (await prism.send("GET", "v3/users/me", user=None, cookie="STALE"))[0] == 401
    assert (await prism.send("GET", "v3/users/me", cookie="STALE"))[0] == 200


async def test_log_out_ends_the_session(prism):
    _, _, headers = await prism.send("GET", "v3/users/me")
    cookie = headers["Set-Cookie"].split(";")[0].partition("=")[2]
    await prism.ok("GET", "v3/logout", user=None, cookie=cookie)
    assert (await prism.send("GET", "v3/users/me", user=None, cookie=cookie))[0] == 401


def gate(clock, **wishes):
    state = State(
        address="", central_address="", cluster_uuid="", cluster_name="", incarnation=1, central_uuid="", admin_uuid="",
        proxy_uuid="",
    )  # fmt: skip
    return Gate(options(vms=(), **wishes), state, clock)


async def test_sessions_expire():
    clock = FakeClock()
    door = gate(clock, session_life_s=60)
    cookie = door.admit("Basic YWRtaW46bnV0YW5peC80dQ==", None).new_cookie
    assert door.admit(None, cookie).is_admin
    await clock.sleep(61)
    with pytest.raises(Refusal) as caught:
        door.admit(None, cookie)
    assert caught.value.status == 401


async def test_wrong_passwords_lock_the_account_for_a_while():
    clock = FakeClock()
    door = gate(clock, lockout_tries=3, lockout_s=100)
    right, wrong = "Basic YWRtaW46bnV0YW5peC80dQ==", "Basic YWRtaW46d3Jvbmc="
    for _ in range(3):
        with pytest.raises(Refusal):
            door.admit(wrong, None)
    with pytest.raises(Refusal, match="locked"):
        door.admit(right, None)
    await clock.sleep(101)
    assert door.admit(right, None).is_admin


async def test_the_lock_out_survives_a_restart_and_an_administrator_lifts_it(tmp_path):
    async with await Lab.start(tmp_path / "lab", options=options(lockout_tries=2)) as lab, RawPrism(lab) as prism:
        for _ in range(2):
            assert await prism.refused("GET", "v3/users/me", user=("admin", "wrong")) == 401
        await lab.restart()
        assert await prism.refused("GET", "v3/users/me") == 401
        await lab.administrator("unlock")
        await prism.ok("GET", "v3/users/me")


async def test_a_viewer_looks_but_changes_nothing(prism, lab):
    viewer = (lab.viewer_username, lab.viewer_password)
    await prism.ok("POST", "v3/vms/list", {"kind": "vm"}, user=viewer)
    await prism.ok("GET", "v2.0/vms", user=viewer)
    for operation in OPERATIONS:
        if operation.needs_admin:
            path = operation.path.replace("v2/", "v2.0/", 1).format(uuid=lab.proxy_uuid, client_identifier="x")
            assert await prism.refused(operation.method, path, {}, user=viewer) == 403, operation.name


async def test_headers_tell_element_from_central(prism):
    _, _, element = await prism.send("GET", "v3/users/me")
    _, _, central = await prism.send("GET", "v3/users/me", side="central")
    assert element["X-Ntnx-Env"] == "pe"
    assert central["X-Ntnx-Env"] == "pc"
    assert central["X-Ntnx-Product"].startswith("pc.")
    assert COOKIE in element["Set-Cookie"]
    assert "Date" in element


async def test_a_skewed_clock_shows_in_the_date_header(tmp_path):
    async with serving(tmp_path, clock_skew_s=-86400 * 365 * 40) as (_, prism):
        _, _, headers = await prism.send("GET", "v3/users/me")
    assert " 19" in headers["Date"]


async def test_what_belongs_to_the_other_side_is_404(prism, lab):
    for operation in OPERATIONS:
        path = operation.path.replace("v2/", "v2.0/", 1)
        path = path.format(uuid=lab.proxy_uuid, client_identifier="x", name="Backup")
        for side, name in (("pe", "element"), ("pc", "central")):
            status, body, _ = await prism.send(operation.method, path, {}, side=name)
            if side not in operation.sides:
                assert status == 404, (operation.name, name)
                assert ("error_code" in body) if operation.api == "v2" else (body["code"] == 404)


async def test_central_forwards_v2_to_a_named_element(prism, lab):
    assert await prism.refused("GET", "v2.0/vms", side="central") == 404
    assert await prism.refused("GET", "v2.0/vms?proxyClusterUuid=00063333-0000-0000-0000-000000000000", side="central")
    found = await prism.ok("GET", f"v2.0/vms?proxyClusterUuid={lab.state.cluster_uuid}", side="central")
    assert {vm["name"] for vm in found["entities"]} == {"proxy01", "web01", "db01"}


async def test_central_lists_itself_and_its_elements_one_out_of_reach(tmp_path):
    async with serving(tmp_path, central_lists_unreachable=True) as (lab, prism):
        at_central = await prism.ok("POST", "v3/clusters/list", {"kind": "cluster"}, side="central")
        at_element = await prism.ok("POST", "v3/clusters/list", {"kind": "cluster"})
        own = lab.state.address
    services = [one["status"]["resources"]["config"]["service_list"] for one in at_central["entities"]]
    addresses = [one["status"]["resources"]["network"].get("external_ip") for one in at_central["entities"]]
    assert services == [["AOS"], ["AOS"], ["PRISM_CENTRAL"]]
    assert addresses == ["192.0.2.1", own, None]
    assert len(at_element["entities"]) == 1


async def test_vms_of_another_cluster_are_centrals(tmp_path):
    vms = (VmSpec(name="far", disks=(), is_elsewhere=True),)
    async with serving(tmp_path, vms=vms, central_lists_unreachable=True) as (lab, prism):
        uuid = lab.vms["far"].uuid
        shown = await prism.ok("GET", f"v3/vms/{uuid}", side="central")
        clusters = await prism.ok("POST", "v3/clusters/list", {}, side="central")
        assert shown["status"]["cluster_reference"]["uuid"] == clusters["entities"][0]["metadata"]["uuid"]
        assert await prism.refused("GET", f"v3/vms/{uuid}") == 404
        assert await prism.refused("GET", f"v2.0/vms/{uuid}") == 404
        listed = await prism.ok("POST", "v3/vms/list", {})
        assert "far" not in [vm["status"]["name"] for vm in listed["entities"]]


async def test_central_without_its_element(tmp_path):
    async with serving(tmp_path, has_element=False, central_tells_address=False) as (_, prism):
        found = await prism.ok("POST", "v3/clusters/list", {}, side="central")
        assert "external_ip" not in found["entities"][0]["status"]["resources"]["network"]
        with pytest.raises(OSError, match=r"Connect call failed|Cannot connect"):
            await prism.send("GET", "v3/users/me")


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("/api/nutanix/v3//vms/list", "v3/vms/list"),
        ("/api/nutanix/v2.0/vms/", "v2/vms"),
        ("/PrismGateway/services/rest/v2.0/vms/x/set_power_state/", "v2/vms/x/set_power_state"),
        ("/api/vmm/v4.0/ahv/config/vms", ""),
        ("/", ""),
    ],
)
def test_paths_as_clients_write_them(raw, plain):
    assert plain_path(raw) == plain


def test_each_operation_finds_itself_and_has_its_own_name():
    for operation in OPERATIONS:
        found = find(operation.method, operation.path.format(uuid="u", client_identifier="c", name="n"))
        assert found is not None
        assert found[0].name == operation.name
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


async def test_v4_does_not_exist_here(prism, lab):
    async with prism._session.get(f"{lab.element_url}/api/vmm/v4.0/ahv/config/vms") as response:
        assert response.status in (401, 404)


async def test_v3_lists_come_in_pages_and_a_huge_length_is_clipped(tmp_path):
    vms = tuple(VmSpec(name=f"vm{number:02}", disks=()) for number in range(7))
    async with serving(tmp_path, vms=vms, v3_page_cap=3) as (_, prism):
        seen, offset, total = [], 0, 1
        while offset < total:
            page = await prism.ok("POST", "v3/vms/list", {"kind": "vm", "length": 2147483647, "offset": offset})
            seen += [vm["status"]["name"] for vm in page["entities"]]
            assert page["metadata"]["length"] == len(page["entities"]) <= 3
            offset, total = offset + page["metadata"]["length"], page["metadata"]["total_matches"]
    assert len(seen) == len(set(seen)) == 8


async def test_v3_lists_filter_and_sort(prism):
    found = await prism.ok("POST", "v3/vms/list", {"kind": "vm", "filter": "vm_name==web.*"})
    assert [vm["status"]["name"] for vm in found["entities"]] == ["web01"]
    body = {"kind": "vm", "sort_attribute": "name", "sort_order": "DESCENDING"}
    found = await prism.ok("POST", "v3/vms/list", body)
    assert [vm["status"]["name"] for vm in found["entities"]] == ["web01", "proxy01", "db01"]


async def test_v2_pages_two_ways_and_filters(prism):
    page = await prism.ok("GET", "v2.0/vms?offset=1&length=1")
    assert page["metadata"] == {
        "grand_total_entities": 3, "total_entities": 3, "count": 1, "start_index": 2, "end_index": 2,
    }  # fmt: skip
    page = await prism.ok("GET", "v2.0/storage_containers?page=2&count=2")
    assert [one["name"] for one in page["entities"]] == ["NutanixManagementShare"]
    page = await prism.ok("GET", "v2.0/vms?filter=vm_name==db01&length=2147483647")
    assert [one["name"] for one in page["entities"]] == ["db01"]


async def test_a_vm_listed_without_flags_has_no_disks_member(prism, lab):
    bare = await prism.ok("GET", f"v2.0/vms/{lab.proxy_uuid}")
    assert "vm_disk_info" not in bare
    assert "vm_nics" not in bare
    assert "vm_disk_info" in await prism.ok("GET", f"v2.0/vms/{lab.proxy_uuid}?include_vmdisk_config=true")


async def test_the_controller_vm_is_hidden(prism, lab):
    cvm = lab.vms["NTNX-CVM-1"].uuid
    assert await prism.refused("GET", f"v2.0/vms/{cvm}") == 404
    assert await prism.refused("GET", f"v3/vms/{cvm}") == 404


async def test_disks_have_two_names_and_v3_knows_the_devices(prism, lab):
    uuid = lab.vms["web01"].uuid
    old, new = await prism.vm(uuid), await prism.ok("GET", f"v3/vms/{uuid}")
    devices = {disk["disk_address"]["device_uuid"] for disk in old["vm_disk_info"]}
    files = {disk["disk_address"].get("vmdisk_uuid") for disk in old["vm_disk_info"]}
    assert {disk["uuid"] for disk in new["status"]["resources"]["disk_list"]} == devices
    assert not devices & files


async def test_a_volume_group_is_an_entry_without_size(prism, lab):
    shown = await prism.vm(lab.vms["db01"].uuid)
    entry = shown["vm_disk_info"][1]
    assert entry["disk_address"]["volume_group_uuid"]
    assert "size" not in entry
    groups = await prism.ok("GET", "v2.0/volume_groups/?include_disk_size=true&include_disk_path=true")
    assert groups["entities"][0]["attachment_list"] == [{"vm_uuid": lab.vms["db01"].uuid}]


async def test_container_sizes_are_strings(prism):
    found = (await prism.ok("GET", "v2.0/storage_containers"))["entities"]
    assert all(isinstance(value, str) for one in found for value in one["usage_stats"].values())


async def test_categories_are_centrals(prism, lab):
    uuid = lab.vms["web01"].uuid
    assert (await prism.ok("GET", f"v3/vms/{uuid}", side="central"))["metadata"]["categories_mapping"] == {
        "Backup": ["Gold"]
    }
    assert (await prism.ok("GET", f"v3/vms/{uuid}"))["metadata"]["categories_mapping"] == {}
    keys = await prism.ok("POST", "v3/categories/list", {"kind": "category"}, side="central")
    assert [one["name"] for one in keys["entities"]] == ["Backup"]
    assert await prism.refused("POST", "v3/categories/list", {"kind": "category"}) == 404
    query = {"category_filter": {"type": "CATEGORIES_MATCH_ANY", "kind_list": ["vm"], "params": {"Backup": ["Gold"]}}}
    found = await prism.ok("POST", "v3/category/query", query, side="central")
    assert [one["name"] for one in found["results"][0]["kind_reference_list"]] == ["web01"]


async def test_habits_of_real_clients_are_not_refused(prism):
    await prism.ok("POST", "v3//vms/list", {})
    await prism.ok("POST", "v3/vms/list", {"kind": "vm", "length": 10})
    await prism.ok("GET", "v2.0/vms/", raw=b"null")
    await prism.ok("GET", "v2.0/storage_containers/?count=2147483647", raw=b"{}")


@pytest.mark.parametrize(
    "body",
    [
        {"snapshot_file_path": "/x", "start_offset": "0"},
        {"snapshot_file_path": "/x", "reference_snapshot_file_path": None},
        {"snapshot_file_path": "/x", "start_offset": -1},
        {"snapshot_file_path": "/x", "start_offset": True},
        {"snapshot_file_path": "/x", "block_size": 1},
        {"start_offset": 0},
        [],
        None,
    ],
)
async def test_bodies_of_wrong_types_are_422(prism, body):
    assert await prism.refused("POST", "v3/data/changed_regions", body) == 422


async def test_bodies_that_are_no_json_are_422_and_say_so_in_v3s_shape(prism):
    status, body, _ = await prism.send("POST", "v3/vm_snapshots", raw=b"{nonsense")
    assert status == 422
    assert body["kind"] == "vm_snapshot"
    assert body["state"] == "ERROR"
    assert body["message_list"][0]["reason"] == "DESERIALIZATION_FAILED"


async def test_long_poll_returns_when_the_first_task_is_done_or_at_its_time_out(prism, lab):
    lab.faults.arm("task_stuck", operation="v2.vms.set_power_state", vm="web01")
    stuck = await prism.ok("POST", f"v2.0/vms/{lab.vms['web01'].uuid}/set_power_state/", {"transition": "OFF"})
    quick = await prism.ok("POST", f"v2.0/vms/{lab.vms['db01'].uuid}/set_power_state/", {"transition": "off"})
    both = [stuck["task_uuid"], quick["task_uuid"]]
    answer = await prism.ok("POST", "v2.0/tasks/poll", {"completed_tasks": both, "timeout_interval": 20})
    assert [task["uuid"] for task in answer["completed_tasks_info"]] == [quick["task_uuid"]]
    assert not answer["timed_out"]
    answer = await prism.ok("POST", "v2.0/tasks/poll", {"completed_tasks": both[:1], "timeout_interval": 0})
    assert answer == {"timed_out": True, "completed_tasks_info": []}
    answer = await prism.ok("POST", "v3/tasks/poll", {"task_uuid_list": both, "poll_timeout_seconds": 0})
    assert answer["has_poll_timed_out"]
    assert len(answer["entities"]) == 1


async def test_one_task_looks_right_in_both_apis(prism, lab):
    done = await prism.v2("POST", f"vms/{lab.vms['db01'].uuid}/set_power_state", {"transition": "OFF"})
    new = await prism.ok("GET", f"v3/tasks/{done['uuid']}", side="central")
    assert done["progress_status"] == "Succeeded"
    assert new["status"] == "SUCCEEDED"
    assert done["entity_list"][0]["entity_id"] == new["entity_reference_list"][0]["uuid"] == lab.vms["db01"].uuid
    assert await prism.refused("GET", f"v3/tasks/{lab.proxy_uuid}") == 404


async def test_a_new_task_or_vm_may_be_404_for_a_while(tmp_path):
    async with serving(tmp_path, unseen_task_gets=2, new_vm_hidden_s=3600) as (lab, prism):
        body = {"transition": "OFF"}
        task = await prism.ok("POST", f"v2.0/vms/{lab.vms['db01'].uuid}/set_power_state/", body)
        for _ in range(2):
            assert await prism.refused("GET", f"v2.0/tasks/{task['task_uuid']}") == 404
        await prism.ok("GET", f"v2.0/tasks/{task['task_uuid']}")
        assert await prism.refused("POST", "v3/vm_snapshots", prism.snapshot_body("web01")) == 404


async def test_calls_are_logged_under_their_names(prism, lab):
    lab.forget_calls()
    await prism.ok("GET", f"v2.0/vms/{lab.proxy_uuid}/?include_vm_disk_config=true")
    await prism.refused("GET", "v2.0/nonsense")
    assert [(call.operation, call.status) for call in lab.calls] == [("v2.vms.get", 200), ("unknown", 404)]


async def test_two_labs_stand_side_by_side(tmp_path):
    async with serving(tmp_path / "a", vms=()) as (one, _), serving(tmp_path / "b", vms=()) as (two, _):
        assert one.element_url != two.element_url
        assert one.fingerprint != two.fingerprint


def test_a_lab_stays_on_this_machine():
    with pytest.raises(ValueError, match="loopback"):
        options(address="0.0.0.0")


async def test_a_lab_whose_address_is_taken_says_so(tmp_path):
    async with await Lab.start(tmp_path / "a", options=options(vms=())) as one:
        with pytest.raises(Exception, match="cannot listen"):
            await Lab.start(tmp_path / "b", options=options(vms=(), address=one.state.address))


async def test_concurrent_calls_are_served(prism):
    answers = await asyncio.gather(*(prism.send("POST", "v3/vms/list", {}) for _ in range(20)))
    assert {status for status, _, _ in answers} == {200}
