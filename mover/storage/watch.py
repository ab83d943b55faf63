"""Who is told what a store is asked and how it answers: the metrics of a node, or nobody.

A command that ends at once is never scraped, and starts without the library of metrics.
"""

from __future__ import annotations

from typing import Protocol

from mover.errors import StorageError
from mover.storage.protocol import Store


class StoreWatch(Protocol):
    """Told on the loop that asks."""

    def counted(self, store: Store) -> Store:
        """The store, with its requests counted."""

    def answered(self) -> None:
        """It did what was asked, or said truly that an object is there or not."""

    def failed(self, error: StorageError, now: float) -> None:
        """A try failed, at this Unix time."""


class Unwatched:
    """Nobody."""

    def counted(self, store: Store) -> Store:
        return store

    def answered(self) -> None:
        pass

    def failed(self, error: StorageError, now: float) -> None:
        pass
