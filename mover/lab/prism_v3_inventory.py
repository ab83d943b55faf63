"""Prism v3: who is asking, clusters, hosts, subnets, tasks, and Central's categories."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from mover.lab import render_v3, tasks
from mover.lab.answers import Answer, Json, Refusal, missing
from mover.lab.cluster import Cluster
from mover.lab.operations import CENTRAL, Call

Handler = Callable[[Call], Awaitable[Answer]]


def page(cluster: Cluster, call: Call, kind: str, entities: list[Json]) -> Answer:
    """length: 20 unless told, clipped to the cap, never refused for being large."""
    cap = cluster.options.v3_page_cap
    offset = call.body.get("offset", 0)
    part = entities[offset : offset + min(call.body.get("length", 20), cap)]
    metadata = {"kind": kind, "total_matches": len(entities), "length": len(part), "offset": offset}
    return Answer({"api_version": render_v3.API, "metadata": metadata, "entities": part})


class InventoryV3:
    """Handlers by operation name."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.handlers: dict[str, Handler] = {
            "v3.users.me": self._me,
            "v3.clusters.list": self._clusters,
            "v3.clusters.get": self._cluster_of,
            "v3.hosts.list": self._hosts,
            "v3.hosts.get": self._host,
            "v3.subnets.list": self._subnets,
            "v3.subnets.get": self._subnet,
            "v3.tasks.list": self._tasks,
            "v3.tasks.poll": self._poll,
            "v3.tasks.get": self._task,
            "v3.categories.list": self._categories,
            "v3.categories.values": self._values,
            "v3.category.query": self._query,
        }

    async def _me(self, call: Call) -> Answer:
        resources = {
            "user_type": "LOCAL",
            "display_name": call.username,
            "access_control_policy_reference_list": [],
            "projects_reference_list": [],
        }
        status = {"state": "COMPLETE", "name": call.username, "resources": resources}
        return Answer(render_v3.entity("user", self._cluster.state.admin_uuid, {"resources": {}}, status))

    def _known_clusters(self, side: str) -> list[Json]:
        cluster = self._cluster
        found = [render_v3.element(cluster, side)]
        if side != CENTRAL and cluster.options.element_lists_all:
            found = [render_v3.central(cluster), render_v3.unreachable_element(cluster), *found]
        if side == CENTRAL:
            found.append(render_v3.central(cluster))
            if cluster.options.central_lists_unreachable:
                found.insert(0, render_v3.unreachable_element(cluster))
        return found

    async def _clusters(self, call: Call) -> Answer:
        return page(self._cluster, call, "cluster", self._known_clusters(call.side))

    async def _cluster_of(self, call: Call) -> Answer:
        uuid = call.params["uuid"].lower()
        found = next((one for one in self._known_clusters(call.side) if one["metadata"]["uuid"] == uuid), None)
        if found is None:
            raise missing("cluster", uuid)
        return Answer(found)

    async def _hosts(self, call: Call) -> Answer:
        hosts = self._cluster.state.hosts.values()
        return page(self._cluster, call, "host", [render_v3.host(self._cluster, one) for one in hosts])

    async def _host(self, call: Call) -> Answer:
        found = self._cluster.state.hosts.get(call.params["uuid"].lower())
        if found is None:
            raise missing("host", call.params["uuid"])
        return Answer(render_v3.host(self._cluster, found))

    async def _subnets(self, call: Call) -> Answer:
        networks = self._cluster.state.networks.values()
        return page(self._cluster, call, "subnet", [render_v3.subnet(self._cluster, one) for one in networks])

    async def _subnet(self, call: Call) -> Answer:
        found = self._cluster.state.networks.get(call.params["uuid"].lower())
        if found is None:
            raise missing("subnet", call.params["uuid"])
        return Answer(render_v3.subnet(self._cluster, found))

    # --- categories (Central's; an Element has none) ----------------------------------------

    def _central_only(self, call: Call) -> bool:
        """False: an Element that shows empty lists. Raises Refusal 404 on one that has none."""
        if call.side == CENTRAL:
            return True
        if self._cluster.options.element_categories == "missing":
            raise Refusal(404, "ENTITY_NOT_FOUND", "The requested URL was not found on the server.")
        return False

    async def _categories(self, call: Call) -> Answer:
        keys = self._cluster.options.categories if self._central_only(call) else {}
        return page(self._cluster, call, "category", [{"name": key, "system_defined": False} for key in keys])

    async def _values(self, call: Call) -> Answer:
        known = self._cluster.options.categories if self._central_only(call) else {call.params["name"]: []}
        values = known.get(call.params["name"])
        if values is None:
            raise missing("category", call.params["name"])
        return page(
            self._cluster, call, "category", [{"name": call.params["name"], "value": value} for value in values]
        )

    async def _query(self, call: Call) -> Answer:
        wanted = call.body.get("category_filter", {}).get("params", {})
        found = [
            {"kind": "vm", "uuid": vm.uuid, "name": vm.name}
            for vm in self._cluster.vms(call.side)
            if any(set(values) & set(vm.categories.get(key, [])) for key, values in wanted.items())
        ]
        group = {"kind": "vm", "kind_reference_list": found, "total_entity_count": len(found)}
        return Answer({"api_version": render_v3.API, "metadata": {"kind": "category"}, "results": [group]})

    # --- tasks ------------------------------------------------------------------------------

    async def _task(self, call: Call) -> Answer:
        task = self._cluster.tasks.get(call.params["uuid"])
        return Answer(tasks.as_v3(task, self._cluster.state.cluster_uuid))

    async def _tasks(self, call: Call) -> Answer:
        wanted = re.findall(r"status==(\w+)", call.body.get("filter", ""))
        found = [task for task in self._cluster.tasks.all() if not wanted or task.status in wanted]
        return page(
            self._cluster, call, "task", [tasks.as_v3(task, self._cluster.state.cluster_uuid) for task in found]
        )

    async def _poll(self, call: Call) -> Answer:
        uuids, timeout_s = call.body["task_uuid_list"], call.body["poll_timeout_seconds"]
        done = await self._cluster.tasks.poll(uuids, timeout_s=timeout_s, until_all=True)
        found = [tasks.as_v3(task, self._cluster.state.cluster_uuid) for task in done]
        return Answer({"entities": found, "has_poll_timed_out": len(done) < len(set(uuids))})
