"""From an address to a store ready for use: retry(limits(metrics(store))), put together here only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from obstore.store import S3Store

from mover.clock import Clock
from mover.storage.address import (
    BucketAddress,
    FolderAddress,
    S3Options,
    parse_address,
    parse_s3_options,
    refuse_unknown,
)
from mover.storage.durable import make_root
from mover.storage.limits import LimitedStore, Limits
from mover.storage.local import LocalStore
from mover.storage.metered import MeteredStore
from mover.storage.note import NOTE, recall
from mover.storage.objects import ObjectStore
from mover.storage.problems import store_error
from mover.storage.protocol import Store, StoreTraits
from mover.storage.retry import Patience, RetryingStore
from mover.storage.threads import StoreThreads

if TYPE_CHECKING:  # obstore has these for the type checker only
    from obstore.store import S3Config

_CONNECT_S = 10
_AT_ONCE = Patience(tries=3, budget_s=20.0)
"""Opening is watched by a person: a wrong endpoint is said within seconds."""


async def open_store(url: str, options: Mapping[str, str], *, clock: Clock, create: bool = False) -> Store:
    """The store at a folder path, ``file:///…`` or ``s3://bucket/prefix``, reached once.

    create: make the folder if it is missing; buckets are never made. Raises UsageError
    and ConfigError for what is written wrongly, StoreUnreachable and StoreDenied for what is there.
    """
    address = parse_address(url)
    if isinstance(address, FolderAddress):
        refuse_unknown(options, ())
        store: Store = await _open_folder(address.path, clock, create=create)
    else:
        store = _open_bucket(address, parse_s3_options(options), clock)
    try:
        await _reach(stacked(store, clock, patience=_AT_ONCE))
    except BaseException:
        await store.close()
        raise
    return stacked(store, clock)


async def _reach(store: Store) -> None:
    """Ask something, so that what is wrong is told now: whether a probe found the store weak."""
    async for _ in store.list(NOTE):
        await recall(store)


def stacked(
    store: Store, clock: Clock, *, limits: Limits | None = None, patience: Patience | None = None
) -> RetryingStore:
    """The store within its wrappers."""
    return RetryingStore(LimitedStore(MeteredStore(store), limits), clock, patience)


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


def _open_bucket(address: BucketAddress, options: S3Options, clock: Clock) -> ObjectStore:
    config: S3Config = {
        "region": options.region,
        "virtual_hosted_style_request": not options.path_style,
        "unsigned_payload": True,  # sha256 of every pack doubles the CPU; packs authenticate themselves
        "disable_bulk_delete": True,  # several servers do not know it, and we delete one by one
    }
    if options.endpoint:
        config["endpoint"] = _endpoint(address.bucket, options)
    if options.access_key_id:
        config["access_key_id"] = options.access_key_id
        config["secret_access_key"] = options.secret_access_key
    if options.session_token:
        config["session_token"] = options.session_token
    client = S3Store(
        address.bucket,
        config=config,
        client_options={
            "allow_http": options.allow_http,
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(hours=1),  # ``limits`` holds the time of each call
        },
        retry_config={"max_retries": 0},
    )
    host = urlsplit(options.endpoint).netloc
    place = f"s3://{address.bucket}/{address.prefix}".rstrip("/") + (f" at {host}" if host else "")
    traits = StoreTraits(options.create_only, options.list_lag_s, place)
    return ObjectStore(client, place=place, prefix=address.prefix, traits=traits, clock=clock)


def _endpoint(bucket: str, options: S3Options) -> str:
    """obstore wants the bucket in the host when it is not in the path."""
    if options.path_style:
        return options.endpoint
    parts = urlsplit(options.endpoint)
    return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}"))
