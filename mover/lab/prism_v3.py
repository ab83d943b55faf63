"""Prism v3: VMs on Element and Central, snapshots and changed regions on Element."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from mover.clock import iso
from mover.lab import intents, render_v3
from mover.lab.answers import Answer, Json, Refusal, missing
from mover.lab.cluster import Cluster
from mover.lab.freezing import Freezer
from mover.lab.operations import CENTRAL, ELEMENT, Call
from mover.lab.prism_v3_inventory import page
from mover.lab.regions import Query
from mover.lab.state import IdempotenceRecord, SnapshotRecord, VmRecord

Handler = Callable[[Call], Awaitable[Answer]]

_REPLACED = [
    *("name", "description", "memory_mib", "sockets", "cores", "boot_type", "boot_slot", "boot_order"),
    *("machine_type", "has_vtpm", "timezone", "nics", "extra", "nvram_uuid"),
]
"""Members of a VM that a PUT sets."""


class PrismV3:
    """Handlers by operation name."""

    def __init__(self, cluster: Cluster, freezer: Freezer) -> None:
        self._cluster = cluster
        self._freezer = freezer
        self.handlers: dict[str, Handler] = {
            "v3.vms.list": self._vms,
            "v3.vms.get": self._vm,
            "v3.vms.create": self._create_vm,
            "v3.vms.update": self._update_vm,
            "v3.vms.delete": self._delete_vm,
            "v3.vm_snapshots.create": self._freeze,
            "v3.vm_snapshots.list": self._snapshots,
            "v3.vm_snapshots.get": self._snapshot,
            "v3.vm_snapshots.update": self._extend,
            "v3.vm_snapshots.delete": self._thaw,
            "v3.data.changed_regions": self._changed_regions,
            "v3.idempotence_identifiers.create": self._identify,
            "v3.idempotence_identifiers.get": self._identified,
            "v3.idempotence_identifiers.delete": self._unidentify,
        }

    # --- VMs ------------------------------------------------------------------------------

    async def _vms(self, call: Call) -> Answer:
        found = [vm for vm in self._cluster.vms_by_v3(call.side) if _passes(call.body.get("filter", ""), vm)]
        if call.body.get("sort_attribute") == "name":
            found.sort(key=lambda vm: vm.name, reverse=call.body.get("sort_order") == "DESCENDING")
        return page(self._cluster, call, "vm", [render_v3.vm(self._cluster, vm, call.side) for vm in found])

    async def _vm(self, call: Call) -> Answer:
        vm = self._cluster.as_v3_shows(self._cluster.vm(call.params["uuid"], call.side))
        return Answer(render_v3.vm(self._cluster, vm, call.side))

    def _own_uuid(self, metadata: Json) -> str:
        """metadata.uuid, if it is from idempotence_identifiers. Raises Refusal 422."""
        cluster = self._cluster
        uuid = metadata.get("uuid")
        if uuid is None:
            return cluster.clock.new_uuid()
        for record in cluster.state.idempotence.values():
            if uuid.lower() in record.uuids and record.expires_at > cluster.now():
                return str(uuid.lower())
        raise Refusal(422, "INVALID_UUID", f"UUID {uuid} was not made by idempotence_identifiers")

    def _is_repeated(self, kind: str, uuid: str, known: Any) -> bool:
        """Whether it is there already and that is fine. Raises Refusal 409 or 422."""
        how = self._cluster.options.repeated_uuid
        if uuid in known and how != "accept":
            raise Refusal(409 if how == "conflict" else 422, "ENTITY_ALREADY_EXISTS", f"{kind} {uuid} exists already")
        return uuid in known

    def _check_makes_vms(self, call: Call) -> None:
        if call.side == ELEMENT and not self._cluster.options.element_makes_vms:
            raise Refusal(405, "REQUEST_NOT_SUPPORTED", "This method is not supported here.")

    async def _create_vm(self, call: Call) -> Answer:
        self._check_makes_vms(call)
        cluster, body = self._cluster, call.body
        self._check_cluster(call)
        uuid = self._own_uuid(body["metadata"])
        if self._is_repeated("vm", uuid, cluster.state.vms):
            vm = cluster.vm(uuid)
            wishes = []
        else:
            vm = intents.vm_of_v3(cluster, body, uuid)
            wishes = [intents.wish_of_v3(cluster, item) for item in body["spec"]["resources"].get("disk_list", [])]
        args = {"vm": vm.model_dump(), "wishes": [wish.model_dump() for wish in wishes]}
        entities = [("vm", uuid, vm.name)]
        self._check_subnets(vm)
        task = cluster.tasks.start(call.operation.name, "create_vm_intentful", "create_vm", args, entities, turn=uuid)
        return Answer(render_v3.vm(cluster, vm, call.side, task_uuid=task.uuid), 202)

    def _check_cluster(self, call: Call) -> None:
        reference = call.body["spec"].get("cluster_reference")
        if reference is None and call.side == CENTRAL:
            raise intents.invalid("cluster_reference is required")
        if reference is not None and reference["uuid"].lower() != self._cluster.state.cluster_uuid:
            raise Refusal(404, "ENTITY_NOT_FOUND", f"cluster {reference['uuid']} does not exist")

    def _check_subnets(self, vm: VmRecord) -> None:
        for nic in vm.nics:
            if nic.network_uuid not in self._cluster.state.networks:
                raise Refusal(404, "ENTITY_NOT_FOUND", f"subnet {nic.network_uuid} does not exist")

    async def _update_vm(self, call: Call) -> Answer:
        """Declarative: what disk_list does not name is deleted."""
        self._check_makes_vms(call)
        cluster, body = self._cluster, call.body
        vm = cluster.vm(call.params["uuid"])
        _check_version(body["metadata"], vm.spec_version)
        wanted = intents.vm_of_v3(cluster, body, vm.uuid, vm)
        wanted.nvram_uuid = vm.nvram_uuid or wanted.nvram_uuid
        self._check_subnets(wanted)
        items = body["spec"]["resources"].get("disk_list", [])
        kept = intents.kept_of_v3(vm, items)
        sizes = {
            item["uuid"].lower(): item["disk_size_bytes"]
            for item in items
            if {"uuid", "disk_size_bytes"} <= item.keys()
        }
        if any(size < kept[uuid].size_bytes for uuid, size in sizes.items()):
            raise intents.invalid("a disk cannot be made smaller")
        wishes = [intents.wish_of_v3(cluster, item).model_dump() for item in items if "uuid" not in item]
        named = {"use_categories_mapping", "categories"} & body["metadata"].keys()
        args = {
            "vm": wanted.model_dump(),
            "keep": list(kept),
            "sizes": sizes,
            "wishes": wishes,
            "members": [*_REPLACED, "categories"] if named and call.side == CENTRAL else _REPLACED,
        }
        entities = [("vm", vm.uuid, vm.name)]
        cluster.touch(vm)
        task = cluster.tasks.start(
            call.operation.name, "update_vm_intentful", "replace_vm", args, entities, turn=vm.uuid
        )
        return Answer(render_v3.vm(cluster, vm, call.side, task_uuid=task.uuid), 202)

    async def _delete_vm(self, call: Call) -> Answer:
        self._check_makes_vms(call)
        vm = self._cluster.vm(call.params["uuid"], call.side)
        entities = [("vm", vm.uuid, vm.name)]
        task = self._cluster.tasks.start(
            call.operation.name, "delete_vm_intentful", "delete_vm", {"vm": vm.uuid}, entities, turn=vm.uuid
        )
        answer = render_v3.vm(self._cluster, vm, call.side, task_uuid=task.uuid)
        answer["status"]["state"] = "DELETE_PENDING"
        return Answer(answer, 202)

    # --- snapshots ------------------------------------------------------------------------

    async def _freeze(self, call: Call) -> Answer:
        cluster, spec = self._cluster, call.body["spec"]
        vm_uuid = spec.get("resources", {}).get("entity_uuid")
        if vm_uuid is None:
            raise intents.invalid("spec.resources.entity_uuid is needed")
        uuid = self._own_uuid(call.body["metadata"])
        if self._is_repeated("vm_snapshot", uuid, cluster.state.snapshots):
            known = cluster.state.snapshots[uuid]
            return Answer(render_v3.snapshot(cluster, known, task_uuid=known.task_uuid), 202)
        vm = cluster.vm(vm_uuid)
        if vm.created_at + cluster.options.new_vm_hidden_s > cluster.now():
            raise missing("VM", vm_uuid)
        asked = spec.get("snapshot_type", "CRASH_CONSISTENT").upper()
        record = SnapshotRecord(
            uuid=uuid,
            name=spec.get("name", ""),
            vm_uuid=vm.uuid,
            asked_type=asked,
            made_type=asked,
            number=cluster.state.next_snapshot_number,
            expires_ms=spec.get("expiration_time_msecs"),
            group_uuid=cluster.clock.new_uuid(),
            location_uuid=cluster.clock.new_uuid(),
            created_at=cluster.now(),
            updated_at=cluster.now(),
        )
        cluster.state.next_snapshot_number += 1
        cluster.state.snapshots[uuid] = record
        record.task_uuid = self._on_snapshot(call, record, "create_vm_snapshot_intentful", "freeze", vm.uuid)
        return Answer(render_v3.snapshot(cluster, record, task_uuid=record.task_uuid), 202)

    def _on_snapshot(self, call: Call, record: SnapshotRecord, kind: str, order: str, turn: str, **args: Any) -> str:
        args = {"snapshot": record.uuid, **args}
        entities = [("vm_snapshot", record.uuid, record.name)]
        return self._cluster.tasks.start(call.operation.name, kind, order, args, entities, turn=turn).uuid

    def _snapshot_named(self, call: Call) -> SnapshotRecord:
        """Visible while it is being deleted, gone once expired. Raises Refusal 404."""
        cluster = self._cluster
        found = cluster.state.snapshots.get(call.params["uuid"].lower())
        if found is None or (found.deleted_at is None and not cluster.state.live_snapshot(found.uuid, cluster.now())):
            raise missing("vm_snapshot", call.params["uuid"])
        return found

    async def _snapshots(self, call: Call) -> Answer:
        await self._freezer.expire()
        wanted = re.findall(r"entity_uuid==([0-9a-fA-F-]+)", call.body.get("filter", ""))
        found = [
            render_v3.snapshot(self._cluster, one, task_uuid=one.task_uuid)
            for one in self._cluster.state.snapshots.values()
            if not wanted or one.vm_uuid in [uuid.lower() for uuid in wanted]
        ]
        return page(self._cluster, call, "vm_snapshot", found)

    async def _snapshot(self, call: Call) -> Answer:
        found = self._snapshot_named(call)
        return Answer(render_v3.snapshot(self._cluster, found, task_uuid=found.task_uuid))

    async def _extend(self, call: Call) -> Answer:
        record, spec = self._snapshot_named(call), call.body["spec"]
        _check_version(call.body["metadata"], record.spec_version)
        task_uuid = self._on_snapshot(
            call,
            record,
            "update_vm_snapshot_intentful",
            "extend",
            record.uuid,
            expires_ms=spec.get("expiration_time_msecs"),
            name=spec.get("name"),
        )
        return Answer(render_v3.snapshot(self._cluster, record, task_uuid=task_uuid), 202)

    async def _thaw(self, call: Call) -> Answer:
        record = self._snapshot_named(call)
        if record.deleted_at is not None:
            raise missing("vm_snapshot", record.uuid)
        task_uuid = self._on_snapshot(call, record, "delete_vm_snapshot_intentful", "thaw", record.uuid)
        return Answer(render_v3.snapshot(self._cluster, record, task_uuid=task_uuid), 202)

    async def _changed_regions(self, call: Call) -> Answer:
        await self._freezer.expire()
        start, end = call.body.get("start_offset", 0), call.body.get("end_offset")
        if end is not None and end < start:
            raise Refusal(400, "INVALID_ARGUMENT", f"end_offset {end} is before start_offset {start}")
        base = call.body.get("reference_snapshot_file_path")
        query = Query(call.body["snapshot_file_path"], base or None, start, end)
        return Answer(await self._freezer.changed_regions(query, call.operation.name))

    # --- idempotence ------------------------------------------------------------------------

    async def _identify(self, call: Call) -> Answer:
        """The same client_identifier gives the same UUIDs."""
        cluster = self._cluster
        name = call.body.get("client_identifier", cluster.clock.new_uuid())
        count = call.body["count"]
        record = cluster.state.idempotence.get(name)
        if record is None or record.expires_at <= cluster.now():
            minutes = call.body.get("valid_duration_in_minutes", 527040)
            record = IdempotenceRecord(client_identifier=name, uuids=[], expires_at=cluster.now() + 60 * minutes)
            record.uuids = [cluster.clock.new_uuid() for _ in range(count)]
            cluster.state.idempotence[name] = record
        return Answer(_identifiers(record))

    async def _identified(self, call: Call) -> Answer:
        return Answer(_identifiers(self._record(call)))

    async def _unidentify(self, call: Call) -> Answer:
        record = self._record(call)
        del self._cluster.state.idempotence[record.client_identifier]
        return Answer(_identifiers(record))

    def _record(self, call: Call) -> IdempotenceRecord:
        found = self._cluster.state.idempotence.get(call.params["client_identifier"])
        if found is None:
            raise missing("idempotence_identifiers", call.params["client_identifier"])
        return found


def _check_version(metadata: Json, current: int) -> None:
    """Optimistic lock of every PUT. Raises Refusal 409."""
    if metadata.get("spec_version") != current:
        raise Refusal(409, "CONCURRENT_REQUESTS_NOT_ALLOWED", "Edit conflict: please retry change.")


def _identifiers(record: IdempotenceRecord) -> Json:
    return {
        "client_identifier": record.client_identifier,
        "count": len(record.uuids),
        "expiration_time": iso(record.expires_at),
        "uuid_list": record.uuids,
    }


def _passes(text: str, vm: VmRecord) -> bool:
    """FIQL as far as clients use it: vm_name, a whole regular expression."""
    for name, value in re.findall(r"(\w+)==([^;,]+)", text):
        if name == "vm_name" and not re.fullmatch(value, vm.name):
            return False
        if name in ("uuid", "vm_uuid") and value.lower() != vm.uuid:
            return False
    return True
