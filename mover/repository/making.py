"""A pack that this process is making, and who relies on it."""

from __future__ import annotations

from enum import Enum
from mmap import mmap
from typing import Protocol

import numpy as np

from mover.repository.pack import Contents, PackBuilder
from mover.repository.rows import TABLE_ROW_DTYPE


class Owner(Protocol):
    """A session, as the packer sees it."""

    packs: set[Pack]
    """What it relies on and has not indexed yet; kept by the packer, under its lock."""
    dead_packs: frozenset[bytes]
    """Ids of packs that it must not reuse."""

    def check(self) -> None:
        """Raise what ended it."""

    def fail(self, error: BaseException) -> None:
        """End it. Any thread."""

    def wake(self) -> None:
        """Something that it may be waiting for has changed. Any thread."""


class PackState(Enum):
    """A pack's life; FAILED is the other end."""

    OPEN = 0
    FULL = 1
    DURABLE = 2
    INDEXED = 3
    FAILED = 4


class Pack:
    """A pack that this process makes. Its fields belong to the packer's lock."""

    def __init__(self, builder: PackBuilder, reserved_bytes: int) -> None:
        self.name, self.pack_id = builder.name, builder.pack_id
        self.parts: list[bytes | memoryview] = []
        self.contents: Contents | None = None
        """Once it is full."""
        self._builder: PackBuilder | None = builder
        self.reserved_bytes = reserved_bytes
        self.state = PackState.OPEN
        self.is_closed = False
        self.places_out = 0
        self.owners: set[Owner] = set()

    @property
    def builder(self) -> PackBuilder:
        assert self._builder is not None
        return self._builder

    @property
    def is_on_its_way(self) -> bool:
        """Neither durable nor given up yet."""
        return self.state in (PackState.OPEN, PackState.FULL)

    def finish(self) -> None:
        """Seal the table: the pack's bytes are final."""
        builder = self.builder
        self.parts = builder.finish()
        table = np.frombuffer(bytes(builder.table), TABLE_ROW_DTYPE)
        self.contents = Contents(self.pack_id, builder.key_id, builder.pack_bytes, table)
        self.state = PackState.FULL

    def let_go(self) -> mmap:
        """Its memory, which it needs no more."""
        memory = self.builder.memory
        self._builder, self.parts = None, []
        return memory
