"""Blocking calls of a store in its own few threads, so that no default pool is shared.

A cancelled call is told through its ``Abandon`` and waited for a short while: its buffers
belong to the caller, who may reuse them as soon as the call has returned.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_GRACE_S = 5.0
"""A local disk answers within this; a dead file server would hold a cancelled job for ever."""


class Abandon:
    """One call's way out: once abandoned it changes nothing more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self._passed = False

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = not self._passed

    def pass_point_of_no_return(self) -> bool:
        """True if the call may take effect; from now on it cannot be abandoned."""
        with self._lock:
            self._passed = not self._abandoned
            return self._passed


class StoreThreads:
    """A named pool of threads for one store."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._running: set[asyncio.Future[Any]] = set()

    async def run(self, call: Callable[[Abandon], T]) -> T:
        """``call(abandon)`` in a thread; on cancellation it is abandoned, waited for briefly, left alone."""
        abandon = Abandon()
        started = self._pool.submit(call, abandon)
        work = asyncio.wrap_future(started)
        self._running.add(work)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            abandon.abandon()
            started.cancel()
            await asyncio.wait([work], timeout=_GRACE_S)
            raise

    async def close(self) -> bool:
        """No new calls. True once none runs any more; False if one does not end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._running:
            await asyncio.wait(self._running, timeout=_GRACE_S)
        return not self._running

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._running.discard(work)
        if not work.cancelled():
            work.exception()  # of an abandoned call nobody reads it, and asyncio would complain
