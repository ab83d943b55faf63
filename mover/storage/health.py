"""What requests told of the store, for the metrics. The store is never asked for their sake."""

from __future__ import annotations

from mover.errors import ObjectExists, ObjectMissing, StorageError, StoreDenied, StoreUnreachable
from mover.metrics import STORE_LAST_ERROR, STORE_REACHABLE
from mover.storage.metered import MeteredStore
from mover.storage.protocol import Store


class StoreMetrics:
    """See ``watch.StoreWatch``."""

    def counted(self, store: Store) -> Store:
        return MeteredStore(store)

    def answered(self) -> None:
        STORE_REACHABLE.set(1)

    def failed(self, error: StorageError, now: float) -> None:
        if isinstance(error, (ObjectMissing, ObjectExists)):
            self.answered()
            return
        STORE_REACHABLE.set(not isinstance(error, (StoreUnreachable, StoreDenied)))
        STORE_LAST_ERROR.set(now)
