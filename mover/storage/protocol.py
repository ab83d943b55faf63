"""What a store owes us: few verbs, each with its promise. One contract suite for all.

Names are relative, ``/``-separated, of ``[A-Za-z0-9._-]``. A successful put is durable:
no power cut can undo it. Reading after a successful put gives its bytes. Any verb may
raise StoreUnreachable (retryable), StoreDenied, StoreFull.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    name: str
    size_bytes: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class StoreTraits:
    """What a store promises beyond the contract, as probed or known."""

    has_create_only: bool
    """A second create of a name is refused, even in a race. False is the weaker mode: every
    create looks first, so only two creates within the same moment can both succeed."""
    list_lag_s: float
    """After this many seconds a listing shows every put."""
    description: str


class Store(Protocol):
    @property
    def traits(self) -> StoreTraits:
        """As known now; ``probe`` may sharpen it."""

    def learn(self, traits: StoreTraits) -> None:
        """Go by these from now on: what a probe found, or a repository remembers of one."""

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        """Put a new object, whole or not at all, durable on return.

        Raises ObjectExists if the name exists with other bytes. If it exists with the same
        bytes the put succeeded (a lost answer of our own). On a store without create-only
        an existing object is looked for first.
        """

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        """Put, overwriting: heartbeats only."""

    async def get(self, name: str) -> bytes:
        """The whole object. Raises ObjectMissing."""

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        """Exactly that range. Raises ObjectMissing; StorageError when the object is shorter."""

    async def info(self, name: str) -> ObjectInfo | None:
        """Size and time, None when it does not exist."""

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Every object whose name starts with ``prefix``, ordered by name, in pages."""

    async def delete(self, name: str) -> None:
        """Idempotent."""

    async def free_bytes(self) -> int | None:
        """Room left, None when the store cannot say."""

    async def close(self) -> None:
        """Let go of connections and threads."""
