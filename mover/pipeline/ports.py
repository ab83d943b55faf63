"""What the pipeline needs of a repository, cut to its use. ``mover.repository`` fulfils it.

"Sync" calls come from plain threads and may block; the others from the event loop.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mover.model.point import DiskImage
from mover.storage.protocol import Bytes


class StoredBlock(Protocol):
    @property
    def id(self) -> bytes: ...

    @property
    def kind(self) -> str:
        """zero, known or new."""

    @property
    def stored_bytes(self) -> int:
        """Sealed size of a new block, else 0."""


class MapReader(Protocol):
    async def ids(self, first_block: int, count: int) -> bytes:
        """Ids of neighbouring blocks, 32 bytes each. Raises Damaged."""


class MapBuilder(Protocol):
    """Sync, from any thread; each block at most once."""

    def put(self, first_block: int, ids: bytes) -> None: ...

    def put_zero(self, first_block: int, count: int) -> None: ...

    def finish(self) -> bytes:
        """Node ids of the whole disk; blocks never put are the base's, or zero."""

    def close(self) -> None:
        """Let go of its scratch space, finished or not. Idempotent."""


class BlockWriter(Protocol):
    """A repository's writing session."""

    def new_map(self, *, size_bytes: int, block_bytes: int, base: Any, inherit: bool) -> MapBuilder:
        """base: a MapReader of the same repository, or None."""

    def store_block(self, data: memoryview) -> StoredBlock:
        """Sync. Waits for room in a pack; raises when the session has failed."""

    def block_id(self, data: memoryview) -> bytes:
        """Sync. The id that ``store_block`` would give it."""

    def interrupt(self) -> None:
        """On the loop, by who is cancelled: the session is given up, ``store_block`` waits no longer and raises."""


class BlockPlaces(Protocol):
    """Where records are: columns with one row per id asked for."""

    @property
    def pack_no(self) -> NDArray[np.int64]:
        """Negative: zero, lost, or in no pack that the index knows."""

    @property
    def offset_bytes(self) -> NDArray[np.int64]: ...

    @property
    def stored_bytes(self) -> NDArray[np.int64]: ...


class BlockReader(Protocol):
    """A repository's reading session."""

    async def open_map(self, image: DiskImage) -> MapReader: ...

    def locate(self, ids: bytes) -> BlockPlaces: ...

    def pack_name(self, pack_no: int) -> str: ...

    async def fetch(self, pack_no: int, *, offset_bytes: int, length_bytes: int) -> Bytes:
        """Part of a pack as stored, unverified. Raises ObjectMissing, StorageError."""

    def block_id(self, data: memoryview) -> bytes:
        """Sync. The id that these bytes would have."""

    def open_block(
        self,
        sealed: memoryview,
        *,
        pack_no: int,
        offset: int,
        id: bytes,
        plain_bytes: int,
        out: memoryview | None,
    ) -> memoryview:
        """Sync. The verified plain block. Raises Damaged, naming the object."""
