"""What the last request told of the store, for the metrics. The store is never asked for their sake."""

from __future__ import annotations

from mover.errors import ObjectExists, ObjectMissing, StorageError, StoreDenied, StoreUnreachable
from mover.metrics import STORE_LAST_ERROR, STORE_REACHABLE


def note_answer() -> None:
    """It did what was asked, or said truly that an object is there or not."""
    STORE_REACHABLE.set(1)


def note_error(error: StorageError, now: float) -> None:
    """A try failed, at this Unix time."""
    if isinstance(error, (ObjectMissing, ObjectExists)):
        note_answer()
        return
    STORE_REACHABLE.set(not isinstance(error, (StoreUnreachable, StoreDenied)))
    STORE_LAST_ERROR.set(now)
