"""What a check finds, names and leaves alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mover.clock import FakeClock
from mover.errors import StoreUnreachable
from mover.repository import layout
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from tests.support.repositories import (
    VM,
    backup,
    blocks_of,
    copy_of,
    flip,
    image,
    make,
    names,
    open_in,
    overwrite,
    point,
    two_backups,
    until,
)


async def test_check_names_each_damaged_or_missing_object(tmp_path: Path):
    store = await make()
    await two_backups(store, tmp_path)
    manifest = names(store, "points/")[0]
    for number, pack in enumerate(names(store, "packs/")):
        size = len(store._objects[pack].data)
        harms = [copy_of(store) for _ in range(4)]
        for harmed, at in zip(harms, (20, size - 3, size - 60), strict=False):
            flip(harmed, pack, at)
        overwrite(harms[3], pack, store._objects[pack].data[:-5])
        for harmed in harms:
            assert pack in await found_by_check(harmed, tmp_path / f"pack-{number}")
    for at in (120, len(store._objects[manifest].data) - 1):
        harmed = copy_of(store)
        flip(harmed, manifest, at)
        assert await found_by_check(harmed, tmp_path / "manifest") == [manifest]
    harmed = copy_of(store)
    for pack in names(store, "packs/"):
        await harmed.delete(pack)
    assert set(await found_by_check(harmed, tmp_path / "gone")) & set(names(store, "packs/"))


async def test_a_long_check_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = FakeClock()
    repository = await open_in(await make(), tmp_path, clock=clock, heartbeat_s=30.0)
    beats: list[int] = []

    async def slow(*_: object) -> list[object]:
        await until(lambda: clock.elapsed > 100)
        beats.extend(line.beat for line in await repository.leftovers())
        return []

    monkeypatch.setattr(repository, "points", slow)
    assert (await check(repository)).is_clean
    assert beats
    assert beats[0] >= 3
    assert await repository.leftovers() == []
    await repository.close()


async def test_a_store_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = await make()
    await two_backups(store, tmp_path)
    repository = await open_in(store, tmp_path / "reader")
    whole, is_pack = store.get_range, set(names(store, "packs/"))
    reads: list[int] = []

    async def gone(name: str, offset_bytes: int, length_bytes: int) -> Any:
        reads.append(1)
        if name in is_pack and len(reads) > 2 * len(is_pack):
            raise StoreUnreachable("gone", remedy="wait")
        return await whole(name, offset_bytes, length_bytes)

    monkeypatch.setattr(store, "get_range", gone)
    with pytest.raises(StoreUnreachable):
        await check(repository)
    await repository.close()


async def found_by_check(store: MemoryStore, tmp_path: Path) -> list[str]:
    repository = await open_in(store, tmp_path)
    report = await check(repository)
    await repository.close()
    return [problem.object for problem in report.problems]


async def test_a_point_is_checked_alone(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path / "writer", pack_bytes=12_000)
    await backup(repository, blocks_of(1, 12), "p1")
    of_first = names(store, "packs/")
    await backup(repository, blocks_of(2, 12), "p2")
    await repository.close()
    of_second = [name for name in names(store, "packs/") if name not in of_first]
    flip(store, of_first[0], len(store._objects[of_first[0]].data) - 3)
    await store.delete(of_second[0])
    assert await damage_of_each(store, tmp_path / "one") == {"p1": {of_first[0]}, "p2": {of_second[0]}}
    broken = names(store, "index/")[0]
    flip(store, broken, 90)
    for objects in (await damage_of_each(store, tmp_path / "two")).values():
        assert broken in objects


async def damage_of_each(store: MemoryStore, tmp_path: Path) -> dict[str, set[str]]:
    repository, found = await open_in(store, tmp_path), {}
    for line in await repository.points():
        report = await repository.check(await repository.load(line))
        assert report.points == 1
        found[line.id] = {problem.object for problem in report.problems}
    await repository.close()
    return found


async def test_check_names_blocks_that_nothing_holds(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    builder = one.new_map(size_bytes=4096 * 9, block_bytes=4096, fan_out=8)
    builder.put(0, b"\xff" * 32 + b"unheard of, and nowhere to be fo")
    node_ids = await asyncio.get_running_loop().run_in_executor(None, builder.finish)
    await one.commit(point(one.id, [image(4096 * 9, node_ids)], "p1"))
    await one.end()
    report = await check(repository)
    assert [problem.point for problem in report.problems] == [layout.point_name(VM, "p1")]
    assert "2 blocks of disk scsi.0 are in no pack, the first is block 0" in report.problems[0].what
    await repository.close()
