"""A client without manners: sends the lab exactly what a test wants, and remembers nothing."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from mover.lab.server import DiskSpec, Lab, LabOptions, VmSpec

MIB = 1 << 20
SMALL = (
    VmSpec(
        name="web01",
        disks=(DiskSpec(size_bytes=8 * MIB), DiskSpec(size_bytes=4 * MIB), DiskSpec(kind="CDROM")),
        categories={"Backup": ["Gold"]},
    ),
    VmSpec(name="db01", disks=(DiskSpec(size_bytes=4 * MIB), DiskSpec(kind="VOLUME_GROUP"))),
)
"""Two tiny guests: enough for most tests."""


def options(**wishes: Any) -> LabOptions:
    """A lab without root and with disks of a few MiB, unless told."""
    tiny = (DiskSpec(size_bytes=MIB, content="empty"),)
    return LabOptions(**{"use_loop": False, "vms": SMALL, "proxy_disks": tiny, **wishes})


class RawPrism:
    """One HTTP client of a lab. ``send`` returns status, parsed body (or text), headers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        context = ssl.create_default_context(cafile=str(lab.ca_file))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def __aenter__(self) -> RawPrism:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        side: str = "element",
        user: tuple[str, str] | None = ("", ""),
        cookie: str | None = None,
        raw: bytes | None = None,
        timeout_s: float = 20,
    ) -> tuple[int, Any, Any]:
        """user: ("", "") the admin, None nobody. raw: a body as it is."""
        headers = {"Content-Type": "application/json"}
        if user is not None:
            name, password = user if user[0] else (self.lab.username, self.lab.password)
            headers["Authorization"] = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        if cookie is not None:
            headers["Cookie"] = f"JSESSIONID={cookie}"
        root = self.lab.element_url if side == "element" else self.lab.central_url
        data = raw if raw is not None else None if body is None else orjson.dumps(body)
        async with self._session.request(
            method,
            f"{root}/api/nutanix/{path}",
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            content = await response.read()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            return response.status, orjson.loads(content) if is_json else content.decode(), response.headers

    async def ok(self, method: str, path: str, body: Any = None, **how: Any) -> Any:
        """The body of a call that must succeed."""
        status, answer, _ = await self.send(method, path, body, **how)
        assert status < 300, (method, path, status, answer)
        return answer

    async def refused(self, method: str, path: str, body: Any = None, **how: Any) -> int:
        """The status of a call that must not succeed."""
        status, answer, _ = await self.send(method, path, body, **how)
        assert status >= 400, (method, path, status, answer)
        return status

    # --- steps that many tests take ---------------------------------------------------------

    async def finished(self, task_uuid: str) -> dict[str, Any]:
        """A v2 task, done, whatever became of it."""
        body = {"completed_tasks": [task_uuid], "timeout_interval": 20}
        return (await self.ok("POST", "v2.0/tasks/poll", body))["completed_tasks_info"][0]

    async def v2(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A v2 change and its finished task."""
        return await self.finished((await self.ok(method, f"v2.0/{path}", body))["task_uuid"])

    async def vm(self, uuid: str) -> dict[str, Any]:
        return await self.ok("GET", f"v2.0/vms/{uuid}?include_vm_disk_config=true&include_vm_nic_config=true")

    async def new_uuid(self, name: str) -> str:
        body = {"client_identifier": name, "count": 1}
        return (await self.ok("POST", "v3/idempotence_identifiers", body))["uuid_list"][0]

    async def snapshot(self, vm_name: str, **spec: Any) -> dict[str, Any]:
        """Make a vm_snapshot and wait for its end."""
        uuid = (await self.ok("POST", "v3/vm_snapshots", self.snapshot_body(vm_name, **spec)))["metadata"]["uuid"]
        await self.lab.settle()
        return await self.ok("GET", f"v3/vm_snapshots/{uuid}")

    def snapshot_body(self, vm_name: str, *, uuid: str | None = None, **spec: Any) -> dict[str, Any]:
        metadata = {"kind": "vm_snapshot", **({"uuid": uuid} if uuid else {})}
        resources = {"entity_uuid": self.lab.vms[vm_name].uuid}
        return {"metadata": metadata, "spec": {"name": "test", "resources": resources, **spec}}

    def path_of(self, snapshot: dict[str, Any], vm_name: str, slot: str = "scsi.0") -> str:
        """The file of one disk in a snapshot."""
        wanted = self.lab.disk(vm_name, slot).vmdisk_uuid
        files = [one["snapshot_file_path"] for one in snapshot["status"]["snapshot_file_list"]]
        return next(path for path in files if path.endswith(f"/{wanted}"))

    async def regions(self, path: str, base: str | None = None) -> list[tuple[int, int, str]]:
        """All pages, as they come."""
        found: list[tuple[int, int, str]] = []
        body: dict[str, Any] = {"snapshot_file_path": path, "start_offset": 0}
        if base:
            body["reference_snapshot_file_path"] = base
        while True:
            answer = await self.ok("POST", "v3/data/changed_regions", body)
            found += [(one["offset"], one["length"], one["type"]) for one in answer["region_list"]]
            if "next_offset" not in answer:
                return found
            assert answer["next_offset"] > body["start_offset"]
            body["start_offset"] = answer["next_offset"]

    async def attach(self, path: str, index: int | None = None) -> dict[str, Any]:
        """Clone a snapshot's file into the Proxy VM; its finished task."""
        slot = {"device_bus": "SCSI", **({} if index is None else {"device_index": index})}
        disk = {"disk_address": slot, "vm_disk_clone": {"disk_address": {"ndfs_filepath": path}}}
        return await self.v2("POST", f"vms/{self.lab.proxy_uuid}/disks/attach", {"vm_disks": [disk]})


@asynccontextmanager
async def serving(folder: Path, **wishes: Any) -> AsyncIterator[tuple[Lab, RawPrism]]:
    """A lab with these options, and a client of it."""
    async with await Lab.start(folder / "lab", options=options(**wishes)) as lab, RawPrism(lab) as prism:
        yield lab, prism


def pieces(path: Path, regions: list[tuple[int, int, str]]) -> bytes:
    """What a client would know of a disk from its regions: data read, the rest zero."""
    content = bytearray(path.stat().st_size)
    whole = path.read_bytes()
    for offset, length, kind in regions:
        if kind == "REGULAR":
            content[offset : offset + length] = whole[offset : offset + length]
    return bytes(content)


# --- orders of disks, as several of the lab's tests give them ---

EMPTY = {"is_cdrom": True, "is_empty": True, "disk_address": {"device_bus": "IDE", "device_index": 0}}
"""An empty CD-ROM drive."""


def slot_of(lab, index, vm="proxy01"):
    return lab.disk(vm, f"scsi.{index}")


async def attach(prism, disk, vm=None):
    return await prism.v2("POST", f"vms/{vm or prism.lab.proxy_uuid}/disks/attach", {"vm_disks": [disk]})


def empty(lab, size_bytes=MIB, index=None):
    slot = {"device_bus": "SCSI", **({} if index is None else {"device_index": index})}
    container = lab.state.container_by_name("fast").uuid
    return {"disk_address": slot, "vm_disk_create": {"size": size_bytes, "storage_container_uuid": container}}
