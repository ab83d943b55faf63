"""Snapshots of both kinds: made, shown to expire, deleted; and what differs between them."""

from __future__ import annotations

import hashlib
from typing import Any

from mover.lab.answers import Json, Refusal, Stuck, TaskFailure
from mover.lab.cluster import Cluster
from mover.lab.regions import Query, lie, page
from mover.lab.state import DiskRecord, FrozenFile, OldSnapshotRecord, SnapshotRecord, VmRecord, is_gone
from mover.lab.tasks import Effect

CREATE = "v3.vm_snapshots.create"
CRASH, APPLICATION = "CRASH_CONSISTENT", "APPLICATION_CONSISTENT"


class Freezer:
    """Orders about snapshots, their expiry, and the changed-regions query."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.effects: dict[str, Effect] = {
            "freeze": self._freeze,
            "thaw": self._thaw,
            "extend": self._extend,
            "freeze_old": self._freeze_old,
            "thaw_old": self._thaw_old,
        }

    # --- v3 -------------------------------------------------------------------------------

    async def _freeze(self, args: dict[str, Any]) -> None:
        cluster = self._cluster
        snapshot = cluster.state.snapshots.get(args["snapshot"])
        if snapshot is None or snapshot.state != "PENDING":
            return
        await cluster.clock.sleep(cluster.options.snapshot_delay_s)
        vm = cluster.state.vms.get(snapshot.vm_uuid)
        about = {snapshot.vm_uuid, vm.name if vm else ""}
        bites = cluster.faults.take("snapshot", CREATE, about)
        if "snapshot_never_complete" in bites:
            raise Stuck
        problem = self._problem(vm, snapshot)
        if "snapshot_error" in bites:
            problem = bites["snapshot_error"]["detail"]
        if vm is None or problem:
            snapshot.state, snapshot.problem = "ERROR", problem
            raise TaskFailure(problem)
        if "snapshot_downgraded" in bites or (snapshot.asked_type == APPLICATION and vm.guest_tools != "vss"):
            snapshot.made_type = CRASH
        files = await self._frozen_files(vm, snapshot)
        if cluster.state.snapshots.get(snapshot.uuid) is not snapshot:
            await self._drop(files)
            raise TaskFailure(f"kNotFound: snapshot {snapshot.uuid} was deleted before it was complete")
        snapshot.files = files
        self._spoil(snapshot, bites)
        snapshot.state, snapshot.updated_at = "COMPLETE", cluster.now()

    def _problem(self, vm: VmRecord | None, snapshot: SnapshotRecord) -> str:
        if vm is None:
            return f"VM {snapshot.vm_uuid} does not exist"
        if vm.cbr_not_capable_reason:
            return f"VM {vm.name} cannot be protected: {vm.cbr_not_capable_reason}"
        degraded = snapshot.asked_type == APPLICATION and vm.guest_tools != "vss"
        if degraded and self._cluster.options.quiesce_failure == "error":
            return f"VM {vm.name} cannot be quiesced: guest tools with VSS are not reachable"
        return ""

    async def _frozen_files(self, vm: VmRecord, snapshot: SnapshotRecord) -> list[FrozenFile]:
        """One file per data disk, and what a real list also holds: ISO and NVRAM."""
        files = []
        for disk in vm.disks:
            if disk.kind == "DISK" and disk.vmdisk_uuid:
                await self._cluster.blocking(self._cluster.bank.freeze, disk.vmdisk_uuid, snapshot.uuid)
                files.append(self._file(disk, snapshot, snapshot.uuid))
            elif disk.kind == "CDROM" and disk.vmdisk_uuid and self._cluster.options.snapshot_extras:
                files.insert(0, self._file(disk, snapshot, None))
        if vm.nvram_uuid and self._cluster.options.snapshot_extras:
            nvram = DiskRecord(
                device_uuid=vm.nvram_uuid,
                index=0,
                vmdisk_uuid=vm.nvram_uuid,
                size_bytes=540672,
                container_uuid=next(iter(self._cluster.state.containers)),
            )
            files.append(self._file(nvram, snapshot, None))
        return files

    def _file(self, disk: DiskRecord, snapshot: SnapshotRecord, frozen: str | None) -> FrozenFile:
        cluster = self._cluster
        live = cluster.live_path(disk)
        container, number = cluster.container_name(disk.container_uuid), snapshot.number
        place = f".snapshot/{number % 100:02d}/{cluster_number(cluster)}-{cluster.state.incarnation}-{number}"
        return FrozenFile(
            file_path=live,
            snapshot_path=f"/{container}/{place}/.acropolis/vmdisk/{disk.vmdisk_uuid}",
            vmdisk_uuid=str(disk.vmdisk_uuid),
            size_bytes=disk.size_bytes,
            frozen=frozen,
        )

    def _spoil(self, snapshot: SnapshotRecord, bites: dict[str, Any]) -> None:
        if "snapshot_no_files" in bites:
            snapshot.files = []
        data = [file for file in snapshot.files if file.frozen]
        if "snapshot_misses_file" in bites and data:
            snapshot.files.remove(data[self._cluster.faults.seed % len(data)])

    async def _thaw(self, args: dict[str, Any]) -> None:
        cluster = self._cluster
        snapshot = cluster.state.snapshots.get(args["snapshot"])
        if snapshot is None:
            return
        if snapshot.deleted_at is None:
            snapshot.deleted_at = cluster.now()
            await cluster.clock.sleep(cluster.options.deleted_snapshot_lingers_s)
        await self.forget(snapshot)

    async def forget(self, snapshot: SnapshotRecord) -> None:
        """Forgotten first, so that a kill leaves files that nobody lists, never a list without files."""
        self._cluster.state.snapshots.pop(snapshot.uuid, None)
        self._cluster.save()
        await self._drop(snapshot.files)

    async def _drop(self, files: list[FrozenFile]) -> None:
        for file in files:
            if file.frozen:
                await self._cluster.blocking(self._cluster.bank.drop, self._cluster.frozen_file(file))

    async def _extend(self, args: dict[str, Any]) -> None:
        snapshot = self._cluster.state.snapshots.get(args["snapshot"])
        if snapshot is None:
            raise TaskFailure(f"kNotFound: snapshot {args['snapshot']} does not exist")
        snapshot.expires_ms = args["expires_ms"]
        snapshot.name = args["name"] or snapshot.name
        snapshot.spec_version += 1
        snapshot.updated_at = self._cluster.now()

    async def expire(self) -> None:
        """Collect what has reached its own expiry."""
        now = self._cluster.now()
        for snapshot in list(self._cluster.state.snapshots.values()):
            if snapshot.deleted_at is None and snapshot.state != "PENDING" and is_gone(snapshot, now):
                await self.forget(snapshot)

    # --- v2 -------------------------------------------------------------------------------

    async def _freeze_old(self, args: dict[str, Any]) -> None:
        """All VMs of one request are one consistency group."""
        cluster = self._cluster
        for spec in args["specs"]:
            vm = cluster.state.vms.get(spec["vm"])
            if vm is None:
                raise TaskFailure(f"kNotFound: VM {spec['vm']} does not exist")
            if spec["uuid"] in cluster.state.old_snapshots:
                continue
            files = []
            for disk in vm.disks:
                if disk.kind == "DISK" and disk.vmdisk_uuid:
                    await cluster.blocking(cluster.bank.freeze, disk.vmdisk_uuid, spec["uuid"])
                    files.append(self._old_file(disk, args["group"], spec["uuid"]))
            cluster.state.old_snapshots[spec["uuid"]] = OldSnapshotRecord(
                uuid=spec["uuid"],
                group_uuid=args["group"],
                vm=vm.model_copy(deep=True),
                name=spec["name"],
                created_at=cluster.now(),
                files=files,
            )

    def _old_file(self, disk: DiskRecord, group_uuid: str, frozen: str) -> FrozenFile:
        container = self._cluster.container_name(disk.container_uuid)
        return FrozenFile(
            file_path=self._cluster.live_path(disk),
            snapshot_path=f"/{container}/.acropolis/snapshot/{group_uuid}/vmdisk/{disk.vmdisk_uuid}",
            vmdisk_uuid=str(disk.vmdisk_uuid),
            size_bytes=disk.size_bytes,
            frozen=frozen,
        )

    async def _thaw_old(self, args: dict[str, Any]) -> None:
        snapshot = self._cluster.state.old_snapshots.pop(args["snapshot"], None)
        await self._drop(snapshot.files if snapshot else [])

    # --- changed regions --------------------------------------------------------------------

    async def changed_regions(self, query: Query, operation: str) -> Json:
        """One page. Raises Refusal 400 (not such a path), 404 (no such file), 422."""
        cluster = self._cluster
        vm_disk = cluster.find_vmdisk(query.path.rpartition("/")[2])
        about = {query.path, query.path.rpartition("/")[2]}
        if vm_disk is not None:
            about |= {vm_disk[0].uuid, vm_disk[0].name, vm_disk[1].label, vm_disk[1].device_uuid}
        bites = cluster.faults.take("regions", operation, about)
        file = self._file_of(query.path, 404)
        base_size = None
        if query.base_path is not None:
            status = cluster.options.missing_base_status
            base = self._file_of("" if "base_gone" in bites else query.base_path, status)
            base_size = base.size_bytes
            rows = await cluster.blocking(cluster.bank.difference, cluster.frozen_file(file), cluster.frozen_file(base))
        else:
            rows = await cluster.blocking(cluster.bank.allocation, cluster.frozen_file(file))
        answer = page(rows, query, file.size_bytes, base_size, cluster.options)
        return lie(answer, bites, query, cluster.faults.seed)

    def _file_of(self, path: str, missing_status: int) -> FrozenFile:
        found = self._cluster.find_frozen(path)
        if found is not None and found[1].frozen is not None:
            return found[1]
        # Live files, files of v2 snapshots and ISO images: not such a path at all.
        status = missing_status if "/.snapshot/" in path and found is None else 400
        if path == "":
            status = missing_status
        text = f"kInvalidValue: Snapshot file pathname {path} is not valid"
        raise Refusal(status, "ENTITY_NOT_FOUND", text)


def cluster_number(cluster: Cluster) -> int:
    """The numeric cluster id that stands in snapshot paths."""
    digest = hashlib.sha256(cluster.state.cluster_uuid.encode()).digest()
    return 4_000_000_000_000_000_000 + int.from_bytes(digest[:7], "big") % 10**18
