"""What a restored VM lacks of the saved one, in words. Pure.

The saved description is held, member by member, against what Prism shows of the VM that was made: so
it does not matter by which interface it was made, and what Prism left out by itself is told too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mover.hypervisor.nutanix import rebuild, v3
from mover.hypervisor.nutanix.reading import Json, dig, flag, items, members, number, text, uuid, word
from mover.hypervisor.protocol import NicMode, VmRequest

_MEMBERS: tuple[tuple[tuple[str, ...], str, Any], ...] = (
    (("num_sockets",), "number of CPU sockets", None),
    (("num_vcpus_per_socket",), "number of cores per socket", 1),
    (("num_threads_per_core",), "number of threads per core", 1),
    (("memory_size_mib",), "memory in MiB", None),
    (("machine_type",), "machine type", "PC"),
    (("hardware_clock_timezone",), "time zone", "UTC"),
    (("is_vcpu_hard_pinned",), "pinning of CPUs", False),
    (("vga_console_enabled",), "VGA console", True),
    (("hardware_virtualization_enabled",), "hardware virtualization", False),
    (("is_agent_vm",), "role as an agent VM", False),
    (("enable_cpu_passthrough",), "CPU passthrough", False),
    (("disable_branding",), "hidden branding", False),
    (("vnuma_config", "num_vnuma_nodes"), "number of vNUMA nodes", 0),
    (("power_state_mechanism", "mechanism"), "way of powering off", "HARD"),
    (("power_state_mechanism", "guest_transition_config", "enable_script_exec"), "script at power off", False),
    (
        ("power_state_mechanism", "guest_transition_config", "should_fail_on_script_failure"),
        "halt at a failed script",
        False,
    ),
    (("storage_config", "flash_mode"), "flash mode", "DISABLED"),
    (("storage_config", "qos_policy", "throttled_iops"), "limit of I/O per second", -1),
    (("boot_config", "boot_device", "mac_address"), "network card to boot from", None),
)
"""Path below ``resources``, words, and what its absence in the new VM means (None: nothing)."""

_TOLD_ELSEWHERE = {
    *(path[0] for path, _, _ in _MEMBERS),
    *("boot_config", "disk_list", "nic_list", "serial_port_list", "gpu_list", "vtpm_config", "guest_tools"),
}
_OF_THE_OLD_VM = {
    *("power_state", "host_reference", "hypervisor_type", "protection_type", "guest_os_id", "parent_reference"),
}
"""Its state, its place and its origin: a new VM has its own."""

_NIC_DEFAULTS: Mapping[str, Any] = {
    "nic_type": "NORMAL_NIC",
    "model": "VIRTIO",
    "vlan_mode": "ACCESS",
    "trunked_vlan_list": (),
    "num_queues": 1,
    "network_function_nic_type": "INGRESS",
    "network_function_chain_reference": "",
    "is_connected": True,
}
_NIC_OWN = {"uuid", "mac_address", "subnet_reference", "ip_endpoint_list"}
_BY_V2_ALONE = {
    "memory_reservation_mb": "reserved memory",
    "vcpu_reservation_hz": "reserved CPU time",
    "affinity": "affinity to hosts",
}
_FEATURES = {"AGENT_VM", "VGA_CONSOLE"}
"""v3 tells these two as well."""


def lost(made: Json, request: VmRequest) -> Iterator[str]:
    """One sentence each. made: v3's view of the new VM; its data disks need not be shown yet."""
    saved, shown = rebuild.saved_resources(rebuild.saved_entity(request.spec)), rebuild.saved_resources(made)
    yield from _lost_firmware(made, request)
    yield from _differences(saved, shown)
    yield from _lost_ports(saved, shown)
    yield from _lost_nics(saved, shown, request.nic_mode)
    yield from _idle_networks(saved, request)
    yield from _lost_drives(saved, shown, members(request.spec, "v2"))
    yield from _lost_around(saved, shown, request)
    yield from _lost_by_v2(members(request.spec, "v2"))
    strange = sorted(_strange(saved, shown))
    if strange:
        yield f"Prism told more of the original than a restore knows: {', '.join(strange)}. Compare the two VMs there."


def _lost_firmware(made: Json, request: VmRequest) -> Iterator[str]:
    if rebuild.has_saved_vtpm(request.spec):
        if v3.read_has_vtpm(made):
            yield "Its vTPM is new and empty: secrets sealed to the old one (BitLocker) need their recovery key."
        else:
            yield "It had a vTPM, this Prism made none: add it in Prism, and keep recovery keys at hand."
    if rebuild.has_saved_gpus(request.spec):
        yield "Its GPUs are not restored: assign them in Prism."
    saved_boot = v3.read_boot_type(rebuild.saved_entity(request.spec))
    if saved_boot != "legacy":
        yield "Its UEFI variables are new: if it does not boot, choose the boot file in the firmware's menu."
    if v3.read_boot_type(made) != saved_boot:
        yield f"It boots by {v3.read_boot_type(made)}, the original by {saved_boot}: correct it in Prism."


def _differences(saved: Json, shown: Json) -> Iterator[str]:
    for path, words, default in _MEMBERS:
        was, now = _plain(dig(saved, *path)), _plain(dig(shown, *path))
        now = _plain(default) if now is None else now
        if was is not None and was != now:
            yield f"Its {words} is {_said(now)}, the original's {_said(was)}: correct it in Prism."
    order = _boot_order(saved)
    if v3.read_boot_type({"spec": {"resources": saved}}) == "legacy" and order and order != _boot_order(shown):
        yield f"Its order of boot devices was {', '.join(order)}: set it in Prism."


def _boot_order(resources: Json) -> list[str]:
    order = dig(resources, "boot_config", "boot_device_order_list")
    return [str(device) for device in order] if isinstance(order, list) else []


def _lost_ports(saved: Json, shown: Json) -> Iterator[str]:
    def ports(resources: Json) -> set[tuple[int, bool]]:
        listed = items(resources, "serial_port_list")
        return {(number(port, "index"), flag(port, "is_connected")) for port in listed}

    missing = sorted(index for index, _ in ports(saved) - ports(shown))
    if missing:
        names = ", ".join(f"COM{index + 1}" for index in missing)
        yield f"Its serial ports are not as they were ({names}): add them in Prism."


def _lost_nics(saved: Json, shown: Json, mode: NicMode) -> Iterator[str]:
    """Cards have no name that outlives a restore, so their kinds are counted; by its MAC one may be known."""
    listed = items(saved, "nic_list")
    if mode is NicMode.DISCONNECTED:
        listed = [{**nic, "is_connected": False} for nic in listed]
    wanted = Counter(_kind_of(nic) for nic in listed)
    there = Counter(_kind_of(nic) for nic in items(shown, "nic_list"))
    for kind, count in sorted((wanted - there).items(), key=str):
        cards = "A network card of it was" if count == 1 else f"{count} network cards of it were"
        yield f"{cards} {_words_of(kind)}, and here none is: correct it in Prism."
    by_mac = {text(nic, "mac_address").lower(): nic for nic in items(shown, "nic_list")}
    for nic in listed:
        mac = text(nic, "mac_address").lower()
        addresses = _addresses(nic, only_fixed=True)
        lacking = sorted(addresses - _addresses(by_mac[mac], only_fixed=False)) if mac in by_mac else []
        if lacking:
            yield f"Its network card {mac} had the fixed address {', '.join(lacking)}: set it in Prism."


def _idle_networks(saved: Json, request: VmRequest) -> Iterator[str]:
    """A name that was mapped and that no card has: a slip, or meant for another VM."""
    references = [members(nic, "subnet_reference") for nic in items(saved, "nic_list")]
    there = {part for one in references for part in (uuid(one, "uuid"), text(one, "name"))}
    cards = ", ".join(sorted({text(one, "name") or uuid(one, "uuid") for one in references})) or "none"
    for old, new in request.network_map.items():
        if old not in there:
            yield f"--network {old}={new} changed nothing: no network card was in {old} (they were in: {cards})."


def _kind_of(nic: Json) -> tuple[Any, ...]:
    """What a card is besides its identity, in the order of the defaults."""
    return tuple(_kind_member(nic, name, default) for name, default in _NIC_DEFAULTS.items())


def _kind_member(nic: Json, name: str, default: Any) -> Any:
    value = nic.get(name)
    if isinstance(value, Mapping):
        return text(value, "uuid").lower()
    if isinstance(value, list):
        return tuple(sorted(value, key=str))
    if name == "network_function_nic_type" and word(nic, "nic_type") != "NETWORK_FUNCTION_NIC":
        return default
    return default if value in (None, "") else _plain(value)


def _words_of(kind: tuple[Any, ...]) -> str:
    named = zip(_NIC_DEFAULTS.items(), kind, strict=True)
    odd = [f"{name} {_said(value)}" for (name, default), value in named if value != default]
    return f"of another kind ({', '.join(odd)})" if odd else "a plain one"


def _addresses(nic: Json, *, only_fixed: bool) -> set[str]:
    ends = items(nic, "ip_endpoint_list")
    return {text(end, "ip") for end in ends if not only_fixed or word(end, "type") == "ASSIGNED"} - {""}


def _lost_drives(saved: Json, shown: Json, by_v2: Json) -> Iterator[str]:
    """Of disks, what an attach cannot say; of CD-ROM drives, the medium."""
    there = {_slot(entry) for entry in items(shown, "disk_list") if _is_cdrom(entry)}
    for entry in items(saved, "disk_list"):
        slot = _slot(entry)
        if _is_cdrom(entry) and slot not in there:
            yield f"Its CD-ROM drive {slot} is not made: add it in Prism."
        elif _is_cdrom(entry) and number(entry, "disk_size_bytes"):
            yield f"Its CD-ROM drive {slot} comes back empty."
        elif word(entry, "storage_config", "flash_mode") == "ENABLED":
            yield f"Its disk {slot} was in flash mode: set it in Prism."
    for entry in items(by_v2, "vm_disk_info"):
        address = members(entry, "disk_address")
        is_data = not (flag(entry, "is_cdrom") or text(address, "volume_group_uuid"))
        if is_data and word(address, "device_bus") == "SCSI" and entry.get("is_scsi_passthrough") is False:
            slot = f"scsi.{number(address, 'device_index')}"
            yield f"Its disk {slot} was an emulated one, it is now passed through: the guest sees another model."


def _slot(entry: Json) -> str:
    address = members(entry, "device_properties", "disk_address")
    return f"{text(address, 'adapter_type').lower()}.{number(address, 'device_index')}"


def _is_cdrom(entry: Json) -> bool:
    return word(entry, "device_properties", "device_type") == "CDROM"


def _lost_around(saved: Json, shown: Json, request: VmRequest) -> Iterator[str]:
    """Guest tools, description and project."""
    tools = ("guest_tools", "nutanix_guest_tools", "state")
    if word(saved, *tools) == "ENABLED" and word(shown, *tools) != "ENABLED":
        yield "Its guest tools are to be enabled in Prism again: until then its snapshots are crash-consistent."
    description = rebuild.saved_description(request.spec)
    if not rebuild.description_of(request).endswith(description):
        yield f"Its description is cut short; it was: {description}"
    project = text(members(request.spec, "central"), "metadata", "project_reference", "name")
    if project.lower() not in ("", "default", "_internal"):
        yield f"It was in project {project}: assign it in Prism Central."


def _lost_by_v2(by_v2: Json) -> Iterator[str]:
    """What v2 alone tells, and no interface takes back (but the HA priority, which is set)."""
    for name, words in _BY_V2_ALONE.items():
        if _is_set(by_v2.get(name)):
            yield f"Its {words} is not restored: set it in Prism."
    features = members(by_v2, "vm_features")
    odd = sorted(name for name in features if name.upper() not in _FEATURES and flag(features, name))
    if odd:
        yield f"Its features {', '.join(odd)} are not restored: set them in Prism."


def _strange(saved: Json, shown: Json) -> Iterator[str]:
    """Members that this program does not know, and that the new VM does not show alike."""
    for name in saved.keys() - _TOLD_ELSEWHERE - _OF_THE_OLD_VM:
        if _is_set(saved[name]) and shown.get(name) != saved[name]:
            yield name
    for nic in items(saved, "nic_list"):
        for name in nic.keys() - _NIC_DEFAULTS.keys() - _NIC_OWN:
            if _is_set(nic[name]) and all(other.get(name) != nic[name] for other in items(shown, "nic_list")):
                yield f"nic_list.{name}"


def _is_set(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_set(item) for item in value.values())
    return value not in (None, "", [], False, 0)


def _plain(value: Any) -> Any:
    """Without the differences that mean nothing: case, and absence written in another way."""
    if isinstance(value, str):
        return value.upper() or None
    return value


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "not told" if value is None else str(value)
