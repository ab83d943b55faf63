"""What is looked at before a VM is frozen or rebuilt: the Proxy VM, free space, what a point will lack."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mover.errors import NotFound, ProxyUnfit, SpaceShort
from mover.model.machine import StorageContainer, Vm
from mover.operations.node import Node
from mover.units import format_size


async def check_proxy(node: Node, cluster_uuid: str, *, what: str) -> Vm:
    """Our own VM, able to take disks of that cluster. Raises ProxyUnfit."""
    try:
        proxy = await node.hypervisor.vm(node.proxy_uuid)
    except NotFound as error:
        raise ProxyUnfit(
            f"The Proxy VM {node.proxy_uuid} is not on this cluster",
            remedy="Run mover in a VM of the cluster, or set node.proxy_uuid to its UUID.",
        ) from error
    if proxy.cluster_uuid != cluster_uuid:
        raise ProxyUnfit(
            f"The Proxy VM {proxy.name} runs in another cluster than {what}",
            remedy="Use a node whose Proxy VM runs in the VM's cluster: disks cannot be attached across clusters.",
        )
    if not proxy.is_on:
        raise ProxyUnfit(
            f"The Proxy VM {proxy.name} is off, so disks cannot be plugged into it",
            remedy="Run mover inside its Proxy VM; correct node.proxy_uuid if this is another VM.",
        )
    return proxy


async def check_space(node: Node, container_uuids: Collection[str | None]) -> None:
    """Each container keeps its reserve, for the snapshot's growth; so does the store. Raises SpaceShort."""
    needed = {uuid: 0 for uuid in container_uuids if uuid}
    require_space(await node.hypervisor.containers(), needed, keep_bytes=node.settings.limits.container_free)
    await check_store_space(node)


def require_space(there: Collection[StorageContainer], needed: Mapping[str, int], *, keep_bytes: int) -> None:
    """Each container has the bytes needed of it (by its UUID), beyond its reserve. Raises SpaceShort."""
    for container in there:
        wanted = keep_bytes + needed.get(container.uuid, 0)
        if container.uuid in needed and container.free_bytes < wanted:
            raise SpaceShort(
                f"Storage container {container.name} has {format_size(container.free_bytes)} free,"
                f" {format_size(wanted)} are wanted",
                remedy="Free space there, choose another, or lower limits.container_free knowingly.",
                container=container.name,
            )


async def check_store_space(node: Node) -> None:
    """The store keeps its reserve. Raises SpaceShort."""
    free, keep = await node.repository.store.free_bytes(), node.settings.limits.store_free
    if free is not None and free < keep:
        raise SpaceShort(
            f"The repository's store has {format_size(free)} free, {format_size(keep)} are wanted",
            remedy="Free or add space there, or lower limits.store_free knowingly. Deleted points do not free any yet.",
        )


def warnings_of(vm: Vm) -> list[str]:
    """What a restore point of this VM will lack, and who else snapshots it; one sentence each."""
    found = [
        f"The volume group in {disk.slot} is in no snapshot of the VM: it is not protected"
        for disk in vm.volume_groups()
    ]
    if vm.boot_type != "legacy":
        found.append("UEFI variables cannot be saved: the restored VM boots by its default entry")
    if vm.has_vtpm:
        found.append("The vTPM's secrets cannot be saved: keep the guest's recovery key")
    if vm.is_protected_elsewhere:
        found.append("A protection policy of the cluster snapshots this VM too; it is left alone")
    return [*found, *vm.notes]
