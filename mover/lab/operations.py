"""The table of everything that can be asked of the lab, each under one stable name.

Fault sweeps walk this table; the call log uses its names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mover.lab import schema

ELEMENT, CENTRAL = "pe", "pc"
BOTH = frozenset({ELEMENT, CENTRAL})
ELEMENT_ONLY = frozenset({ELEMENT})
CENTRAL_ONLY = frozenset({CENTRAL})


@dataclass(frozen=True, slots=True)
class Operation:
    """sides: which Prism has it. needs_admin: a viewer gets 403. table: what the body must be."""

    name: str
    method: str
    path: str
    sides: frozenset[str] = BOTH
    needs_admin: bool = False
    table: Any = None

    @property
    def api(self) -> str:
        return self.name.partition(".")[0]

    @property
    def is_change(self) -> bool:
        """Whether it leaves the cluster otherwise than it was."""
        return self.needs_admin and self.name != "v3.data.changed_regions"

    @property
    def kind(self) -> str:
        """The v3 kind that errors carry."""
        collection = self.name.partition(".")[2].partition(".")[0]
        kinds = {"data": "changed_regions", "idempotence_identifiers": collection, "": "status"}
        return kinds.get(collection, collection.rstrip("s"))


def _v3(name: str, method: str, path: str, table: Any = None, **more: Any) -> Operation:
    return Operation(f"v3.{name}", method, f"v3/{path}", table=table, **more)


def _v2(name: str, method: str, path: str, table: Any = None, **more: Any) -> Operation:
    return Operation(f"v2.{name}", method, f"v2/{path}", ELEMENT_ONLY, table=table, **more)


_PE: dict[str, Any] = {"sides": ELEMENT_ONLY}
_PC: dict[str, Any] = {"sides": CENTRAL_ONLY}
_CHANGE: dict[str, Any] = {"needs_admin": True}

OPERATIONS: tuple[Operation, ...] = (
    _v3("users.me", "GET", "users/me"),
    _v3("logout", "GET", "logout", **_PE),
    _v3("clusters.list", "POST", "clusters/list", schema.LIST),
    _v3("clusters.get", "GET", "clusters/{uuid}"),
    _v3("hosts.list", "POST", "hosts/list", schema.LIST),
    _v3("hosts.get", "GET", "hosts/{uuid}"),
    _v3("subnets.list", "POST", "subnets/list", schema.LIST),
    _v3("subnets.get", "GET", "subnets/{uuid}"),
    _v3("vms.list", "POST", "vms/list", schema.LIST),
    _v3("vms.get", "GET", "vms/{uuid}"),
    _v3("vms.create", "POST", "vms", schema.VM_INTENT, **_CHANGE),
    _v3("vms.update", "PUT", "vms/{uuid}", schema.VM_INTENT, **_CHANGE),
    _v3("vms.delete", "DELETE", "vms/{uuid}", **_CHANGE),
    _v3("vm_snapshots.create", "POST", "vm_snapshots", schema.SNAPSHOT_INTENT, **_PE, **_CHANGE),
    _v3("vm_snapshots.list", "POST", "vm_snapshots/list", schema.LIST, **_PE),
    _v3("vm_snapshots.get", "GET", "vm_snapshots/{uuid}", **_PE),
    _v3("vm_snapshots.update", "PUT", "vm_snapshots/{uuid}", schema.SNAPSHOT_INTENT, **_PE, **_CHANGE),
    _v3("vm_snapshots.delete", "DELETE", "vm_snapshots/{uuid}", **_PE, **_CHANGE),
    _v3("data.changed_regions", "POST", "data/changed_regions", schema.CHANGED_REGIONS, **_PE, **_CHANGE),
    _v3("idempotence_identifiers.create", "POST", "idempotence_identifiers", schema.IDEMPOTENCE, **_CHANGE),
    _v3("idempotence_identifiers.get", "GET", "idempotence_identifiers/{client_identifier}"),
    _v3("idempotence_identifiers.delete", "DELETE", "idempotence_identifiers/{client_identifier}", **_CHANGE),
    _v3("tasks.list", "POST", "tasks/list", schema.LIST),
    _v3("tasks.poll", "POST", "tasks/poll", schema.TASK_POLL),
    _v3("tasks.get", "GET", "tasks/{uuid}"),
    _v3("categories.list", "POST", "categories/list", schema.LIST),
    _v3("categories.values", "POST", "categories/{name}/list", schema.LIST),
    _v3("category.query", "POST", "category/query", schema.CATEGORY_QUERY, **_PC),
    _v2("cluster.get", "GET", "cluster"),
    _v2("hosts.list", "GET", "hosts"),
    _v2("hosts.get", "GET", "hosts/{uuid}"),
    _v2("vms.list", "GET", "vms"),
    _v2("vms.get", "GET", "vms/{uuid}"),
    _v2("vms.create", "POST", "vms", schema.V2_VM_CREATE, **_CHANGE),
    _v2("vms.update", "PUT", "vms/{uuid}", schema.V2_VM_UPDATE, **_CHANGE),
    _v2("vms.delete", "DELETE", "vms/{uuid}", **_CHANGE),
    _v2("vms.disks.attach", "POST", "vms/{uuid}/disks/attach", schema.V2_ATTACH, **_CHANGE),
    _v2("vms.disks.detach", "POST", "vms/{uuid}/disks/detach", schema.V2_DETACH, **_CHANGE),
    _v2("vms.disks.update", "PUT", "vms/{uuid}/disks/update", schema.V2_DISK_UPDATE, **_CHANGE),
    _v2("vms.nics.list", "GET", "vms/{uuid}/nics"),
    _v2("vms.set_power_state", "POST", "vms/{uuid}/set_power_state", schema.V2_POWER, **_CHANGE),
    _v2("snapshots.list", "GET", "snapshots"),
    _v2("snapshots.get", "GET", "snapshots/{uuid}"),
    _v2("snapshots.create", "POST", "snapshots", schema.V2_SNAPSHOT, **_CHANGE),
    _v2("snapshots.delete", "DELETE", "snapshots/{uuid}", **_CHANGE),
    _v2("tasks.list", "POST", "tasks/list", schema.V2_TASK_LIST),
    _v2("tasks.poll", "POST", "tasks/poll", schema.V2_TASK_POLL),
    _v2("tasks.get", "GET", "tasks/{uuid}"),
    _v2("storage_containers.list", "GET", "storage_containers"),
    _v2("storage_containers.get", "GET", "storage_containers/{uuid}"),
    _v2("networks.list", "GET", "networks"),
    _v2("networks.get", "GET", "networks/{uuid}"),
    _v2("virtual_disks.list", "GET", "virtual_disks"),
    _v2("virtual_disks.get", "GET", "virtual_disks/{uuid}"),
    _v2("volume_groups.list", "GET", "volume_groups"),
    _v2("volume_groups.get", "GET", "volume_groups/{uuid}"),
)

UNKNOWN = Operation("unknown", "*", "", frozenset())
"""What a call is logged as that matches no operation."""

_ROOTS = (
    ("api/nutanix/v3/", "v3/"),
    ("api/nutanix/v2.0/", "v2/"),
    ("PrismGateway/services/rest/v2.0/", "v2/"),
)
_PATTERNS = tuple(
    (operation, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.path))) for operation in OPERATIONS
)


def plain_path(path: str) -> str:
    """``/api/nutanix/v3//vms/list/`` → ``v3/vms/list``; "" outside of the APIs."""
    joined = "/".join(part for part in path.split("/") if part)
    for root, short in _ROOTS:
        if joined.startswith(root):
            return short + joined[len(root) :]
    return ""


def find(method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
    """The operation of a plain path, with its path parameters."""
    for operation, pattern in _PATTERNS:
        if operation.method == method and (match := pattern.fullmatch(path)):
            return operation, match.groupdict()
    return None


@dataclass(slots=True)
class Call:
    """One request that was understood and admitted."""

    operation: Operation
    side: str
    params: dict[str, str]
    query: dict[str, str]
    body: Any
    username: str
    cookie: str | None = None

    def number(self, name: str, default: int) -> int:
        """A number of the query; nonsense is the default, as v2 does it."""
        text = self.query.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else default

    def flag(self, *names: str) -> bool:
        return any(self.query.get(name, "").lower() == "true" for name in names)
