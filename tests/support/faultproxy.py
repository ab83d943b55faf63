"""A TCP proxy on a free loopback port that delays, cuts and resets what passes through it.

    async with FaultProxy("127.0.0.1", 9440) as proxy:
        proxy.arm(Fault(cut_after_bytes=0, direction="down"))     # the next answer is lost
        ... talk to ("127.0.0.1", proxy.port) ...

A fault is used up by the first request that comes in after it was armed, on whatever
connection, also one that was kept open. ``used`` counts them, ``sent_up`` and
``sent_down`` the bytes that passed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Literal, Self

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """direction: ``up`` = what the client sends, ``down`` = what the server answers."""

    direction: Literal["up", "down"] = "down"
    delay_s: float = 0.0
    """Before the first chunk of that direction."""
    cut_after_bytes: int | None = None
    """So many bytes pass, then the connection ends."""
    reset: bool = False
    """It ends by RST instead of FIN."""
    hang: bool = False
    """After those bytes nothing passes, and the connection stays open."""


class FaultProxy:
    """See the module's words. ``port`` is known inside the ``async with``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._armed: deque[Fault] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.used = 0
        self.sent_up = 0
        self.sent_down = 0
        self._moved = asyncio.Condition()

    def arm(self, *faults: Fault) -> None:
        """One request each, in this order."""
        self._armed.extend(faults)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        link = _Link(self, (reader, writer), (up_reader, up_writer))
        try:
            await link.run()
        except asyncio.CancelledError:
            pass  # the proxy is being closed
        finally:
            writer.close()
            up_writer.close()
            self._tasks.discard(task)

    async def passed(self, count: int) -> None:
        """Wait until so many bytes went up in all."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.sent_up >= count)

    def next_fault(self) -> Fault | None:
        if not self._armed:
            return None
        self.used += 1
        return self._armed.popleft()

    async def count(self, direction: str, size_bytes: int) -> None:
        async with self._moved:
            if direction == "up":
                self.sent_up += size_bytes
            else:
                self.sent_down += size_bytes
            self._moved.notify_all()


class _Link:
    """One client's connection and ours to the server."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._fault: Fault | None = None
        self._passed = 0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until one side ends, or the fault ends it."""
        async with asyncio.TaskGroup() as group:
            pumps = [
                group.create_task(self._pump("up", self._client[0], self._server[1])),
                group.create_task(self._pump("down", self._server[0], self._client[1])),
            ]
            await self._over.wait()
            for pump in pumps:
                pump.cancel()

    async def _pump(
        self, direction: Literal["up", "down"], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                if direction == "up" and self._fault is None:
                    self._fault, self._passed = self._proxy.next_fault(), 0
                if not await self._pass(direction, chunk, writer):
                    return
        except ConnectionError:
            pass  # the other side went away: the same as its end
        self._over.set()

    async def _pass(self, direction: str, chunk: bytes, writer: asyncio.StreamWriter) -> bool:
        """False: nothing more goes this way."""
        fault = self._fault
        if fault is None or fault.direction != direction:
            await self._send(direction, chunk, writer)
            return True
        if self._passed == 0 and fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.cut_after_bytes is None or self._passed + len(chunk) <= fault.cut_after_bytes:
            self._passed += len(chunk)
            await self._send(direction, chunk, writer)
            return True
        await self._send(direction, chunk[: fault.cut_after_bytes - self._passed], writer)
        if not fault.hang:
            self._end(reset=fault.reset)
        return False

    async def _send(self, direction: str, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(chunk)
        await writer.drain()
        await self._proxy.count(direction, len(chunk))

    def _end(self, *, reset: bool) -> None:
        if reset:
            client = self._client[1].get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._over.set()
