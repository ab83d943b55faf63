"""A saved VM spec → the body that creates it anew, without data disks. Pure.

Only members that a v3 create takes are copied, so nothing read-only and nothing of another
version slips in: no UUIDs of disks and NICs, no data sources, no guest tools, no host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mover.errors import RequestRefused
from mover.hypervisor.nutanix import v2, v3
from mover.hypervisor.nutanix.reading import Json, dig, flag, items, members, number, text, uuid, without_nulls, word
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import Slot

_PLAIN = (
    "num_sockets",
    "num_vcpus_per_socket",
    "num_threads_per_core",
    "memory_size_mib",
    "machine_type",
    "hardware_clock_timezone",
    "is_vcpu_hard_pinned",
    "vga_console_enabled",
    "hardware_virtualization_enabled",
    "is_agent_vm",
    "enable_cpu_passthrough",
    "disable_branding",
)
_NESTED: dict[str, Any] = {
    "power_state_mechanism": {
        "mechanism": None,
        "guest_transition_config": {"should_fail_on_script_failure": None, "enable_script_exec": None},
    },
    "vnuma_config": {"num_vnuma_nodes": None},
}
"""Members that are objects: of them, too, only what is known. None: a plain value."""
_DESCRIPTION_MOST = 1000
"""Characters of a description that v3 takes."""
_ADDRESS = {"adapter_type": None, "device_index": None}
_NIC_PLAIN = ("nic_type", "model", "vlan_mode", "trunked_vlan_list", "num_queues", "is_connected")


def saved_entity(spec: Mapping[str, Any]) -> Json:
    """The v3 entity in ``Vm.spec``. Raises RequestRefused when there is none."""
    entity = members(spec, "v3")
    if not v3.resources(entity):
        raise RequestRefused(
            "The saved VM description is not one of Nutanix v3",
            remedy="Restore the disks into an existing VM (--disk), or to files.",
        )
    return entity


def saved_resources(entity: Json) -> dict[str, Any]:
    """Desired over actual: a build may leave either thin."""
    actual, desired = members(entity, "status", "resources"), members(entity, "spec", "resources")
    return {**actual, **{name: value for name, value in desired.items() if value not in (None, [], {})}}


def saved_categories(spec: Mapping[str, Any]) -> dict[str, list[str]]:
    """From Central's view where it was saved, else from the Element's."""
    for view in ("central", "v3"):
        found = v3.read_categories(members(spec, view))
        if found:
            return {key: list(values) for key, values in found.items() if values}
    return {}


def saved_boot_slot(spec: Mapping[str, Any]) -> Slot | None:
    """The disk that a legacy VM boots from, where its spec names one."""
    resources = saved_resources(members(spec, "v3"))
    address = members(resources, "boot_config", "boot_device", "disk_address")
    if text(resources, "boot_config", "boot_type").upper() not in ("", "LEGACY") or not address:
        return None
    index = dig(address, "device_index")
    return Slot(text(address, "adapter_type").lower(), index) if isinstance(index, int) else None


@dataclass(frozen=True, slots=True)
class Later:
    """What v2's ``PUT vms/{uuid}`` sets when the disks are in place: in words, its body, and what may be left out."""

    words: str
    body: dict[str, Any]
    optional: tuple[str, ...] = ()
    """Members of ``boot`` that a build may refuse beside the boot disk."""

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The whole body, then the one without them."""
        yield self.body
        if self.optional:
            yield {"boot": {name: value for name, value in self.body["boot"].items() if name not in self.optional}}

    def left(self) -> str:
        """What the second one leaves out."""
        return ", ".join(f"{name} {self.body['boot'][name]}" for name in self.optional)


def later_bodies(spec: Mapping[str, Any]) -> Iterator[Later]:
    """What is set when the disks are in place."""
    slot = saved_boot_slot(spec)
    if slot is not None:
        # A build may take ``boot`` as a whole: what was set in it at creation is said again.
        again = _boot_of_v2(saved_resources(members(spec, "v3")))
        yield Later(f"boot disk {slot}", {"boot": {**again, **v2.boot_body(slot)["boot"]}}, tuple(again))
    priority = number(members(spec, "v2"), "ha_priority")
    if priority:
        yield Later(f"HA priority {priority}", {"ha_priority": priority})


def _boot_of_v2(saved: Json) -> dict[str, Any]:
    """Order of devices and hardware virtualization, which v2 counts among boot; only where they are not the default."""
    boot: dict[str, Any] = {}
    if order := _boot_config(saved).get("boot_device_order_list"):
        boot["boot_device_order"] = ["NIC" if device == "NETWORK" else device for device in order]
    if flag(saved, "hardware_virtualization_enabled"):
        boot["hardware_virtualization"] = True
    return boot


def has_saved_vtpm(spec: Mapping[str, Any]) -> bool:
    return flag(saved_resources(members(spec, "v3")), "vtpm_config", "vtpm_enabled")


def has_saved_gpus(spec: Mapping[str, Any]) -> bool:
    return bool(items(saved_resources(members(spec, "v3")), "gpu_list"))


def create_body(
    request: VmRequest,
    *,
    vm_uuid: str,
    cluster_uuid: str,
    networks: Mapping[str, str],
    macs_in_use: Mapping[str, str],
    with_vtpm: bool,
    categories: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Body of v3 ``POST vms``: off, empty CD-ROMs, NICs by ``request.nic_mode``.

    networks: UUID → name of those here. macs_in_use: MAC → name of the VM that has it.
    Raises RequestRefused for an unknown network, and for a MAC that another VM holds (keep).
    """
    saved = saved_resources(saved_entity(request.spec))
    resources: dict[str, Any] = {name: saved[name] for name in _PLAIN if saved.get(name) is not None}
    resources |= _known(saved, _NESTED)
    resources["power_state"] = "OFF"
    boot = _boot_config(saved)
    if boot:
        resources["boot_config"] = boot
    if with_vtpm and has_saved_vtpm(request.spec):
        resources["vtpm_config"] = {"vtpm_enabled": True}
    ports = [{"index": port.get("index", 0), "is_connected": flag(port, "is_connected")} for port in _ports(saved)]
    if ports:
        resources["serial_port_list"] = ports
    resources["nic_list"] = [_nic(nic, request, networks, macs_in_use) for nic in items(saved, "nic_list")]
    resources["disk_list"] = _empty_cdroms(saved)
    metadata: dict[str, Any] = {"kind": "vm", "uuid": vm_uuid}
    if categories:
        metadata |= {"use_categories_mapping": True, "categories_mapping": dict(categories)}
    return {
        "api_version": v3.API_VERSION,
        "metadata": metadata,
        "spec": {
            "name": request.name,
            "description": description_of(request),
            "cluster_reference": {"kind": "cluster", "uuid": cluster_uuid},
            "resources": without_nulls(resources),
        },
    }


def saved_description(spec: Json) -> str:
    """What the original said of itself."""
    entity = saved_entity(spec)
    return text(entity, "spec", "description") or text(entity, "status", "description")


def description_of(request: VmRequest) -> str:
    """Ours, by which the VM is found again, then the original's, as far as v3 takes it."""
    original = saved_description(request.spec)
    return f"{request.description}. {original}"[:_DESCRIPTION_MOST] if original else request.description


def _known(value: Json, shape: Mapping[str, Any]) -> dict[str, Any]:
    """The members of ``shape`` alone, as deep as it goes; null is absent."""
    found: dict[str, Any] = {}
    for name, below in shape.items():
        if isinstance(below, Mapping) and isinstance(value.get(name), Mapping):
            found[name] = _known(value[name], below)
        elif below is None and value.get(name) is not None:
            found[name] = value[name]
    return found


def create_body_by_v2(
    request: VmRequest, *, vm_uuid: str, networks: Mapping[str, str], macs_in_use: Mapping[str, str]
) -> dict[str, Any]:
    """Body of v2 ``POST vms``: the same machine as far as v2 can say it; ``losses`` tells the rest.

    No VLAN mode: v2 has it for another hypervisor, and without the list of VLANs it would open all of them.
    Idempotent by ``uuid``. Raises what ``create_body`` raises.
    """
    saved = saved_resources(saved_entity(request.spec))
    kind = word(saved, "boot_config", "boot_type")
    boot = {
        "uefi_boot": kind in ("UEFI", "SECURE_BOOT"),
        "secure_boot": kind == "SECURE_BOOT",
        **_boot_of_v2(saved),
    }
    machine = word(saved, "machine_type")
    return {
        "uuid": vm_uuid,
        "name": request.name,
        "description": description_of(request),
        "memory_mb": number(saved, "memory_size_mib"),
        "num_vcpus": number(saved, "num_sockets"),
        "num_cores_per_vcpu": max(1, number(saved, "num_vcpus_per_socket")),
        "timezone": text(saved, "hardware_clock_timezone") or "UTC",
        "boot": boot,
        "vm_features": {"AGENT_VM": flag(saved, "is_agent_vm"), "VGA_CONSOLE": saved.get("vga_console_enabled", True)},
        "vm_nics": [_nic_of_v2(_nic(nic, request, networks, macs_in_use)) for nic in items(saved, "nic_list")],
        "vm_disks": [_cdrom_of_v2(cdrom) for cdrom in _empty_cdroms(saved)],
        # v2's own description lacks it, its interface sends it: only where the default would not do.
        **({"machine_type": machine} if machine not in ("", "PC") else {}),
    }


def _nic_of_v2(nic: Json) -> dict[str, Any]:
    rebuilt: dict[str, Any] = {
        "network_uuid": nic["subnet_reference"]["uuid"],
        "is_connected": nic.get("is_connected", True),
    }
    if text(nic, "model"):
        rebuilt["model"] = text(nic, "model").lower()
    if text(nic, "mac_address"):
        rebuilt["mac_address"] = text(nic, "mac_address")
    if fixed := items(nic, "ip_endpoint_list"):
        rebuilt |= {"request_ip": True, "requested_ip_address": text(fixed[0], "ip")}
    return rebuilt


def _cdrom_of_v2(cdrom: Json) -> dict[str, Any]:
    address = members(cdrom, "device_properties", "disk_address")
    slot = {"device_bus": word(address, "adapter_type"), "device_index": number(address, "device_index")}
    return {"is_cdrom": True, "is_empty": True, "disk_address": slot}


def _ports(saved: Json) -> list[Json]:
    return list(items(saved, "serial_port_list"))


def _boot_config(saved: Json) -> dict[str, Any]:
    """Type and order; the boot disk itself does not exist yet and is set by ``finish_vm``."""
    config: dict[str, Any] = {}
    kind = text(saved, "boot_config", "boot_type").upper()
    if kind:
        config["boot_type"] = kind
    order = dig(saved, "boot_config", "boot_device_order_list")
    if kind in ("", "LEGACY") and isinstance(order, list) and order:
        config["boot_device_order_list"] = order
    return config


def _empty_cdroms(saved: Json) -> list[dict[str, Any]]:
    return [
        {"device_properties": {"device_type": "CDROM", "disk_address": _known(address, _ADDRESS)}}
        for entry in items(saved, "disk_list")
        if text(entry, "device_properties", "device_type").upper() == "CDROM"
        and (address := members(entry, "device_properties", "disk_address"))
    ]


def _nic(nic: Json, request: VmRequest, networks: Mapping[str, str], macs_in_use: Mapping[str, str]) -> dict[str, Any]:
    rebuilt: dict[str, Any] = {name: nic[name] for name in _NIC_PLAIN if nic.get(name) not in (None, [])}
    rebuilt["subnet_reference"] = {"kind": "subnet", "uuid": _network(nic, request, networks)}
    if request.nic_mode is NicMode.DISCONNECTED:
        rebuilt["is_connected"] = False
    mac = text(nic, "mac_address").lower()
    holder = macs_in_use.get(mac)
    if mac and holder and request.nic_mode is NicMode.KEEP:
        raise RequestRefused(
            f"The MAC address {mac} is in use by VM {holder}",
            remedy="Restore with new MAC addresses (--nics new-mac) or disconnected (--nics disconnected).",
            mac_address=mac,
        )
    if mac and not holder and request.nic_mode is not NicMode.NEW_MAC:
        rebuilt["mac_address"] = mac
        fixed = _fixed_addresses(nic)
        if fixed:
            rebuilt["ip_endpoint_list"] = fixed
    return rebuilt


def _fixed_addresses(nic: Json) -> list[dict[str, str]]:
    """Assigned by Prism; what it merely learnt is not ours to ask for."""
    return [
        {"ip": text(end, "ip"), "type": "ASSIGNED"}
        for end in items(nic, "ip_endpoint_list")
        if text(end, "ip") and text(end, "type").upper() == "ASSIGNED"
    ]


def _network(nic: Json, request: VmRequest, networks: Mapping[str, str]) -> str:
    """The network here: mapped by the saved one's UUID or name, to a UUID or to a name that only one has."""
    saved, name = uuid(nic, "subnet_reference", "uuid"), text(nic, "subnet_reference", "name")
    wanted = request.network_map.get(saved) or request.network_map.get(name) or saved
    if wanted.lower() in networks:
        return wanted.lower()
    named = [known for known, its_name in networks.items() if its_name == wanted]
    if len(named) == 1:
        return named[0]
    problem = f"Several networks here are called {wanted}" if named else f"There is no network {wanted} on this cluster"
    raise RequestRefused(
        f"{problem}, and the saved VM needs one for its card in {name or saved or 'an unnamed network'}",
        remedy=f"Map it to one that `mover inventory` shows: --network {saved}=NETWORK_UUID.",
        network_uuid=saved,
    )
