"""Small repositories for tests: cheap key derivation, small packs, a backup and a restore in few lines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mover.clock import Clock, SystemClock
from mover.model.machine import Consistency, Slot
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.repository.index import PlaceState
from mover.repository.keys import ScryptCost
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.storage.memory import MemoryStore
from mover.storage.protocol import Store

PASSPHRASE = "correct horse"
CHEAP = ScryptCost(n=16, r=1, p=1)
BLOCK = 4096
VM = "11111111-2222-4333-8444-555555555555"


async def make(store: Store | None = None, *, passphrase: str | None = PASSPHRASE, clock: Clock | None = None) -> Any:
    store = store or MemoryStore()
    await Repository.init(store, passphrase=passphrase, clock=clock or SystemClock(), cost=CHEAP)
    return store


async def open_in(
    store: Store, cache_dir: Path, *, passphrase: str | None = PASSPHRASE, clock: Clock | None = None, **settings: Any
) -> Repository:
    given = {"pack_bytes": 64 << 10, "uploads": 2, "paranoid": False, "level": 1, "heartbeat_s": 3600.0} | settings
    return await Repository.open(
        store, passphrase=passphrase, cache_dir=cache_dir, clock=clock or SystemClock(), **given
    )


def blocks_of(seed: int, count: int, *, zero_every: int = 5, tail: int = 100) -> list[bytes]:
    """Half compressible, half not, some zero; the last one is short."""
    dice = random.Random(seed)
    made = [
        bytes(BLOCK) if number % zero_every == 0 else dice.randbytes(BLOCK // 2) + b"text" * (BLOCK // 8)
        for number in range(count)
    ]
    return [*made[:-1], made[-1][:tail]] if tail else made


def image(size_bytes: int, node_ids: bytes, **facts: Any) -> DiskImage:
    given = {"device_uuid": "disk-0", "slot": Slot("scsi", 0), "mode": ReadMode.FULL, "reason": "first"}
    return DiskImage(
        **(given | {"size_bytes": size_bytes, "block_bytes": BLOCK, "fan_out": 8, "node_ids": node_ids} | facts)
    )


def point(session_id: str, disks: Sequence[DiskImage], point_id: str, **facts: Any) -> RestorePoint:
    given: dict[str, Any] = {
        "vm_uuid": VM,
        "vm_name": "web01",
        "cluster_uuid": "cluster",
        "created_at": 1_760_000_000.0,
        "committed_at": 1_760_000_100.0,
        "consistency_asked": Consistency.CRASH,
        "consistency": Consistency.CRASH,
        "job_id": "job",
    }
    return RestorePoint(**(given | {"id": point_id, "disks": tuple(disks), "session_id": session_id} | facts))


@dataclass
class Backup:
    """What a backup made."""

    point: RestorePoint
    kinds: list[str] = field(default_factory=list)
    """Per block: zero, known or new."""


async def copy_into(
    session: Session, blocks: Sequence[bytes], *, base: DiskImage | None = None, changed: Sequence[int] | None = None
) -> tuple[DiskImage, list[str]]:
    """Blocks by two threads, as the pipeline does; the image and what became of each block."""
    size = sum(len(block) for block in blocks)
    base_map = await session.open_map(base) if base else None
    builder = session.new_map(size_bytes=size, block_bytes=BLOCK, base=base_map, inherit=base is not None, fan_out=8)

    def one(number: int) -> str:
        stored = session.store_block(memoryview(blocks[number]))
        builder.put(number, stored.id)
        return stored.kind

    def work() -> tuple[bytes, list[str]]:
        with ThreadPoolExecutor(2) as threads:
            kinds = list(threads.map(one, range(len(blocks)) if changed is None else changed))
        return builder.finish(), kinds

    with ThreadPoolExecutor(1) as thread:
        node_ids, kinds = await asyncio.get_running_loop().run_in_executor(thread, work)
    return image(size, node_ids), kinds


async def backup(
    repository: Repository,
    blocks: Sequence[bytes],
    point_id: str,
    *,
    base: DiskImage | None = None,
    changed: Sequence[int] | None = None,
    **facts: Any,
) -> Backup:
    """A whole backup of one disk, committed."""
    session = await repository.open_session(points=[(VM, point_id)])
    async with asyncio.TaskGroup() as group:
        group.create_task(session.run())
        disk, kinds = await copy_into(session, blocks, base=base, changed=changed)
        made = point(session.id, [disk], point_id, **facts)
        await session.commit(made)
        await session.end()
    return Backup(made, kinds)


async def restore(repository: Repository, wanted: str) -> list[bytes]:
    """All blocks of a point's first disk, verified. Raises what a restore meets."""
    reader = await repository.open_reader()
    try:
        disk = (await repository.load(wanted)).disks[0]
        block_map = await reader.open_map(disk)
        ids = await block_map.ids(0, block_map.shape.blocks)
        places, found = reader.locate(ids), []
        for number in range(block_map.shape.blocks):
            length = block_map.shape.plain_bytes(number)
            if places.state[number] == PlaceState.ZERO:
                found.append(bytes(length))
                continue
            assert places.state[number] == PlaceState.STORED
            pack_no, offset, stored = (int(column[number]) for column in places[:3])
            sealed = await reader.fetch(pack_no, offset_bytes=offset, length_bytes=stored)
            block_id = ids[number * 32 : number * 32 + 32]
            found.append(
                bytes(
                    reader.open_block(
                        memoryview(sealed), pack_no=pack_no, offset=offset, id=block_id, plain_bytes=length
                    )
                )
            )
        return found
    finally:
        await reader.end()


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until a condition of theirs holds."""
    while not holds():  # noqa: ASYNC110 - the condition is another thread's, without an event
        await asyncio.sleep(0)


def names(store: MemoryStore, prefix: str = "") -> list[str]:
    """All names in a store."""
    return sorted(name for name in store._objects if name.startswith(prefix))


def flip(store: MemoryStore, name: str, at: int, mask: int = 1) -> None:
    """One bit of a stored object."""
    data = bytearray(store._objects[name].data)
    data[at] ^= mask
    overwrite(store, name, bytes(data))


def overwrite(store: MemoryStore, name: str, data: bytes) -> None:
    held = store._objects[name]
    store._objects[name] = type(held)(data, held.modified_at)


def copy_of(store: MemoryStore) -> MemoryStore:
    """Another store with the same objects."""
    fresh = MemoryStore()
    fresh._objects = dict(store._objects)
    return fresh


async def on_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


class Gate(MemoryStore):
    """Holds pack uploads back, or refuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.opened.set()
        self.refuse: Exception | None = None
        self.waiting = asyncio.Event()

    async def create(self, name: str, parts: Any) -> None:
        if name.startswith("packs/"):
            self.waiting.set()
            await self.opened.wait()
            if self.refuse is not None:
                raise self.refuse
        await super().create(name, parts)


async def two_backups(store: MemoryStore, tmp_path: Path) -> list[list[bytes]]:
    """``p1``, which is deleted again, and ``p2`` made from it: the blocks of both."""
    repository = await open_in(store, tmp_path / "writer", pack_bytes=12_000)
    first = blocks_of(1, 12)
    made = await backup(repository, first, "p1", created_at=1.0)
    second = [*first]
    second[3], second[4] = random.Random(5).randbytes(4096), bytes(4096)
    await backup(repository, second, "p2", base=made.point.disks[0], changed=[3, 4], created_at=2.0)
    await repository.delete_point("p1")
    await repository.close()
    return [first, second]
