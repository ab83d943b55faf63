"""The block map of one disk, made while its blocks arrive.

A node is stored as soon as all its blocks were put; one that scattered changes leave open
keeps only the changes, in memory up to a bound and then in a file, until ``finish`` joins
them with the former map. Nodes that nothing touched are the former map's own.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import IO

from mover.model.point import ID_BYTES, ZERO_ID
from mover.repository import layout
from mover.repository.blockmap import NODES_LOADED, MapReader, Shape
from mover.repository.opening import unwritable

SPILL_BYTES = 8 << 20
"""Changes of open nodes kept in memory; beyond, they go to a file and come back once."""

_RUN = Struct("<HH?")
"""First block within the node, blocks less one, whether they are zeroes; ids follow if not."""


class _OpenNode:
    """What was put into a node so far, in order of arrival."""

    __slots__ = ("mask", "runs", "spilled")

    def __init__(self) -> None:
        self.mask = 0
        """One bit per block that was put."""
        self.runs = bytearray()
        self.spilled: list[tuple[int, int]] = []
        """(offset, length) of former runs in the scratch file."""


class MapBuilder:
    """Blocks in any order, from any thread, each at most once; then ``finish``."""

    def __init__(
        self,
        *,
        size_bytes: int,
        block_bytes: int,
        base: MapReader | None,
        inherit: bool,
        store_node: Callable[[bytes], bytes],
        scratch_dir: Path,
        fan_out: int = layout.FAN_OUT,
    ) -> None:
        """inherit: untouched blocks are the base's, otherwise zero. store_node: content → id; it may block."""
        self.shape = Shape(size_bytes=size_bytes, block_bytes=block_bytes, fan_out=fan_out)
        self._base = _checked_base(base, self.shape) if inherit else None
        self._base_blocks = _blocks_to_inherit(self._base, self.shape)
        self._store_node, self._scratch_dir = store_node, scratch_dir
        self._lock = threading.Lock()
        self._open: dict[int, _OpenNode] = {}
        self._done: set[int] = set()
        self._node_ids = bytearray(self.shape.nodes * ID_BYTES)
        self._held_bytes = 0
        self._scratch: IO[bytes] | None = None

    def put(self, first_block: int, ids: bytes | memoryview) -> None:
        """Ids of consecutive blocks. Raises ValueError for a block beyond the disk or put before."""
        count, rest = divmod(len(ids), ID_BYTES)
        if rest:
            raise ValueError(f"{len(ids)} bytes are no whole number of ids")
        self._put(first_block, count, memoryview(ids))

    def put_zero(self, first_block: int, count: int) -> None:
        """Consecutive blocks of zeroes."""
        self._put(first_block, count, None)

    def finish(self) -> bytes:
        """The ids of all nodes. Once, after all puts, on a worker thread (it waits for base nodes).

        Raises ValueError when a block was neither put nor is in the base that the map inherits.
        """
        try:
            self._finish_open()
            self._inherit_untouched()
        finally:
            self.close()
        return bytes(self._node_ids)

    def close(self) -> None:
        """Let go of the scratch file, finished or not: an abandoned map must not hold the disk's space. Idempotent."""
        if self._scratch is not None:
            self._scratch.close()

    # --- while blocks arrive ---

    def _put(self, first_block: int, count: int, ids: memoryview | None) -> None:
        complete = []
        with self._lock:
            for node, start, length, before in self.shape.split(first_block, count):
                part = None if ids is None else ids[before * ID_BYTES : (before + length) * ID_BYTES]
                if self._add(node, start, length, part):
                    entry = self._open.pop(node)
                    self._held_bytes -= len(entry.runs)
                    self._done.add(node)
                    complete.append((node, entry, self._spilled_runs(entry)))
            if self._held_bytes > SPILL_BYTES:
                try:
                    self._spill()
                except OSError as error:
                    raise unwritable(error) from error
        for node, entry, spilled in complete:
            content = bytearray(self.shape.blocks_in(node) * ID_BYTES)
            _replay(content, spilled)
            _replay(content, entry.runs)
            self._settle(node, bytes(content))

    def _add(self, node: int, start: int, length: int, ids: memoryview | None) -> bool:
        """Note a run; whether the node is complete with it."""
        bits = ((1 << length) - 1) << start
        entry = self._open.get(node)
        if node in self._done or (entry is not None and entry.mask & bits):
            raise ValueError(f"a block of {node * self.shape.fan_out + start}+{length} was put before")
        if entry is None:
            entry = self._open[node] = _OpenNode()
        entry.mask |= bits
        entry.runs += _RUN.pack(start, length - 1, ids is None)
        if ids is not None:
            entry.runs += ids
        self._held_bytes += _RUN.size + (0 if ids is None else len(ids))
        return entry.mask == (1 << self.shape.blocks_in(node)) - 1

    def _spill(self) -> None:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryFile(dir=self._scratch_dir)  # noqa: SIM115 - lives until finish
        offset = self._scratch.seek(0, 2)
        for entry in self._open.values():
            if entry.runs:
                self._scratch.write(entry.runs)
                entry.spilled.append((offset, len(entry.runs)))
                offset += len(entry.runs)
                entry.runs = bytearray()
        self._held_bytes = 0

    def _spilled_runs(self, entry: _OpenNode) -> bytes:
        parts = []
        for offset, length in entry.spilled:
            assert self._scratch is not None
            self._scratch.seek(offset)
            parts.append(self._scratch.read(length))
        return b"".join(parts)

    def _settle(self, node: int, content: bytes) -> None:
        """Store a node's content and note its id. Not under the lock: storing may wait for an upload."""
        node_id = ZERO_ID if content == bytes(len(content)) else self._store_node(content)
        self._node_ids[node * ID_BYTES : (node + 1) * ID_BYTES] = node_id

    # --- at the end ---

    def _finish_open(self) -> None:
        numbers = sorted(self._open)
        for at in range(0, len(numbers), NODES_LOADED):
            batch = numbers[at : at + NODES_LOADED]
            for node, content in zip(batch, self._base_content(batch), strict=True):
                entry = self._open.pop(node)
                self._check_covered(node, entry.mask)
                _replay(content, self._spilled_runs(entry))
                _replay(content, entry.runs)
                self._done.add(node)
                self._settle(node, bytes(content))

    def _base_content(self, numbers: list[int]) -> Iterator[bytearray]:
        """Per node what its untouched blocks are: the base's ids or zeroes."""
        base = self._base
        inside = [number for number in numbers if number * self.shape.fan_out < self._base_blocks]
        known = iter(base.wait_nodes(inside)) if base is not None and inside else iter(())
        for number in numbers:
            content = bytearray(self.shape.blocks_in(number) * ID_BYTES)
            if number in inside:
                blocks = min(self.shape.blocks_in(number), self._base_blocks - number * self.shape.fan_out)
                content[: blocks * ID_BYTES] = next(known)[: blocks * ID_BYTES]
            yield content

    def _check_covered(self, node: int, mask: int) -> None:
        """Inheriting, a block that the base does not have must have been put: zero would be a guess."""
        if self._base is None:
            return
        first = node * self.shape.fan_out
        base_mask = (1 << max(0, min(self.shape.fan_out, self._base_blocks - first))) - 1
        missing = ((1 << self.shape.blocks_in(node)) - 1) & ~(mask | base_mask)
        if missing:
            block = first + (missing & -missing).bit_length() - 1
            raise ValueError(f"block {block} was not put, and the former map does not have it")

    def _inherit_untouched(self) -> None:
        if self._base is None:
            return
        for node in range(self.shape.nodes):
            if node not in self._done:
                self._check_covered(node, 0)
                self._node_ids[node * ID_BYTES : (node + 1) * ID_BYTES] = self._base.node_id(node)


def _checked_base(base: MapReader | None, shape: Shape) -> MapReader:
    if base is None:
        raise ValueError("a map that inherits needs a base")
    former = base.shape
    if (former.block_bytes, former.fan_out) != (shape.block_bytes, shape.fan_out):
        raise ValueError("a map inherits only from one of the same block size and fan-out")
    if former.size_bytes > shape.size_bytes:
        raise ValueError("a map does not inherit from that of a larger disk")
    return base


def _blocks_to_inherit(base: MapReader | None, shape: Shape) -> int:
    """A tail block that was cut short is another block once the disk has grown."""
    if base is None:
        return 0
    same_size = base.shape.size_bytes == shape.size_bytes
    return base.shape.blocks if same_size else base.shape.size_bytes // base.shape.block_bytes


def _replay(content: bytearray, runs: bytes | bytearray) -> None:
    at, view = 0, memoryview(runs)
    while at < len(runs):
        start, last, is_zero = _RUN.unpack_from(runs, at)
        at += _RUN.size
        begin, length = start * ID_BYTES, (last + 1) * ID_BYTES
        if is_zero:
            content[begin : begin + length] = bytes(length)
        else:
            content[begin : begin + length] = view[at : at + length]
            at += length
