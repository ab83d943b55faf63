"""One VM with disks behind a tiny Prism, as far as attach and detach are concerned."""

from __future__ import annotations

from typing import Any

from tests.support.tinyprism import CONTAINER, MIB, PROXY, TinyPrism, answers, cut, hang_up, html

UNKNOWN = {
    "503": answers(503),
    "500": answers(500),
    "html": html(),
    "cut": cut(),
    "hang-up": hang_up(),
    "html-200": html(200),
}
"""Answers that leave the fate of a change open."""


class Proxy:
    """One VM with disks, as far as attach and detach are concerned."""

    def __init__(self, tiny: TinyPrism) -> None:
        self.tiny = tiny
        self.entries: list[dict[str, Any]] = [entry(0, "root-disk")]
        self.task_status, self.task_detail = "Succeeded", ""
        self.has_effect = True
        self.refuse: dict[bool, tuple[int, Any]] = {}
        self.ignores_detach = 0
        tiny.routes[f"GET v2/vms/{PROXY}"] = lambda _m, _c: (200, {"uuid": PROXY, "vm_disk_info": self.entries})
        tiny.routes[f"POST v2/vms/{PROXY}/disks/attach"] = self._attach
        tiny.routes[f"POST v2/vms/{PROXY}/disks/detach"] = self._detach
        tiny.routes["POST v2/tasks/poll"] = self._poll
        tiny.routes["GET v2/storage_containers/"] = lambda _m, _c: (
            200,
            {
                "entities": [{"storage_container_uuid": CONTAINER, "name": "default"}],
                "metadata": {"total_entities": 1},
            },
        )

    def _attach(self, _match, call):
        (disk,) = call.body["vm_disks"]
        clone = disk.get("vm_disk_clone", {})
        has_container = "storage_container_uuid" in clone
        if has_container in self.refuse:
            return self.refuse[has_container]
        if self.has_effect:
            size = disk.get("vm_disk_create", {}).get("size", 64 * MIB)
            index = disk["disk_address"]["device_index"]
            self.entries.append(entry(index, f"clone-{index}", size=size, source=clone.get("disk_address")))
        return 201, {"task_uuid": "t"}

    def _detach(self, _match, call):
        (wanted,) = call.body["vm_disks"]
        if self.ignores_detach:
            self.ignores_detach -= 1
        else:
            name = wanted["disk_address"]["vmdisk_uuid"]
            self.entries = [one for one in self.entries if one["disk_address"]["vmdisk_uuid"] != name]
        return 200, {"task_uuid": "t"}

    def _poll(self, _match, _call):
        task = {"uuid": "t", "progress_status": self.task_status, "meta_response": {"error_detail": self.task_detail}}
        return 200, {"timed_out": False, "completed_tasks_info": [task]}

    @property
    def attaches(self) -> list[Any]:
        return [call.body["vm_disks"][0] for call in self.tiny.sent("disks/attach")]


def entry(index, vmdisk, *, size=64 * MIB, source=None, container=CONTAINER):
    address = {"device_bus": "scsi", "device_index": index, "vmdisk_uuid": vmdisk, "device_uuid": f"dev-{vmdisk}"}
    return {
        "disk_address": address,
        "size": size,
        "storage_container_uuid": container,
        "source_disk_address": source,
        "is_cdrom": False,
    }
