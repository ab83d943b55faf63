"""The block map: what is put is read, what is untouched is the base's, and memory stays small."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.model.point import ID_BYTES, ZERO_ID, DiskImage
from mover.repository import mapbuilder
from mover.repository.blockmap import NODES_CACHED, MapReader, Shape
from mover.repository.mapbuilder import MapBuilder
from tests.support.repositories import image

BLOCK = 4096


class Nodes:
    """Where the nodes of a test's maps are."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}
        self.loads = 0

    def store(self, content: bytes) -> bytes:
        node_id = blake3(content).digest()
        self.stored[node_id] = content
        return node_id

    async def load(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        self.loads += 1
        assert all(len(self.stored[node_id]) == size for node_id, size in wanted)
        return [self.stored[node_id] for node_id, _ in wanted]

    def builder(self, folder: Path, blocks: int, *, base: MapReader | None = None, tail: int = 0) -> MapBuilder:
        return MapBuilder(
            size_bytes=blocks * BLOCK - tail,
            block_bytes=BLOCK,
            base=base,
            inherit=base is not None,
            store_node=self.store,
            scratch_dir=folder,
            fan_out=8,
        )

    def reader(self, disk: DiskImage) -> MapReader:
        return MapReader(disk, self.load)


async def off_loop(work):  # type: ignore[no-untyped-def]
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


def ids_of(seed: int, count: int) -> list[bytes]:
    dice = random.Random(seed)
    return [ZERO_ID if dice.random() < 0.2 else dice.randbytes(ID_BYTES) for _ in range(count)]


@given(
    blocks=st.integers(1, 60),
    seed=st.integers(0, 1000),
    changes=st.sets(st.integers(0, 59), max_size=20),
    zeroed=st.sets(st.integers(0, 59), max_size=10),
    spill=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_map_is_its_base_with_the_changes(blocks, seed, changes, zeroed, spill, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch")

    async def scenario() -> None:
        nodes, expected = Nodes(), ids_of(seed, blocks)
        builder = nodes.builder(folder, blocks)
        order = list(range(blocks))
        random.Random(seed).shuffle(order)
        for block in order:
            builder.put(block, expected[block])
        base = nodes.reader(image(blocks * BLOCK, await off_loop(builder.finish)))
        assert await base.ids(0, blocks) == b"".join(expected)
        second = nodes.builder(folder, blocks, base=base)
        for block in sorted(changes - zeroed):
            if block < blocks:
                expected[block] = block.to_bytes(ID_BYTES, "big")[:-1] + b"!"
                second.put(block, expected[block])
        for block in zeroed:
            if block < blocks:
                expected[block] = ZERO_ID
                second.put_zero(block, 1)
        made = nodes.reader(image(blocks * BLOCK, await off_loop(second.finish)))
        assert await made.ids(0, blocks) == b"".join(expected)

    with pytest.MonkeyPatch.context() as patch:
        if spill:
            patch.setattr(mapbuilder, "SPILL_BYTES", 50)
        asyncio.run(scenario())


async def test_untouched_nodes_are_the_bases_own_and_are_not_read(tmp_path: Path):
    nodes = Nodes()
    builder = nodes.builder(tmp_path, 80)
    builder.put(0, b"".join(random.Random(1).randbytes(ID_BYTES) for _ in range(80)))
    base = nodes.reader(image(80 * BLOCK, await off_loop(builder.finish)))
    second = nodes.builder(tmp_path, 80, base=base)
    second.put(17, b"x" * ID_BYTES)
    made = await off_loop(second.finish)
    changed = [at for at in range(10) if made[at * 32 : at * 32 + 32] != base.node_id(at)]
    assert changed == [2]
    assert nodes.loads == 1


async def test_a_map_of_zeroes_stores_nothing(tmp_path: Path):
    nodes = Nodes()
    builder = nodes.builder(tmp_path, 100)
    builder.put_zero(3, 90)
    assert await off_loop(builder.finish) == ZERO_ID * 13
    assert nodes.stored == {}
    reader = nodes.reader(image(100 * BLOCK, ZERO_ID * 13))
    assert reader.cached_ids(0, 100) == ZERO_ID * 100
    assert nodes.loads == 0


def test_a_block_is_put_once_and_inside_the_disk(tmp_path: Path):
    builder = Nodes().builder(tmp_path, 20)
    builder.put(3, b"x" * 64)
    for first, count in ((4, 1), (0, 8), (3, 1)):
        with pytest.raises(ValueError, match="put before"):
            builder.put_zero(first, count)
    builder.put_zero(0, 3)
    builder.put_zero(5, 3)
    with pytest.raises(ValueError, match="put before"):
        builder.put(7, b"y" * 32)
    for first, count in ((-1, 1), (20, 1), (19, 2)):
        with pytest.raises(ValueError, match="not in a disk"):
            builder.put_zero(first, count)
    with pytest.raises(ValueError, match="whole number"):
        builder.put(9, b"y" * 31)


async def test_a_grown_disk_inherits_no_cut_block_and_guesses_none(tmp_path: Path):
    nodes = Nodes()
    builder = nodes.builder(tmp_path, 10, tail=100)
    ids = [random.Random(1).randbytes(ID_BYTES) for _ in range(10)]
    builder.put(0, b"".join(ids))
    base = nodes.reader(image(10 * BLOCK - 100, await off_loop(builder.finish)))
    for missing in (9, 10, 19):
        grown = nodes.builder(tmp_path, 20, base=base)
        for block in range(9, 20):
            if block != missing:
                grown.put(block, b"n" * 32)
        with pytest.raises(ValueError, match=f"block {missing} was not put"):
            await off_loop(grown.finish)
    grown = nodes.builder(tmp_path, 20, base=base)
    grown.put(9, b"n" * 32 * 11)
    made = nodes.reader(image(20 * BLOCK, await off_loop(grown.finish)))
    assert await made.ids(0, 20) == b"".join(ids[:9]) + b"n" * 32 * 11


async def test_a_base_must_fit(tmp_path: Path):
    nodes = Nodes()
    base = nodes.reader(image(10 * BLOCK, ZERO_ID * 2))
    with pytest.raises(ValueError, match="larger disk"):
        nodes.builder(tmp_path, 9, base=base)
    with pytest.raises(ValueError, match="same block size"):
        MapBuilder(
            size_bytes=10 * BLOCK,
            block_bytes=2 * BLOCK,
            base=base,
            inherit=True,
            store_node=nodes.store,
            scratch_dir=tmp_path,
        )
    with pytest.raises(ValueError, match="needs a base"):
        MapBuilder(size_bytes=1, block_bytes=1, base=None, inherit=True, store_node=nodes.store, scratch_dir=tmp_path)
    with pytest.raises(ValueError, match="node ids"):
        nodes.reader(image(10 * BLOCK, ZERO_ID * 3))


async def test_the_cache_is_bounded_and_threads_may_wait(tmp_path: Path):
    nodes, blocks = Nodes(), 8 * (NODES_CACHED + 30)
    builder = nodes.builder(tmp_path, blocks)
    ids = b"".join(random.Random(1).randbytes(ID_BYTES) for _ in range(blocks))
    builder.put(0, ids)
    reader = nodes.reader(image(blocks * BLOCK, await off_loop(builder.finish)))
    assert reader.cached_ids(0, 1) is None
    assert await reader.ids(0, blocks) == ids
    assert len(reader._cache) == NODES_CACHED
    assert reader.cached_ids(blocks - 8, 8) == ids[-8 * 32 :]
    assert await off_loop(lambda: reader.wait_ids(0, 20)) == ids[: 20 * 32]
    with pytest.raises(RuntimeError, match="worker thread"):
        reader.wait_nodes([0])


def test_shapes_divide_disks():
    shape = Shape(size_bytes=10 * BLOCK + 1, block_bytes=BLOCK, fan_out=4)
    assert (shape.blocks, shape.nodes, shape.blocks_in(2), shape.plain_bytes(10)) == (11, 3, 3, 1)
    assert list(shape.split(3, 6)) == [(0, 3, 1, 0), (1, 0, 4, 1), (2, 0, 1, 5)]
    for wrong in ({"size_bytes": -1}, {"block_bytes": 0}, {"fan_out": 0}):
        with pytest.raises(ValueError, match="no map"):
            Shape(**({"size_bytes": 1, "block_bytes": 1, "fan_out": 1} | wrong))


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) << 10


async def test_ten_million_blocks_with_scattered_changes_stay_small(tmp_path: Path):
    """10 TB at 1 MiB a block, 100,000 changes all over it."""
    blocks, fan_out, size = 10_000_000, 1024, 1 << 20
    nodes = -(-blocks // fan_out)
    full, last = b"b" * (fan_out * ID_BYTES), b"b" * ((blocks - (nodes - 1) * fan_out) * ID_BYTES)
    node_ids = (b"F" * 32) * (nodes - 1) + b"L" * 32

    async def load(wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        return [full if node_id[:1] == b"F" else last for node_id, _ in wanted]

    stored = []

    def store(content: bytes) -> bytes:
        stored.append(len(content) - content.count(b"b"))
        return b"N" * 32

    disk = image(blocks * size, node_ids, block_bytes=size, fan_out=fan_out)
    changed = sorted(random.Random(1).sample(range(blocks), 100_000))
    before = anonymous_bytes()
    builder = MapBuilder(
        size_bytes=blocks * size,
        block_bytes=size,
        base=MapReader(disk, load),
        inherit=True,
        store_node=store,
        scratch_dir=tmp_path,
        fan_out=fan_out,
    )
    for block in changed:
        builder.put(block, b"x" * 32)
    open_most = anonymous_bytes() - before
    made = await off_loop(builder.finish)
    assert len(made) == nodes * ID_BYTES
    assert sum(stored) == 100_000 * ID_BYTES
    assert open_most < 32 << 20
    assert anonymous_bytes() - before < 32 << 20


def test_an_abandoned_map_lets_go_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mapbuilder, "SPILL_BYTES", 50)
    builder = MapBuilder(
        size_bytes=4096 * 40,
        block_bytes=4096,
        base=None,
        inherit=False,
        store_node=lambda content: content[:32],
        scratch_dir=tmp_path,
        fan_out=8,
    )
    for block in range(0, 40, 9):
        builder.put(block, b"x" * 32)
    scratch = builder._scratch
    assert scratch is not None
    builder.close()
    assert scratch.closed
    builder.close()
