"""A store in a folder: durable, create-only, without a server. Also for NFS mounts.

Each object is a file named as the object. Files being written are called ``.part-…`` and
never listed; ``.swept`` remembers when leftovers of dead writers were last removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mover.errors import StorageError
from mover.storage.durable import Publish
from mover.storage.folder import Folder
from mover.storage.mounts import list_lag_s, read_mount
from mover.storage.names import check_name, check_prefix, octets
from mover.storage.problems import folder_gone, store_error
from mover.storage.protocol import Bytes, ObjectInfo, StoreTraits
from mover.storage.threads import Abandon, StoreThreads

T = TypeVar("T")

_PAGE = 1000
"""Files looked at in one hop to a thread: some milliseconds."""


class LocalStore:
    """See ``protocol.Store``. The folder must exist: StoreUnreachable otherwise.

    threads: blocking calls in flight, made when needed; as many as ``limits`` lets through,
    so that a heartbeat never queues behind packs.
    """

    def __init__(self, folder: Path, *, threads: int = 32) -> None:
        self.path = folder.absolute()
        mount = read_mount(self.path)
        lag_s = list_lag_s(mount)
        lagging = f" on {mount.kind}, whose lists may lag by {lag_s:g} s" if mount and lag_s else ""
        self._traits = StoreTraits(has_create_only=True, list_lag_s=lag_s, description=f"folder {self.path}{lagging}")
        try:
            self._folder = Folder(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise folder_gone(self.path, retryable=False) from None
        except OSError as error:
            raise store_error(error, folder=self.path, doing="opening the store") from error
        self._threads = StoreThreads(threads, "store")

    @property
    def traits(self) -> StoreTraits:
        if self._folder.publish is Publish.LOOK_FIRST:
            return replace(self._traits, has_create_only=False)
        return self._traits

    def learn(self, traits: StoreTraits) -> None:
        self._traits = traits

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        views = [octets(part) for part in parts]
        await self._run(f"writing {check_name(name)}", lambda abandon: self._folder.create(name, views, abandon))

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        views = [octets(part) for part in parts]
        await self._run(f"writing {check_name(name)}", lambda abandon: self._folder.replace(name, views, abandon))

    async def get(self, name: str) -> bytes:
        return await self._run(f"reading {check_name(name)}", lambda _: self._folder.read(name))

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        return await self._run(
            f"reading {check_name(name)}", lambda _: self._folder.read(name, offset_bytes, length_bytes)
        )

    async def info(self, name: str) -> ObjectInfo | None:
        return await self._run(f"looking at {check_name(name)}", lambda _: self._folder.info(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        objects = self._folder.walk(check_prefix(prefix))
        is_more = True
        while is_more:
            page = await self._run(f"listing {prefix or 'everything'}", lambda _: list(islice(objects, _PAGE)))
            for info in page:
                yield info
            is_more = len(page) == _PAGE

    async def delete(self, name: str) -> None:
        await self._run(f"deleting {check_name(name)}", lambda _: self._folder.delete(name))

    async def free_bytes(self) -> int | None:
        return await self._run("asking for free space", lambda _: self._folder.free_bytes())

    async def sweep_stale(self, now: float) -> int:
        """Remove what dead writers left, at most once a day; files removed. now: Unix time.

        Housekeeping: a folder that cannot be written is left as it is.
        """
        try:
            return await self._run("sweeping", lambda _: self._folder.sweep(now))
        except StorageError:
            return 0

    async def close(self) -> None:
        if await self._threads.close():
            self._folder.close()

    async def _run(self, doing: str, call: Callable[[Abandon], T]) -> T:
        try:
            return await self._threads.run(call)
        except OSError as error:
            raise store_error(error, folder=self.path, doing=doing) from error
