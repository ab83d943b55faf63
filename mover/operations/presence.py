"""Which VMs with restore points their cluster still has: a deleted one must not be called late for ever."""

from __future__ import annotations

from mover.errors import Conflict, NotFound
from mover.operations.node import Node


async def look_for_vms(node: Node) -> None:
    """Tell the metrics. Gone is what the list lacks and a question by its UUID does not find either.

    VMs of other clusters, whose points the repository may hold too, are left to their nodes.
    Raises what the hypervisor answers; then nothing changes.
    """
    standing = node.board.standing
    known = standing.of_cluster((await node.hypervisor.about()).cluster.uuid)
    if not known:
        return
    listed = {vm.uuid for vm in (await node.hypervisor.inventory()).vms}
    await standing.looked_for({uuid: uuid in listed or await _is_there(node, uuid) for uuid in sorted(known)})


async def _is_there(node: Node, vm_uuid: str) -> bool:
    """A list that was cut short would silence the alerts on all that it lacks."""
    try:
        await node.hypervisor.disks(vm_uuid)
    except NotFound:
        return False
    except Conflict:
        # Prism has it, and it is being changed: no reason to hear nothing of the others.
        return True
    return True
