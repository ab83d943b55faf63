"""Our own VM, found by what the firmware and the network cards of this machine say."""

from __future__ import annotations

from collections.abc import Collection

from mover.errors import NotFound, ProxyUnfit, RequestRefused
from mover.hypervisor.nutanix.endpoints import Endpoints
from mover.hypervisor.nutanix.inventory import read_vm
from mover.model.machine import Vm


async def find_proxy(at: Endpoints, smbios_uuid: str, mac_addresses: Collection[str]) -> Vm:
    """The VM with our SMBIOS UUID, on this cluster, on, and sharing a MAC address with us. Raises ProxyUnfit."""
    vm_uuid = smbios_uuid.strip().lower()
    try:
        vm = await read_vm(at, vm_uuid)
    except (NotFound, RequestRefused):
        raise ProxyUnfit(
            f"This machine (UUID {vm_uuid}) is no VM of cluster {at.cluster.name}",
            remedy=(
                "Run mover in a VM of that cluster. If it is one whose UUID was changed by a restore, "
                "set node.proxy_uuid to the UUID that Prism shows."
            ),
            vm_uuid=vm_uuid,
            cluster=at.cluster.name,
        ) from None
    theirs = {plain_mac(nic.mac_address) for nic in vm.nics}
    ours = {plain_mac(mac) for mac in mac_addresses}
    if not theirs & ours:
        raise ProxyUnfit(
            f"VM {vm.name} has this machine's UUID, but none of its MAC addresses",
            remedy=(
                "A container: start it with --network host, which shows it the machine's NICs. Otherwise another VM "
                "bears the same UUID: set node.proxy_uuid to the one that this machine really is."
            ),
            vm_uuid=vm_uuid,
            prism_macs=sorted(theirs),
            own_macs=sorted(ours),
        )
    if not vm.is_on:
        raise ProxyUnfit(
            f"VM {vm.name} has this machine's UUID, but Prism says that it is off",
            remedy="Another VM bears the same UUID: set node.proxy_uuid to the one that this machine really is.",
            vm_uuid=vm_uuid,
        )
    return vm


def plain_mac(written: str) -> str:
    """``50-6B-8D-…`` → ``50:6b:8d:…``."""
    return written.strip().lower().replace("-", ":")
