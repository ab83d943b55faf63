"""What every store owes (mover/storage/protocol.py), on a folder, in memory and on real S3 servers.

``careless`` is SeaweedFS behind a front that drops the create-only header. What is weaker
there by its nature: of two creates at the same instant both may succeed.
"""

from __future__ import annotations

import asyncio
import uuid
from array import array
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from mover.clock import SystemClock, secret_bytes
from mover.errors import ObjectExists, ObjectMissing, StorageError
from mover.storage.memory import MemoryStore
from mover.storage.probe import probe
from mover.storage.protocol import Store
from mover.storage.stack import open_store, stacked
from mover.units import MIB
from tests.support.servers import BUCKET, CARELESS_BUCKET, Seaweed, careless_front

KINDS = ("folder", "memory", "seaweed", "careless")


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        opened = await _open(request, tmp_path, stack)
        stack.push_async_callback(opened.close)
        yield opened


async def _open(request: pytest.FixtureRequest, folder: Path, stack: AsyncExitStack) -> Store:
    clock = SystemClock()
    if request.param == "folder":
        return await open_store(str(folder / "repository"), {}, clock=clock, create=True)
    if request.param == "memory":
        return stacked(MemoryStore(), clock)
    server: Seaweed = request.getfixturevalue("seaweed")
    prefix = uuid.uuid4().hex
    if request.param == "seaweed":
        return await open_store(f"s3://{BUCKET}/{prefix}/r", server.options(), clock=clock)
    endpoint = await stack.enter_async_context(careless_front(server))
    options = server.options(endpoint=endpoint)
    found = await open_store(f"s3://{CARELESS_BUCKET}/{prefix}", options, clock=clock)
    found.learn(replace(found.traits, has_create_only=False))
    return found


async def names(store: Store, prefix: str) -> list[str]:
    return [info.name async for info in store.list(prefix)]


async def test_what_was_put_is_read_looked_at_and_listed(store: Store) -> None:
    await store.create("packs/0a/0a11", [b"sealed ", b"records"])
    assert await store.get("packs/0a/0a11") == b"sealed records"
    info = await store.info("packs/0a/0a11")
    assert info is not None
    assert (info.name, info.size_bytes) == ("packs/0a/0a11", 14)
    assert abs(info.modified_at - SystemClock().now()) < 60
    assert [(found.name, found.size_bytes) async for found in store.list("packs/")] == [("packs/0a/0a11", 14)]


async def test_parts_of_every_kind_are_joined_in_order(store: Store) -> None:
    numbers = memoryview(array("I", range(1000)))
    parts = [b"a", bytearray(b"bc"), b"", numbers, memoryview(b"0123456789")[2:5], *[b"%d" % n for n in range(3000)]]
    wanted = b"abc" + numbers.tobytes() + b"234" + b"".join(b"%d" % n for n in range(3000))
    await store.create("index/s-1", parts)
    assert await store.get("index/s-1") == wanted


async def test_empty_object(store: Store) -> None:
    await store.create("sessions/empty", [])
    assert await store.get("sessions/empty") == b""
    info = await store.info("sessions/empty")
    assert info is not None
    assert info.size_bytes == 0


async def test_same_bytes_again_are_our_own_lost_answer(store: Store) -> None:
    await store.create("points/vm/p1", [b"mani", b"fest"])
    await store.create("points/vm/p1", [b"manifest"])
    assert await store.get("points/vm/p1") == b"manifest"


@pytest.mark.parametrize("other", [b"manifesT", b"longer manifest", b""], ids=["same-size", "longer", "empty"])
async def test_other_bytes_under_a_taken_name_are_refused(store: Store, other: bytes) -> None:
    await store.create("points/vm/p1", [b"manifest"])
    with pytest.raises(ObjectExists) as refused:
        await store.create("points/vm/p1", [other])
    assert "points/vm/p1" in refused.value.message
    assert await store.get("points/vm/p1") == b"manifest"


async def test_race_has_one_winner_and_its_bytes(store: Store) -> None:
    rivals = [secret_bytes(20_000) for _ in range(4)]
    answers = await asyncio.gather(*(store.create("points/vm/race", [each]) for each in rivals), return_exceptions=True)
    winners = [rival for rival, answer in zip(rivals, answers, strict=True) if answer is None]
    assert all(answer is None or isinstance(answer, ObjectExists) for answer in answers)
    assert await store.get("points/vm/race") in winners
    assert len(winners) == 1 or not store.traits.has_create_only


async def test_replace_makes_and_overwrites(store: Store) -> None:
    await store.replace("sessions/s1", [b"beat 1"])
    await store.replace("sessions/s1", [b"beat", b" number 2"])
    assert await store.get("sessions/s1") == b"beat number 2"


async def test_what_is_missing_is_said_by_name(store: Store) -> None:
    await store.create("packs/0a/0a11", [b"x"])
    for name in ("packs/0a/0a12", "packs/0b/0b00", "packs/0a", "nothing"):
        assert await store.info(name) is None
        with pytest.raises(ObjectMissing, match=name):
            await store.get(name)
        with pytest.raises(ObjectMissing, match=name):
            await store.get_range(name, 0, 1)
        with pytest.raises(ObjectMissing, match=name):
            await store.get_range(name, 0, 0)


async def test_ranges_are_exact(store: Store) -> None:
    data = secret_bytes(100_000)
    await store.create("packs/0a/ranges", [data])
    for offset_bytes, length_bytes in ((0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321), (7, 0), (100_000, 0)):
        found = await store.get_range("packs/0a/ranges", offset_bytes, length_bytes)
        assert bytes(found) == data[offset_bytes : offset_bytes + length_bytes]


@pytest.mark.parametrize(("offset_bytes", "length_bytes"), [(90, 20), (100, 1), (500, 10), (500, 0)])
async def test_a_range_beyond_the_end_is_an_error(store: Store, offset_bytes: int, length_bytes: int) -> None:
    await store.create("packs/0a/short", [bytes(100)])
    with pytest.raises(StorageError, match="packs/0a/short ends at byte 100") as error:
        await store.get_range("packs/0a/short", offset_bytes, length_bytes)
    assert not error.value.retryable


async def test_listing_is_ordered_by_name_and_kept_to_its_prefix(store: Store) -> None:
    wanted = [
        "index/s-1",
        "index/s-10",
        "index/s-2",
        "packs/00/00aa",
        "packs/00/00bb",
        "packs/01/0100",
        "repository.json",
    ]
    for name in reversed(wanted):
        await store.create(name, [name.encode()])
    assert await names(store, "") == wanted
    assert await names(store, "packs/") == wanted[3:6]
    assert await names(store, "packs") == wanted[3:6]
    assert await names(store, "packs/00/00b") == ["packs/00/00bb"]
    assert await names(store, "index/s-1") == ["index/s-1", "index/s-10"]
    assert await names(store, "packs/00/00bb") == ["packs/00/00bb"]
    assert await names(store, "packs/00/00bbcc") == []
    assert await names(store, "none/") == []
    assert await names(store, "packs/02") == []


async def test_a_reader_may_leave_a_listing_and_delete_while_it_runs(store: Store) -> None:
    for number in range(5):
        await store.create(f"tombstones/{number}", [b"x"])
    async for info in store.list("tombstones/"):
        if info.name == "tombstones/2":
            break
    async for info in store.list("tombstones/"):
        await store.delete(info.name)
    assert await names(store, "tombstones/") == []


async def test_delete_twice_is_as_once(store: Store) -> None:
    await store.create("packs/0a/gone", [b"x"])
    await store.delete("packs/0a/gone")
    await store.delete("packs/0a/gone")
    await store.delete("packs/never/was")
    assert await store.info("packs/0a/gone") is None
    await store.create("packs/0a/gone", [b"a new one"])
    assert await store.get("packs/0a/gone") == b"a new one"


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/..", ".part-1", "a/.hidden", "ä", "a b", "a\n"])
async def test_odd_names_are_refused_before_anything_happens(store: Store, name: str) -> None:
    for call in (store.create(name, [b"x"]), store.get(name), store.get_range(name, 0, 1), store.delete(name)):
        with pytest.raises(ValueError, match="not a name"):
            await call
    assert await names(store, "") == []


async def test_a_whole_pack_with_ranges_in_flight(store: Store) -> None:
    pack = secret_bytes(8 * MIB)
    parts = [memoryview(pack)[start : start + 300_000] for start in range(0, len(pack), 300_000)]
    await store.create("packs/0a/pack", parts)
    found = await asyncio.gather(*(store.get_range("packs/0a/pack", start * MIB, MIB) for start in range(8)))
    assert b"".join(bytes(each) for each in found) == pack


async def test_a_cancelled_create_is_whole_or_nothing_and_lets_the_buffers_go(store: Store) -> None:
    buffer = bytearray(b"\x5a") * (8 * MIB)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.create("packs/0a/cancelled", [memoryview(buffer)]))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
    buffer[:] = bytes(len(buffer))
    info = await store.info("packs/0a/cancelled")
    held = b"" if info is None else await store.get("packs/0a/cancelled")
    assert held in (b"", b"\x5a" * len(buffer))
    assert task.cancelled() or info is not None


async def test_probe_finds_the_store_fit_and_leaves_a_note_of_what_is_weak(
    store: Store, request: pytest.FixtureRequest
) -> None:
    is_careless = "careless" in request.node.name
    store.learn(replace(store.traits, has_create_only=True))
    traits = await probe(store, SystemClock())
    assert traits.has_create_only is not is_careless
    assert store.traits == traits
    assert traits.list_lag_s == 0
    assert await names(store, "") == (["store.json"] if is_careless else [])


async def test_a_store_opened_again_is_as_weak_as_the_probe_found_it(seaweed: Seaweed) -> None:
    async with careless_front(seaweed) as endpoint:
        place, options = f"s3://{CARELESS_BUCKET}/{uuid.uuid4().hex}", seaweed.options(endpoint=endpoint)
        first = await open_store(place, options, clock=SystemClock())
        await probe(first, SystemClock())
        again = await open_store(place, options, clock=SystemClock())
        await again.create("points/vm/p", [b"mine"])
        with pytest.raises(ObjectExists):
            await again.create("points/vm/p", [b"other"])


async def test_room_is_told_or_unknown(store: Store) -> None:
    room = await store.free_bytes()
    assert room is None or room > 0
