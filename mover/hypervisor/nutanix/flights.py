"""Locks between the processes of a state folder, and by them: which log-ins are under way.

Locks of the kernel: they end with the process that holds them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from mover.clock import Clock

_POLL_S = 0.05


@asynccontextmanager
async def locked(path: Path, kind: int, clock: Clock, *, within_s: float, is_made: bool = True) -> AsyncIterator[None]:
    """Hold the file's lock; kind: of ``fcntl.flock``. Raises OSError: TimeoutError where others hold it so long."""
    if is_made:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_made else 0), 0o600)
    try:
        deadline = clock.monotonic() + within_s
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            if clock.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(path))
            await clock.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


class Flights:
    """Log-ins under way to all Prisms of a state folder: many side by side, or one that asks alone."""

    def __init__(self, folder: Path, clock: Clock, *, within_s: float) -> None:
        """within_s: how long one answer may take."""
        self._turn, self._flying = folder / "turn", folder / "flying"
        self._clock, self._within_s = clock, within_s

    @asynccontextmanager
    async def one(self, *, is_made: bool) -> AsyncIterator[None]:
        """While a log-in is under way. Where the files cannot be used it goes on: they must stop no good password.

        is_made: make them; otherwise they count only where somebody who makes them was here.
        """
        async with AsyncExitStack() as stack:
            with suppress(OSError):
                # Whoever waits to ask alone is not overtaken for ever. He waits for one answer, and then has his own.
                within_s = 2 * self._within_s
                async with locked(self._turn, fcntl.LOCK_SH, self._clock, within_s=within_s, is_made=is_made):
                    flying = locked(self._flying, fcntl.LOCK_SH, self._clock, within_s=within_s, is_made=is_made)
                    await stack.enter_async_context(flying)
            yield

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """When those under way have been answered, and no other begins. Raises OSError where that cannot be had."""
        async with (
            locked(self._turn, fcntl.LOCK_EX, self._clock, within_s=2 * self._within_s),
            locked(self._flying, fcntl.LOCK_EX, self._clock, within_s=self._within_s),
        ):
            yield
