"""Storage containers of a restore: where each disk goes, what it needs there, what was mapped in vain. Pure.

mapped: saved container (UUID, or the name of one that is here) or ``*`` → container here, by UUID or name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mover.errors import RequestRefused
from mover.model.machine import StorageContainer
from mover.model.point import ID_BYTES, ZERO_ID, DiskImage


def choose_containers(
    there: Collection[StorageContainer], images: Sequence[DiskImage], mapped: Mapping[str, str]
) -> dict[str, str]:
    """Device UUID → UUID of a storage container here. Raises RequestRefused."""
    uuids = {container.uuid for container in there}
    named = _by_name(there)
    by_uuid = {named.get(old, old): new for old, new in mapped.items()}
    chosen = {}
    for image in images:
        saved = image.container_uuid or ""
        wanted = by_uuid.get(saved, by_uuid.get("*", saved))
        uuid = wanted if wanted in uuids else named.get(wanted)
        if uuid is None:
            raise RequestRefused(
                f"There is no storage container {wanted or '(unknown)'} for disk {image.slot}",
                remedy=_how_to_choose(saved, named, is_mapped=wanted != saved),
            )
        chosen[image.device_uuid] = uuid
    return chosen


def _how_to_choose(saved: str, named: Collection[str], *, is_mapped: bool) -> str:
    """saved: the UUID that stands in the point, empty where none does."""
    here = ", ".join(sorted(named)) or "none is there"
    if is_mapped:
        return f"Choose one with --container: {here}."
    if not saved:
        return f"Write --container NAME for all; here are: {here}."
    return (
        f"The point knows it by that UUID alone: write --container {saved}=NAME, or --container NAME for all; "
        f"here are: {here}."
    )


def idle_containers(
    there: Collection[StorageContainer], images: Sequence[DiskImage], mapped: Mapping[str, str]
) -> list[str]:
    """In words: what was mapped and no disk lay in, a slip or meant for another VM."""
    named = _by_name(there)
    names = {uuid: name for name, uuid in named.items()}
    saved = {image.container_uuid for image in images if image.container_uuid}
    lay = ", ".join(sorted(names.get(uuid, uuid) for uuid in saved))
    return [
        f"--container {old}={new} changed nothing: no disk lay in {old} (they lay in: {lay})."
        for old, new in mapped.items()
        if named.get(old, old) not in {"*", *saved}
    ]


def _by_name(there: Collection[StorageContainer]) -> dict[str, str]:
    return {container.name: container.uuid for container in there}


def bytes_needed(images: Sequence[DiskImage], chosen: Mapping[str, str]) -> dict[str, int]:
    """UUID of a container → what the images that go there take at most."""
    needed = dict.fromkeys(chosen.values(), 0)
    for image in images:
        needed[chosen[image.device_uuid]] += _room_of(image)
    return needed


def _room_of(image: DiskImage) -> int:
    """Where its map is all zero nothing is written, and containers are thin."""
    ids = (image.node_ids[at : at + ID_BYTES] for at in range(0, len(image.node_ids), ID_BYTES))
    holding = sum(node_id != ZERO_ID for node_id in ids)
    return min(image.size_bytes, holding * image.fan_out * image.block_bytes)
