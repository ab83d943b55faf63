"""The block map of one disk, read: nodes of 1,024 ids, loaded when they are asked for."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from mover.model.point import ID_BYTES, ZERO_ID, DiskImage
from mover.repository import layout

NodeLoader = Callable[[Sequence[tuple[bytes, int]]], Awaitable[list[bytes]]]
"""(node id, plain bytes) of several nodes → their verified content."""

NODES_CACHED = 64
"""2 MiB a map: a copy in order of offset needs two at a time."""
NODES_LOADED = 32
"""Nodes asked for at once: neighbours come in one read."""

_Answer = TypeVar("_Answer")


class Shape:
    """How a disk divides into blocks and nodes."""

    def __init__(self, *, size_bytes: int, block_bytes: int, fan_out: int) -> None:
        if size_bytes < 0 or block_bytes <= 0 or not 0 < fan_out <= layout.FAN_OUT_MAX:
            raise ValueError(f"no map has size {size_bytes}, blocks of {block_bytes}, fan-out {fan_out}")
        self.size_bytes, self.block_bytes, self.fan_out = size_bytes, block_bytes, fan_out
        self.blocks = -(-size_bytes // block_bytes)
        self.nodes = -(-self.blocks // fan_out)

    def blocks_in(self, node: int) -> int:
        """How many ids a node lists: fewer in the last one."""
        return min(self.fan_out, self.blocks - node * self.fan_out)

    def plain_bytes(self, block: int) -> int:
        """The true length of a block."""
        return min(self.block_bytes, self.size_bytes - block * self.block_bytes)

    def split(self, first_block: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """(node, first block in it, count, blocks before) of each node that a run touches."""
        if first_block < 0 or count < 0 or first_block + count > self.blocks:
            raise ValueError(f"blocks {first_block}+{count} are not in a disk of {self.blocks}")
        done = 0
        while done < count:
            node, start = divmod(first_block + done, self.fan_out)
            length = min(count - done, self.fan_out - start)
            yield node, start, length, done
            done += length


class MapReader:
    """The map of a stored image. Any thread may ask; nodes are loaded by its event loop."""

    def __init__(self, image: DiskImage, load: NodeLoader) -> None:
        """Made on the loop that will load."""
        self.shape = Shape(size_bytes=image.size_bytes, block_bytes=image.block_bytes, fan_out=image.fan_out)
        self.node_ids = image.node_ids
        if len(self.node_ids) != self.shape.nodes * ID_BYTES:
            raise ValueError(f"{len(self.node_ids)} bytes of node ids for {self.shape.nodes} nodes")
        self._load = load
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    async def ids(self, first_block: int, count: int) -> bytes:
        """Ids of consecutive blocks, 32 bytes each. Raises Damaged, StorageError."""
        runs = list(self.shape.split(first_block, count))
        out = bytearray(count * ID_BYTES)
        for at in range(0, len(runs), NODES_LOADED):
            batch = runs[at : at + NODES_LOADED]
            nodes = await self.nodes([run[0] for run in batch])
            for (_, start, length, before), content in zip(batch, nodes, strict=True):
                out[before * ID_BYTES : (before + length) * ID_BYTES] = content[
                    start * ID_BYTES : (start + length) * ID_BYTES
                ]
        return bytes(out)

    async def nodes(self, numbers: Sequence[int]) -> list[bytes]:
        """The whole content of a few nodes."""
        found = {number: self._known(number) for number in numbers}
        missing = [number for number, content in found.items() if content is None]
        if missing:
            wanted = [(self.node_id(number), self.shape.blocks_in(number) * ID_BYTES) for number in missing]
            for number, content in zip(missing, await self._load(wanted), strict=True):
                found[number] = content
                self._keep(number, content)
        return [found[number] or b"" for number in numbers]

    def cached_ids(self, first_block: int, count: int) -> bytes | None:
        """The same without waiting; None when a node is not at hand. Any thread."""
        parts = []
        for node, start, length, _ in self.shape.split(first_block, count):
            content = self._known(node)
            if content is None:
                return None
            parts.append(content[start * ID_BYTES : (start + length) * ID_BYTES])
        return b"".join(parts)

    def wait_ids(self, first_block: int, count: int) -> bytes:
        """The same, for a worker thread: blocks while the loop loads. Raises RuntimeError on the loop itself."""
        found = self.cached_ids(first_block, count)
        return self._wait(self.ids(first_block, count)) if found is None else found

    def wait_nodes(self, numbers: Sequence[int]) -> list[bytes]:
        """``nodes`` for a worker thread."""
        return self._wait(self.nodes(numbers))

    def _wait(self, answer: Coroutine[Any, Any, _Answer]) -> _Answer:
        if threading.get_ident() == self._loop_thread:
            answer.close()
            raise RuntimeError("a map is waited for on the event loop that loads it: call from a worker thread")
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()

    def node_id(self, number: int) -> bytes:
        return self.node_ids[number * ID_BYTES : (number + 1) * ID_BYTES]

    def _known(self, number: int) -> bytes | None:
        if self.node_id(number) == ZERO_ID:
            return bytes(self.shape.blocks_in(number) * ID_BYTES)
        with self._lock:
            content = self._cache.get(number)
            if content is not None:
                self._cache.move_to_end(number)
            return content

    def _keep(self, number: int, content: bytes) -> None:
        with self._lock:
            self._cache[number] = content
            while len(self._cache) > NODES_CACHED:
                self._cache.popitem(last=False)
