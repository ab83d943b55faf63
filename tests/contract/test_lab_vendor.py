"""Everything that the lab answers and accepts, held against the vendor's own API definitions.

The definitions are no part of this project: NUTANIX_DEFINITIONS names their folder, by
default ../shared/reference/vendor beside the checkout. Without them nothing is checked.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mover.lab import schema
from mover.lab.gateway import Gateway
from mover.lab.operations import OPERATIONS, Operation
from mover.lab.server import DiskSpec, VmSpec
from tests.support.rawprism import MIB, SMALL, RawPrism, serving

FOLDER = Path(os.environ.get("NUTANIX_DEFINITIONS", Path(__file__).parents[3] / "shared/reference/vendor"))

pytestmark = pytest.mark.skipif(
    not (FOLDER / "v3.json").exists(), reason=f"no vendor definitions in {FOLDER} (set NUTANIX_DEFINITIONS)"
)

REAL_BUT_UNDOCUMENTED = {
    # Seen in real answers, not in this Swagger of an Element (newer builds, or Central's).
    "execution_context",
    "vtpm_config",
    "project_reference",
}
NOT_IN_THE_SWAGGER = {"v3.categories.list", "v3.categories.values", "v3.category.query"}
"""Central's own: the Swagger is an Element's."""


@cache
def v3() -> dict[str, Any]:
    """The v3 Swagger with its words for enumerations made binding."""
    text = (FOLDER / "v3.json").read_text().replace('"x-ntnx-enum"', '"enum"')
    return json.loads(text)


@cache
def v2(resource: str) -> dict[str, Any]:
    return json.loads((FOLDER / "v2" / f"{resource}.json").read_text())


# --- answers, v3 ------------------------------------------------------------------------------------


def v3_schema(operation: Operation, status: int) -> dict[str, Any] | None:
    path = operation.path.removeprefix("v3")
    responses = v3()["paths"][path][operation.method.lower()]["responses"]
    found = responses.get(str(status)) if status < 400 else responses.get(str(status), responses["default"])
    assert found is not None, f"{operation.name} answers {status}, documented are {sorted(responses)}"
    return found.get("schema")


def wrong_in_v3(operation: Operation, status: int, body: Any) -> set[str]:
    """What the Swagger forbids or does not know, in words."""
    wanted = v3_schema(operation, status)
    if wanted is None:
        return set()
    validator = jsonschema.Draft4Validator({**wanted, "definitions": v3()["definitions"]})
    wrong = {f"{operation.name} {error.json_path}: {error.message}" for error in validator.iter_errors(body)}
    return wrong | {f"{operation.name}: {name} is unknown" for name in strange_v3(wanted, body) - REAL_BUT_UNDOCUMENTED}


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = v3()["definitions"][part["$ref"].rpartition("/")[2]]
    return part


def strange_v3(part: dict[str, Any], body: Any) -> set[str]:
    part = resolved(part)
    if isinstance(body, list) and "items" in part:
        return {name for item in body for name in strange_v3(part["items"], item)}
    if not isinstance(body, dict) or "properties" not in part:
        return set()
    strange = body.keys() - part["properties"].keys()
    for name in body.keys() & part["properties"].keys():
        strange |= strange_v3(part["properties"][name], body[name])
    return strange


# --- answers, v2 ------------------------------------------------------------------------------------

_PLAIN = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}


def validate_v2(operation: Operation, body: Any) -> None:
    """AssertionError names the first member that is wrong or unknown."""
    resource = operation.name.split(".")[1]
    documents = v2(resource)
    wanted = operation.path.removeprefix("v2").rstrip("/")
    for api in documents["apis"]:
        for one in api["operations"]:
            if one["method"] == operation.method and api["path"].replace("vm_uuid", "uuid").rstrip("/") == wanted:
                check_v2(documents["models"], one["type"], body, operation.name)
                return
    assert operation.name in {"v2.vms.disks.update"}, f"{operation.name} is not documented"


def check_v2(models: dict[str, Any], name: str, body: Any, place: str) -> None:
    if name.startswith("java.util.Map"):
        assert isinstance(body, dict), place
        return
    model = models[name]
    assert isinstance(body, dict), f"{place}: {body!r} is no object"
    for member, value in body.items():
        assert member in model["properties"], f"{place}.{member} is unknown"
        check_v2_member(models, model["properties"][member], value, f"{place}.{member}")


def check_v2_member(models: dict[str, Any], prop: dict[str, Any], value: Any, place: str) -> None:
    kind = prop.get("type") or prop["$ref"]
    if value is None:
        assert place.endswith("data_services_ipaddress"), f"{place} is null"
    elif kind == "array":
        assert isinstance(value, list), place
        for item in value:
            check_v2_member(models, prop["items"], item, f"{place}[]")
    elif kind in _PLAIN:
        assert isinstance(value, _PLAIN[kind]), f"{place}: {value!r} is no {kind}"
        assert kind == "boolean" or not isinstance(value, bool), place
        if "enum" in prop:
            assert value.upper() in [word.upper() for word in prop["enum"]], f"{place}: {value!r}"
    else:
        check_v2(models, kind, value, place)


# --- the journeys -----------------------------------------------------------------------------------


@pytest.fixture
def heard(monkeypatch) -> list[tuple[Operation, int, Any]]:
    """Every honest answer of the lab, as it leaves."""
    answers: list[tuple[Operation, int, Any]] = []
    honest = Gateway._answer

    async def listening(self: Gateway, asked: Any) -> Any:
        answer, caller = await honest(self, asked)
        answers.append((asked.operation, answer.status, json.loads(json.dumps(answer.body))))
        return answer, caller

    monkeypatch.setattr(Gateway, "_answer", listening)
    return answers


async def walk(prism: RawPrism) -> None:
    """Every operation at least once with success, and once with each kind of refusal."""
    lab = prism.lab
    await prism.ok("GET", "v3/users/me")
    vm, proxy = lab.vms["web01"].uuid, lab.proxy_uuid
    for kind in ("clusters", "hosts", "subnets", "vms", "vm_snapshots", "tasks"):
        await prism.ok("POST", f"v3/{kind}/list", {"kind": kind.rstrip("s")})
    one, two = await prism.snapshot("web01", expiration_time_msecs=99_999_999_999_999), await prism.snapshot("web01")
    await lab.live("web01", 1)
    three = await prism.snapshot("web01", uuid=await prism.new_uuid("walk"))
    await prism.regions(prism.path_of(three, "web01"), prism.path_of(two, "web01"))
    await prism.regions(prism.path_of(three, "web01"))
    await prism.attach(prism.path_of(one, "web01"), 5)
    await prism.attach("/default/nowhere", 6)
    await walk_v3(prism, one, vm)
    await walk_v2(prism, vm, proxy)
    await walk_refusals(prism, vm)


async def walk_v3(prism: RawPrism, snapshot: dict[str, Any], vm: str) -> None:
    lab, state = prism.lab, prism.lab.state
    for name, uuid in (("hosts", next(iter(state.hosts))), ("subnets", next(iter(state.networks))), ("vms", vm)):
        await prism.ok("GET", f"v3/{name}/{uuid}")
    await prism.ok("GET", f"v3/clusters/{state.cluster_uuid}")
    await prism.ok("GET", f"v3/vms/{lab.vms['uefi'].uuid}")
    task = next(iter(state.tasks))
    await prism.ok("GET", f"v3/tasks/{task}")
    await prism.ok("POST", "v3/tasks/poll", {"task_uuid_list": [task], "poll_timeout_seconds": 0})
    await prism.ok("GET", "v3/idempotence_identifiers/walk")
    await prism.ok("DELETE", "v3/idempotence_identifiers/walk")
    uuid = snapshot["metadata"]["uuid"]
    await prism.ok("PUT", f"v3/vm_snapshots/{uuid}", {"metadata": snapshot["metadata"], "spec": snapshot["spec"]})
    await prism.ok("POST", "v3/vm_snapshots/list", {"kind": "vm_snapshot"})
    await lab.settle()
    await prism.ok("DELETE", f"v3/vm_snapshots/{uuid}")
    shown = await prism.ok("GET", f"v3/vms/{vm}")
    await prism.ok("PUT", f"v3/vms/{vm}", {"metadata": shown["metadata"], "spec": shown["spec"]})
    await lab.settle()
    spec = shown["spec"] | {"name": "new"}
    spec["resources"] |= {"disk_list": [], "nic_list": []}
    made = await prism.ok("POST", "v3/vms", {"metadata": {"kind": "vm"}, "spec": spec})
    await lab.settle()
    await prism.ok("DELETE", f"v3/vms/{made['metadata']['uuid']}")
    await lab.settle()


async def walk_v2(prism: RawPrism, vm: str, proxy: str) -> None:
    lab, state = prism.lab, prism.lab.state
    for path in (
        "cluster",
        "vms?include_vm_disk_config=true&include_vm_nic_config=true",
        f"vms/{lab.vms['uefi'].uuid}?include_vm_disk_config=true&include_vm_nic_config=true",
        f"vms/{vm}/nics",
        "volume_groups?include_disk_size=true&include_disk_path=true",
        f"volume_groups/{next(iter(state.volume_groups))}",
        "storage_containers",
        f"storage_containers/{next(iter(state.containers))}",
        "networks",
        f"networks/{next(iter(state.networks))}",
        "hosts",
        f"hosts/{next(iter(state.hosts))}",
        "virtual_disks",
        f"virtual_disks/{lab.disk('web01').vmdisk_uuid}",
    ):
        await prism.ok("GET", f"v2.0/{path}")
    address = {"vmdisk_uuid": lab.disk("proxy01", "scsi.5").vmdisk_uuid}
    bigger = {"vm_disks": [{"disk_address": address, "vm_disk_create": {"size": 16 * MIB}}]}
    await prism.v2("PUT", f"vms/{proxy}/disks/update", bigger)
    await prism.v2("POST", f"vms/{proxy}/disks/detach", {"vm_disks": [{"disk_address": address}]})
    await prism.v2("POST", "snapshots", {"snapshot_specs": [{"vm_uuid": vm, "snapshot_name": "old"}]})
    old = (await prism.ok("GET", f"v2.0/snapshots?vm_uuid={vm}"))["entities"][0]["uuid"]
    await prism.ok("GET", f"v2.0/snapshots/{old}")
    await prism.v2("DELETE", f"snapshots/{old}")
    task = await prism.v2("POST", "vms", {"name": "bare", "memory_mb": 512, "num_vcpus": 1})
    await prism.ok("GET", f"v2.0/tasks/{task['uuid']}")
    await prism.ok("POST", "v2.0/tasks/list", {"include_completed": True})
    bare = task["entity_list"][0]["entity_id"]
    await prism.v2("PUT", f"vms/{bare}", {"memory_mb": 1024})
    await prism.v2("POST", f"vms/{bare}/set_power_state", {"transition": "ON"})
    await prism.v2("DELETE", f"vms/{bare}")


async def walk_refusals(prism: RawPrism, vm: str) -> None:
    viewer = (prism.lab.viewer_username, prism.lab.viewer_password)
    for operation in OPERATIONS:
        path = operation.path.replace("v2/", "v2.0/", 1)
        path = path.format(uuid="7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11", client_identifier="x", name="Nothing")
        await prism.send(operation.method, path, {"surprise": None})
        await prism.send(operation.method, path, {}, user=viewer)
        await prism.send(operation.method, path, user=None)
    await prism.refused("POST", "v3/data/changed_regions", {"snapshot_file_path": "/default/x"})
    await prism.refused("GET", "v3/logout", user=None)
    await prism.ok("GET", "v3/logout")


UEFI = VmSpec(
    name="uefi",
    disks=(DiskSpec(size_bytes=MIB), DiskSpec(kind="CDROM", is_empty=True)),
    boot_type="SECURE_BOOT",
    guest_tools="vss",
    protection_type="RULE_PROTECTED",
    cbr_not_capable_reason="service VM",
)


async def test_each_answer_is_what_the_vendor_describes(tmp_path, heard):
    async with serving(tmp_path, vms=(*SMALL, UEFI), v3_page_cap=100) as (_, prism):
        await walk(prism)
    wrong: set[str] = set()
    for operation, status, body in heard:
        if operation.name in NOT_IN_THE_SWAGGER or operation.api == "unknown":
            continue
        if operation.api == "v3":
            wrong |= wrong_in_v3(operation, status, body)
        elif status < 400:
            validate_v2(operation, body)
        else:
            assert body.keys() == {"message", "detailed_message", "error_code"}, operation.name
    assert not wrong, "\n".join(sorted(wrong))
    succeeded = {operation.name for operation, status, _ in heard if status < 300}
    central = {operation.name for operation in OPERATIONS if operation.sides == {"pc"}} | NOT_IN_THE_SWAGGER
    assert {operation.name for operation in OPERATIONS} - succeeded == central


# --- requests ---------------------------------------------------------------------------------------

LOOSE = {
    # Kept by the lab without being understood, so it does not look inside.
    "guest_tools",
    "guest_customization",
    "storage_config",
    "availability_zone_reference",
}


def compare(part: dict[str, Any], table: Any, place: str) -> None:
    """The lab's table names exactly the vendor's members, with their types and what is required."""
    part = resolved(part)
    if isinstance(table, list):
        assert part["type"] == "array", place
        compare(part["items"], table[0], f"{place}[]")
    elif isinstance(table, dict) and "*" not in table:
        compare_members(part, table, place)
    elif isinstance(table, dict):
        assert part["type"] == "object", place
    elif table != "any":
        kind = table.split()[0].split("<")[0].split(">")[0]
        wanted = {"int": "integer", "bool": "boolean"}.get(kind, "string")
        assert part.get("type", "string") == wanted, f"{place}: {table} is {part.get('type')}"
        if "|" in table and "enum" in part:
            assert set(table.split("|")) == {word.upper() for word in part["enum"]}, place


def compare_members(part: dict[str, Any], table: dict[str, Any], place: str) -> None:
    own = {name.rstrip("!"): kind for name, kind in table.items()}
    theirs = part["properties"]
    assert own.keys() - theirs.keys() <= REAL_BUT_UNDOCUMENTED, place
    assert theirs.keys() - own.keys() <= LOOSE, f"{place}: {theirs.keys() - own.keys()} would be refused"
    required = {name.rstrip("!") for name in table if name.endswith("!")}
    assert required >= set(part.get("required", [])), place
    for name in own.keys() & theirs.keys() - LOOSE:
        compare(theirs[name], own[name], f"{place}.{name}")


@pytest.mark.parametrize(
    ("definition", "table"),
    [
        ("vm_intent_input", schema.VM_INTENT),
        ("vm_snapshot_intent_input", schema.SNAPSHOT_INTENT),
        ("changed_regions_query", schema.CHANGED_REGIONS),
        ("idempotence_identifiers_input", schema.IDEMPOTENCE),
        ("vm_list_metadata", schema.LIST),
        ("task_poll_input", schema.TASK_POLL),
    ],
)
def test_v3_tables_are_the_vendors(definition, table):
    compare(v3()["definitions"][definition], table, definition)


@pytest.mark.parametrize(
    ("resource", "model", "table", "more"),
    [
        ("vms", "create.dto.uhura.VMDiskAttachDTO", schema.V2_ATTACH, set()),
        ("vms", "create.dto.uhura.VMPowerStateDTO", schema.V2_POWER, {"vm_logical_timestamp"}),
        ("vms", "create.dto.uhura.VmConfigDTO", schema.V2_VM_CREATE, {"machine_type", "vm_logical_timestamp"}),
        ("snapshots", "create.dto.acropolis.SnapshotCreateDTO", schema.V2_SNAPSHOT, set()),
        ("tasks", "create.dto.ergon.TaskPollRequestDTO", schema.V2_TASK_POLL, set()),
        ("tasks", "create.dto.ergon.TaskRequestDTO", schema.V2_TASK_LIST, set()),
    ],
)
def test_v2_tables_are_the_vendors(resource, model, table, more):
    known = v2(resource)["models"][model]
    own = {name.rstrip("!") for name in table}
    assert own - more <= known["properties"].keys()
    assert {name.rstrip("!") for name in table if name.endswith("!")} >= set(known["required"] or [])
