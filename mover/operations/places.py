"""Room for a disk of ours: limits on this node, in its storage container, and on the Proxy VM.

None of them is waited for while another disk waits for us: a VM may have more disks than any limit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover import logs
from mover.catalog.ledger import Entry, Kind
from mover.errors import MoverError, NoFreeSlot
from mover.operations.clean import drop_entry
from mover.operations.node import Node, Place

_LOG = logs.get(__name__)


@asynccontextmanager
async def place_for_disk(node: Node, *, job: str, ordinal: int, container_uuid: str | None) -> AsyncIterator[None]:
    """For as long as one disk is on the Proxy VM, from before its attach until after its detach.

    Raises NoFreeSlot when limits.attached is used up by disks that earlier jobs left there and that cannot
    be detached.
    """
    place = (job, ordinal)
    async with node.lanes.disk(container_uuid or ""):
        await _take(node, place)
        try:
            yield
        finally:
            node.lanes.give_back(place)


async def _take(node: Node, place: Place) -> None:
    has_cleared = False
    while True:
        given_back = node.lanes.given_back()
        there = await _on_proxy(node)
        noted = [(entry.job, entry.ordinal) for entry in there]
        if node.lanes.take_place(place, noted):
            return
        if node.lanes.has_holders or given_back.is_set():
            await given_back.wait()
        elif has_cleared:
            raise NoFreeSlot(
                f"Disks of earlier jobs take every place on the Proxy VM that limits.attached allows ({len(there)})",
                remedy="See why they stay with: mover orphans; or raise limits.attached.",
                retryable=True,
            )
        else:
            has_cleared = True
            await _clear(node, there)


async def _on_proxy(node: Node) -> list[Entry]:
    """What the ledger has of ours on the Proxy VM, or on its way there."""
    plugs = (Kind.ATTACHMENT, Kind.TEMPORARY_DISK)
    entries = await node.ledger.open_entries()
    return [entry for entry in entries if entry.kind in plugs and entry.facts["vm_uuid"] == node.proxy_uuid]


async def _clear(node: Node, there: list[Entry]) -> None:
    """Detach what nobody holds: of a process that was killed, since this one is the only executor."""
    for entry in there:
        if node.lanes.left_behind([(entry.job, entry.ordinal)]):
            try:
                await drop_entry(node, entry)
            except MoverError as error:
                _LOG.warning("a disk of an earlier job stays", disk=entry.identity or "", error=error.message)
