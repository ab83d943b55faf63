"""The work of one disk, done by many threads and awaited by the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Lane:
    """The work of one disk on many threads: the first error wins, and its end can be awaited.

    Whoever works for it enters before and leaves after. When all have left it is drained:
    no thread touches its device or buffers any more. Made and awaited on the event loop.
    """

    def __init__(self) -> None:
        self.is_stopped = False
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._inside = 1
        self._on_stop: list[Callable[[], object]] = []
        self._on_cancel: list[Callable[[], object]] = []

    def when_stopped(self, action: Callable[[], object]) -> None:
        """Call ``action`` once, on any thread, when the lane fails: it wakes who waits."""
        self._on_stop.append(action)

    def when_cancelled(self, action: Callable[[], object]) -> None:
        """Call ``action`` on the loop when ``drain`` is cancelled: it frees threads that wait for others."""
        self._on_cancel.append(action)

    def enter(self) -> None:
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            is_last = self._inside == 0
        if is_last:
            self._loop.call_soon_threadsafe(self._drained.set_result, None)

    def fail(self, error: BaseException) -> None:
        """Stop the lane. Only the first error is kept."""
        with self._lock:
            if self.is_stopped:
                return
            self.error = error
            self.is_stopped = True
        for action in self._on_stop:
            action()

    def run(self, work: Callable[..., None], *arguments: object) -> None:
        """Do ``work`` for one who entered, turn its exception into the lane's, and leave."""
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001, RUF100 - a thread's last frame: the lane carries it to the loop
            self.fail(error)
        finally:
            self.leave()

    def spawn(self, count: int, work: Callable[[], None], name: str) -> None:
        """Run ``work`` on ``count`` threads of its own."""
        for number in range(count):
            self.enter()
            thread = threading.Thread(target=self.run, args=(work,), name=f"{name}-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.fail(error)
                self.leave()

    async def drain(self) -> None:
        """Wait until all have left. ``error`` then tells how it went.

        Cancelled, it stops the lane, keeps the cancellation as its error, and still waits:
        the caller closes the device next.
        """
        self.leave()
        while not self._drained.done():
            try:
                await asyncio.wait([self._drained])
            except asyncio.CancelledError as error:
                self.fail(error)
                for action in self._on_cancel:
                    action()
