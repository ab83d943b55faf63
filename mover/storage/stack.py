"""From an address to a store ready for use: retry(limits(watch(store))), put together here only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mover.clock import Clock
from mover.storage.address import FolderAddress, parse_address, parse_s3_options, refuse_unknown
from mover.storage.durable import make_root
from mover.storage.limits import LimitedStore, Limits
from mover.storage.local import LocalStore
from mover.storage.note import NOTE, recall
from mover.storage.problems import store_error
from mover.storage.protocol import Store
from mover.storage.retry import Patience, RetryingStore
from mover.storage.threads import StoreThreads
from mover.storage.watch import StoreWatch, Unwatched

_AT_ONCE = Patience(tries=3, budget_s=20.0)
"""Opening is watched by a person: a wrong endpoint is said within seconds."""


async def open_store(
    url: str,
    options: Mapping[str, str],
    *,
    clock: Clock,
    create: bool = False,
    watch: StoreWatch | None = None,
) -> Store:
    """The store at a folder path, ``file:///…`` or ``s3://bucket/prefix``, reached once.

    create: make the folder if it is missing; buckets are never made. watch: who is told of requests.
    Raises UsageError and ConfigError for what is written wrongly, StoreUnreachable and StoreDenied
    for what is there.
    """
    address = parse_address(url)
    if isinstance(address, FolderAddress):
        refuse_unknown(options, ())
        store: Store = await _open_folder(address.path, clock, create=create)
    else:
        # Here, since a folder has no use for obstore, and its import takes a good part of a short command.
        from mover.storage.bucket import open_bucket

        store = open_bucket(address, parse_s3_options(options), clock)
    try:
        await _reach(stacked(store, clock, patience=_AT_ONCE, watch=watch))
    except BaseException:
        await store.close()
        raise
    return stacked(store, clock, watch=watch)


async def _reach(store: Store) -> None:
    """Ask something, so that what is wrong is told now: whether a probe found the store weak."""
    async for _ in store.list(NOTE):
        await recall(store)


def stacked(
    store: Store,
    clock: Clock,
    *,
    limits: Limits | None = None,
    patience: Patience | None = None,
    watch: StoreWatch | None = None,
) -> RetryingStore:
    """The store within its wrappers. watch: who is told of requests; None: nobody."""
    watch = watch or Unwatched()
    return RetryingStore(LimitedStore(watch.counted(store), limits), clock, patience, watch)


async def _open_folder(path: Path, clock: Clock, *, create: bool) -> LocalStore:
    threads = StoreThreads(1, "open")
    try:
        if create:
            await threads.run(lambda _: make_root(path))
        store = await threads.run(lambda _: LocalStore(path))
    except OSError as error:
        raise store_error(error, folder=path, doing="making the folder") from error
    finally:
        await threads.close()
    await store.sweep_stale(clock.now())
    return store
