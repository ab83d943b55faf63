"""Prism v2: what only an Element serves: disks, power, containers, networks, v2 snapshots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mover.lab import intents, render_v2, tasks
from mover.lab.answers import Answer, Json, Refusal, missing
from mover.lab.cluster import Cluster
from mover.lab.operations import Call
from mover.lab.state import TaskRecord, VmRecord

Handler = Callable[[Call], Awaitable[Answer]]

_OFF = {"OFF", "ACPI_SHUTDOWN", "SAVE", "SUSPEND", "PAUSE"}


class PrismV2:
    """Handlers by operation name."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.handlers: dict[str, Handler] = {
            "v2.cluster.get": self._about,
            "v2.hosts.list": self._hosts,
            "v2.hosts.get": self._host,
            "v2.vms.list": self._vms,
            "v2.vms.get": self._vm,
            "v2.vms.create": self._create_vm,
            "v2.vms.update": self._update_vm,
            "v2.vms.delete": self._delete_vm,
            "v2.vms.disks.attach": self._attach,
            "v2.vms.disks.detach": self._detach,
            "v2.vms.disks.update": self._resize,
            "v2.vms.nics.list": self._nics,
            "v2.vms.set_power_state": self._power,
            "v2.snapshots.list": self._snapshots,
            "v2.snapshots.get": self._snapshot,
            "v2.snapshots.create": self._freeze,
            "v2.snapshots.delete": self._thaw,
            "v2.tasks.list": self._tasks,
            "v2.tasks.poll": self._poll,
            "v2.tasks.get": self._task,
            "v2.storage_containers.list": self._containers,
            "v2.storage_containers.get": self._container,
            "v2.networks.list": self._networks,
            "v2.networks.get": self._network,
            "v2.virtual_disks.list": self._virtual_disks,
            "v2.virtual_disks.get": self._virtual_disk,
            "v2.volume_groups.list": self._volume_groups,
            "v2.volume_groups.get": self._volume_group,
        }

    def _started(self, task: TaskRecord, status: int = 201) -> Answer:
        return Answer({"task_uuid": task.uuid}, status)

    def _on_vm(self, call: Call, kind: str, order: str, vm: VmRecord, **args: Any) -> TaskRecord:
        """A task about one VM."""
        args = {"vm": vm.uuid, **args}
        entities = [("vm", vm.uuid, vm.name)]
        return self._cluster.tasks.start(call.operation.name, kind, order, args, entities, turn=vm.uuid)

    def _page(self, call: Call, entities: list[Json]) -> Answer:
        """offset and length, or page (from 1) and count."""
        cap = self._cluster.options.v2_page_cap
        length = min(max(call.number("length", call.number("count", cap)), 1), cap)
        first = max(call.number("offset", (call.number("page", 1) - 1) * length), 0)
        return Answer(render_v2.collection(entities[first : first + length], total=len(entities), first=first))

    # --- VMs ------------------------------------------------------------------------------

    async def _vms(self, call: Call) -> Answer:
        names = _filter(call.query.get("filter") or call.query.get("filter_criteria"), "vm_name")
        text = call.query.get("search_string", "")
        found = [vm for vm in self._cluster.vms() if (not names or vm.name in names) and text in vm.name]
        return self._page(call, [self._shown(call, vm) for vm in found])

    async def _vm(self, call: Call) -> Answer:
        return Answer(self._shown(call, self._record(call)))

    def _record(self, call: Call) -> VmRecord:
        """The VM of the path. Raises Refusal 404, or 500 where the lab is made so."""
        try:
            return self._cluster.vm(call.params["uuid"])
        except Refusal as refusal:
            status = self._cluster.options.missing_vm_status
            raise Refusal(status, refusal.reason, refusal.message, code=refusal.code) from None

    def _shown(self, call: Call, vm: VmRecord) -> Json:
        disks = call.flag("include_vm_disk_config", "include_vmdisk_config")
        return render_v2.vm(self._cluster, vm, with_disks=disks, with_nics=call.flag("include_vm_nic_config"))

    async def _create_vm(self, call: Call) -> Answer:
        """Idempotent by uuid."""
        cluster, body = self._cluster, call.body
        uuid = body.get("uuid", cluster.clock.new_uuid()).lower()
        if uuid in cluster.state.vms and cluster.options.repeated_uuid != "accept":
            raise Refusal(422, "ENTITY_ALREADY_EXISTS", f"VM {uuid} exists already")
        vm, _ = intents.vm_of_v2(cluster, body, VmRecord(uuid=uuid, name=body["name"]))
        vm.nics = intents.nics_of_v2(cluster, body)
        wishes = [intents.wish_of_v2(cluster, None, item).model_dump() for item in body.get("vm_disks", [])]
        args = {"vm": vm.model_dump(), "wishes": wishes}
        entities = [("vm", vm.uuid, vm.name)]
        return self._started(
            cluster.tasks.start(call.operation.name, "VmCreate", "create_vm", args, entities, turn=uuid)
        )

    async def _update_vm(self, call: Call) -> Answer:
        vm = self._record(call)
        self._cluster.check_timestamp(vm, call.body.get("vm_logical_timestamp"))
        wanted, members = intents.vm_of_v2(self._cluster, call.body, vm)
        args = {"vm": wanted.model_dump(), "members": members}
        entities = [("vm", vm.uuid, vm.name)]
        return self._started(
            self._cluster.tasks.start(call.operation.name, "VmUpdate", "change_vm", args, entities, turn=vm.uuid)
        )

    async def _delete_vm(self, call: Call) -> Answer:
        """Idempotent: the task of a VM that is gone succeeds."""
        uuid = call.params["uuid"].lower()
        vm = self._cluster.state.vms.get(uuid)
        if vm is not None:
            self._cluster.check_timestamp(vm, call.query.get("logical_timestamp"))
        entities = [("vm", uuid, vm.name if vm else "")]
        task = self._cluster.tasks.start(
            call.operation.name, "VmDelete", "delete_vm", {"vm": uuid}, entities, turn=uuid
        )
        return self._started(task)

    async def _power(self, call: Call) -> Answer:
        vm = self._record(call)
        self._cluster.check_timestamp(vm, call.body.get("vm_logical_timestamp"))
        is_on = call.body["transition"].upper() not in _OFF
        return self._started(self._on_vm(call, "VmSetPowerState", "power", vm, is_on=is_on))

    async def _nics(self, call: Call) -> Answer:
        nics = render_v2.nics(self._record(call))
        return Answer(render_v2.collection(nics, total=len(nics)))

    # --- disks ------------------------------------------------------------------------------

    async def _attach(self, call: Call) -> Answer:
        cluster = self._cluster
        vm = self._record(call)
        items = call.body["vm_disks"]
        broken = next((rule for rule in (intents.broken_rule(cluster, item) for item in items) if rule), None)
        if not items:
            raise intents.invalid("vm_disks is empty")
        if broken and cluster.options.attach_refusal != "task":
            status = 500 if cluster.options.attach_refusal == "sync-500" else 422
            raise Refusal(status, "INVALID_REQUEST", broken)
        wishes = [intents.wish_of_v2(cluster, vm, item).model_dump() for item in items]
        task = self._on_vm(call, "VmDiskCreate", "refuse" if broken else "attach", vm, wishes=wishes, detail=broken)
        return self._started(task)

    async def _detach(self, call: Call) -> Answer:
        vm = self._record(call)
        addresses = [item["disk_address"] for item in call.body["vm_disks"]]
        return self._started(self._on_vm(call, "VmDiskDelete", "detach", vm, addresses=addresses))

    async def _resize(self, call: Call) -> Answer:
        vm = self._record(call)
        item = call.body["vm_disks"][0] if call.body["vm_disks"] else {}
        size_bytes = item.get("vm_disk_create", {}).get("size")
        if size_bytes is None:
            raise intents.invalid("vm_disks[0].vm_disk_create.size is needed")
        task = self._on_vm(call, "VmDiskUpdate", "resize", vm, address=item["disk_address"], size_bytes=size_bytes)
        return self._started(task, 200)

    async def _virtual_disks(self, call: Call) -> Answer:
        cluster = self._cluster
        found = [
            render_v2.virtual_disk(cluster, vm, disk)
            for vm in cluster.state.vms.values()
            for disk in vm.disks
            if disk.vmdisk_uuid and not vm.is_controller
        ]
        return self._page(call, found)

    async def _virtual_disk(self, call: Call) -> Answer:
        found = self._cluster.find_vmdisk(call.params["uuid"].rpartition("::")[2].lower())
        if found is None:
            raise missing("virtual disk", call.params["uuid"])
        return Answer(render_v2.virtual_disk(self._cluster, *found))

    # --- snapshots --------------------------------------------------------------------------

    async def _snapshots(self, call: Call) -> Answer:
        wanted = call.query.get("vm_uuid", "").lower()
        found = [one for one in self._cluster.state.old_snapshots.values() if wanted in ("", one.vm.uuid)]
        return self._page(call, [render_v2.snapshot(self._cluster, one) for one in found])

    async def _snapshot(self, call: Call) -> Answer:
        found = self._cluster.state.old_snapshots.get(call.params["uuid"].lower())
        if found is None:
            raise missing("snapshot", call.params["uuid"])
        return Answer(render_v2.snapshot(self._cluster, found))

    async def _freeze(self, call: Call) -> Answer:
        cluster, specs = self._cluster, []
        for spec in call.body["snapshot_specs"]:
            vm = cluster.vm(spec["vm_uuid"])
            uuid = spec.get("uuid", cluster.clock.new_uuid()).lower()
            specs.append({"vm": vm.uuid, "uuid": uuid, "name": spec.get("snapshot_name", "")})
        if not specs:
            raise intents.invalid("snapshot_specs is empty")
        args = {"specs": specs, "group": cluster.clock.new_uuid()}
        entities = [("snapshot", spec["uuid"], spec["name"]) for spec in specs]
        task = cluster.tasks.start(
            call.operation.name, "SnapshotCreate", "freeze_old", args, entities, turn=specs[0]["vm"]
        )
        return self._started(task)

    async def _thaw(self, call: Call) -> Answer:
        """Idempotent."""
        uuid = call.params["uuid"].lower()
        task = self._cluster.tasks.start(
            call.operation.name, "SnapshotDelete", "thaw_old", {"snapshot": uuid}, [("snapshot", uuid, "")], turn=uuid
        )
        return self._started(task)

    # --- tasks ------------------------------------------------------------------------------

    async def _task(self, call: Call) -> Answer:
        task = self._cluster.tasks.get(call.params["uuid"])
        return Answer(tasks.as_v2(task, self._cluster.state.cluster_uuid))

    async def _tasks(self, call: Call) -> Answer:
        wanted = {item.get("entity_id") for item in call.body.get("entity_list", [])}
        with_done = call.body.get("include_completed", True)
        found = [
            tasks.as_v2(task, self._cluster.state.cluster_uuid)
            for task in self._cluster.tasks.all()
            if (with_done or not task.is_done) and (not wanted or any(uuid in wanted for _, uuid, _ in task.entities))
        ]
        count = min(call.body.get("count") or self._cluster.options.v2_page_cap, self._cluster.options.v2_page_cap)
        return Answer(render_v2.collection(found[:count], total=len(found)))

    async def _poll(self, call: Call) -> Answer:
        timeout_s = min(call.body.get("timeout_interval", 0), 60)
        done = await self._cluster.tasks.poll(call.body["completed_tasks"], timeout_s=timeout_s, until_all=False)
        info = [tasks.as_v2(task, self._cluster.state.cluster_uuid) for task in done]
        return Answer({"timed_out": not done, "completed_tasks_info": info})

    # --- the rest of the inventory ----------------------------------------------------------

    async def _about(self, _call: Call) -> Answer:
        return Answer(render_v2.about(self._cluster))

    async def _hosts(self, call: Call) -> Answer:
        return self._page(call, [render_v2.host(self._cluster, one) for one in self._cluster.state.hosts.values()])

    async def _host(self, call: Call) -> Answer:
        return Answer(render_v2.host(self._cluster, _one(self._cluster.state.hosts, call, "host")))

    async def _containers(self, call: Call) -> Answer:
        found = [render_v2.container(self._cluster, one) for one in self._cluster.state.containers.values()]
        return self._page(call, found)

    async def _container(self, call: Call) -> Answer:
        found = _one(self._cluster.state.containers, call, "storage container")
        return Answer(render_v2.container(self._cluster, found))

    async def _networks(self, call: Call) -> Answer:
        return self._page(call, [render_v2.network(one) for one in self._cluster.state.networks.values()])

    async def _network(self, call: Call) -> Answer:
        return Answer(render_v2.network(_one(self._cluster.state.networks, call, "network")))

    async def _volume_groups(self, call: Call) -> Answer:
        return self._page(call, [self._group(call, one) for one in self._cluster.state.volume_groups.values()])

    async def _volume_group(self, call: Call) -> Answer:
        return Answer(self._group(call, _one(self._cluster.state.volume_groups, call, "volume group")))

    def _group(self, call: Call, record: Any) -> Json:
        size, path = call.flag("include_disk_size"), call.flag("include_disk_path")
        return render_v2.volume_group(self._cluster, record, with_size=size, with_path=path)


def _one(records: dict[str, Any], call: Call, kind: str) -> Any:
    found = records.get(call.params["uuid"].lower())
    if found is None:
        raise missing(kind, call.params["uuid"])
    return found


def _filter(text: str | None, attribute: str) -> list[str]:
    """``vm_name==web01,vm_name==web02`` → names; an attribute that is not known filters nothing."""
    parts = [part.partition("==") for part in (text or "").replace(";", ",").split(",")]
    return [value for name, _, value in parts if name == attribute]
