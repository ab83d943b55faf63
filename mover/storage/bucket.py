"""From an address and options to obstore's client of a bucket. Nothing but ``stack`` opens one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from obstore.store import S3Store

from mover.clock import Clock
from mover.storage.address import BucketAddress, S3Options
from mover.storage.objects import ObjectStore
from mover.storage.protocol import StoreTraits

if TYPE_CHECKING:  # obstore has these for the type checker only
    from obstore.store import S3Config

_CONNECT_S = 10


def open_bucket(address: BucketAddress, options: S3Options, clock: Clock) -> ObjectStore:
    """The bucket's store, not yet reached."""
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
