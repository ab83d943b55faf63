"""5: the store, before anything of a repository is known."""

from __future__ import annotations

from mover.errors.base import MoverError


class StorageError(MoverError):
    """A store failed in a way that no subclass describes."""

    code = "storage"
    exit_code = 5


class StoreUnreachable(StorageError):
    """The store does not answer, or not in time."""

    code = "storage.unreachable"
    retryable = True


class StoreDenied(StorageError):
    """Credentials or rights are refused, or the store is read-only."""

    code = "storage.denied"


class StoreFull(StorageError):
    """No space or quota left."""

    code = "storage.full"


class ObjectMissing(StorageError):
    """An object that should exist does not."""

    code = "storage.missing"


class ObjectExists(StorageError):
    """Create-only put of a name that exists with other content."""

    code = "storage.exists"


class StoreUnfit(StorageError):
    """The store breaks a promise that the repository needs."""

    code = "storage.unfit"
