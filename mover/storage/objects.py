"""A store on an S3 bucket, over obstore. Single puts only, so that create-only is one header.

Packs are handed over part by part without joining. Nothing is retried here (``retry``
does), and every error of obstore leaves as one of ours (``refusals`` tells which).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from mover.clock import Clock
from mover.errors import StorageError, StoreUnreachable
from mover.storage.names import check_name, check_prefix, octets
from mover.storage.problems import object_exists, object_missing, object_short, out_of_order
from mover.storage.protocol import Bytes, ObjectInfo, StoreTraits
from mover.storage.refusals import bucket_missing, is_create_only_unknown, is_out_of_range, missing_bucket, refusal
from mover.units import MIB

T = TypeVar("T")

_COMPARE_BYTES = 4 * MIB
_PAGE = 1000
_RELEASE_TRIES = 500
_RELEASE_WAIT_S = 0.01
_LEAVE_S = 0.02


class ObjectStore:
    """See ``protocol.Store``. ``prefix``: where in the bucket, without slashes around; may be empty."""

    def __init__(self, client: S3Store, *, place: str, prefix: str, traits: StoreTraits, clock: Clock) -> None:
        self._client = client
        self._place = place
        self._prefix = f"{prefix}/" if prefix else ""
        self._traits = traits
        self._clock = clock

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    def learn(self, traits: StoreTraits) -> None:
        self._traits = traits

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        path = self._path(name)
        if self._traits.has_create_only:
            try:
                await self._put(path, parts, "create")
                return
            except AlreadyExistsError:
                await self._accept_same(name, parts)
                return
            except BaseError as error:
                if not is_create_only_unknown(error):
                    raise refusal(error, doing=f"Writing {name}", place=self._place) from error
            self._traits = replace(self._traits, has_create_only=False)
        if await self.info(name) is not None:
            await self._accept_same(name, parts)
        else:
            await self._answer(f"Writing {name}", self._put(path, parts, "overwrite"))

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        await self._answer(f"Writing {name}", self._put(self._path(name), parts, "overwrite"))

    async def get(self, name: str) -> bytes:
        return (await self._existing(name, self._get_whole(self._path(name)))).to_bytes()

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        wanted_end = offset_bytes + length_bytes
        try:
            data = await self._existing(name, self._get_part(name, offset_bytes, length_bytes))
        except StorageError as error:
            if not is_out_of_range(error):
                raise
            info = await self.info(name)
            raise object_short(name, wanted_end=wanted_end, found_end=info.size_bytes if info else 0) from error
        if data.nbytes != length_bytes:
            raise object_short(name, wanted_end=wanted_end, found_end=offset_bytes + data.nbytes)
        return data

    async def info(self, name: str) -> ObjectInfo | None:
        request = obstore.head_async(self._client, self._path(name))
        try:
            meta = await self._answer(f"Looking at {name}", request)
        except FileNotFoundError as error:
            self._check_bucket(error)
            return None
        return ObjectInfo(name, meta["size"], meta["last_modified"].timestamp())

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        # obstore lists whole folders only: the rest of the prefix is found by starting just before it.
        folder, slash, stem = (self._prefix + check_prefix(prefix)).rpartition("/")
        start = folder + slash + stem[:-1] if stem else None
        stream = obstore.list(self._client, folder + slash or None, offset=start, chunk_size=_PAGE)
        pages = aiter(stream)
        last = ""
        while True:
            try:
                page = await self._answer(f"Listing {prefix or 'the store'}", anext(pages))
            except StopAsyncIteration:
                return
            except FileNotFoundError as error:
                self._check_bucket(error)
                return
            for meta in page:
                name = meta["path"][len(self._prefix) :]
                if name < last:
                    raise out_of_order(name, last, self._place)
                last = name
                if name.startswith(prefix):
                    yield ObjectInfo(name, meta["size"], meta["last_modified"].timestamp())
                elif name > prefix:
                    return

    async def delete(self, name: str) -> None:
        try:
            await self._answer(f"Deleting {name}", obstore.delete_async(self._client, self._path(name)))
        except FileNotFoundError as error:
            self._check_bucket(error)

    async def free_bytes(self) -> int | None:
        return None

    async def close(self) -> None:
        """Connections are the client's and end with it; its threads are let out of Python.

        One that still waits to return from handing over its last answer would abort the
        process when the interpreter ends (pyo3-async-runtimes issue 40).
        """
        await self._clock.sleep(_LEAVE_S)

    def _path(self, name: str) -> str:
        return self._prefix + check_name(name)

    async def _put(self, path: str, parts: Sequence[Bytes], mode: Literal["create", "overwrite"]) -> None:
        views = [octets(part) for part in parts]
        try:
            await obstore.put_async(self._client, path, views, mode=mode, use_multipart=False)
        except FileNotFoundError as error:
            raise bucket_missing(self._place) from error
        except asyncio.CancelledError:
            await self._let_go(views)
            raise

    async def _let_go(self, views: Sequence[memoryview]) -> None:
        """Return once the dropped request reads the caller's buffers no more: he may reuse them now."""
        for _ in range(_RELEASE_TRIES):
            try:
                for view in views:
                    view.release()
                return
            except BufferError:
                await self._clock.sleep(_RELEASE_WAIT_S)

    async def _get_part(self, name: str, offset_bytes: int, length_bytes: int) -> memoryview:
        path = self._path(name)
        if length_bytes:
            found = await obstore.get_range_async(self._client, path, start=offset_bytes, length=length_bytes)
            return memoryview(found)
        meta = await obstore.head_async(self._client, path)  # there is no empty range in HTTP
        if meta["size"] < offset_bytes:
            raise object_short(name, wanted_end=offset_bytes, found_end=meta["size"])
        return memoryview(b"")

    async def _get_whole(self, path: str) -> obstore.Bytes:
        return await (await obstore.get_async(self._client, path)).bytes_async()

    async def _accept_same(self, name: str, parts: Sequence[Bytes]) -> None:
        """Our own lost answer counts as success; other bytes are a conflict."""
        info = await self.info(name)
        if info is None:
            raise StoreUnreachable(
                f"{name} was refused by {self._place} as existing, but it is not there",
                remedy="Another put of this name was under way or was undone; run again.",
            )
        if info.size_bytes != sum(octets(part).nbytes for part in parts):
            raise object_exists(name, self._place)
        wanted, found = hashlib.sha256(), hashlib.sha256()
        for part in parts:
            wanted.update(octets(part))
        for offset_bytes in range(0, info.size_bytes, _COMPARE_BYTES):
            length_bytes = min(_COMPARE_BYTES, info.size_bytes - offset_bytes)
            found.update(await self.get_range(name, offset_bytes, length_bytes))
        if wanted.digest() != found.digest():
            raise object_exists(name, self._place)

    async def _answer(self, doing: str, request: Awaitable[T]) -> T:
        """The request's result; FileNotFoundError for the callers that know what a 404 means."""
        try:
            return await request
        except BaseError as error:
            raise refusal(error, doing=doing, place=self._place) from error

    async def _existing(self, name: str, request: Awaitable[T]) -> T:
        try:
            return await self._answer(f"Reading {name}", request)
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise object_missing(name, self._place) from None

    def _check_bucket(self, error: FileNotFoundError) -> None:
        if missing_bucket(error):
            raise bucket_missing(self._place) from error
