"""The only door to time, sleep, chance and new ids.

Everything that must be repeatable in a test goes through a ``Clock``. What must never
be repeatable (salts, keys, pack ids) comes from ``secret_bytes``, which no seed reaches.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Protocol

Dice = random.Random
"""What ``Clock.random`` gives: for signatures elsewhere, since nobody else imports random."""


class Clock(Protocol):
    """Time and chance as the product sees them; seconds throughout."""

    def now(self) -> float:
        """Unix time."""

    def monotonic(self) -> float:
        """Never goes back; for durations, deadlines and heartbeats."""

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking the event loop."""

    def random(self) -> random.Random:
        """The dice: seeded in tests, from the system otherwise."""

    def new_uuid(self) -> str:
        """A fresh id, lower case with dashes."""


class SystemClock:
    """The real one."""

    def __init__(self) -> None:
        self._dice = random.Random(secret_bytes(16))  # noqa: S311 - sampling, not secrecy

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def random(self) -> random.Random:
        return self._dice

    def new_uuid(self) -> str:
        return str(uuid.UUID(bytes=secret_bytes(16), version=4))


class FakeClock:
    """A clock for tests: sleeping jumps, the dice are seeded, ids repeat with the seed."""

    def __init__(self, seed: int = 0, start: float = 1_760_000_000.0) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - a test's dice
        self._ids = random.Random(seed + 1)  # noqa: S311
        self._start = start
        self.elapsed = 0.0

    def now(self) -> float:
        return self._start + self.elapsed

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.elapsed += max(0.0, seconds)
        await asyncio.sleep(0)

    def random(self) -> random.Random:
        return self._dice

    def new_uuid(self) -> str:
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))


def secret_bytes(count: int) -> bytes:
    """Random bytes from the operating system, for salts, keys and object ids."""
    return os.urandom(count)


def stopwatch() -> float:
    """Seconds of a high-resolution counter, for meters only; differences have meaning."""
    return time.perf_counter()


def pause(seconds: float) -> None:
    """Block the calling thread. Never call it on the event loop."""
    time.sleep(seconds)


def iso(timestamp: float) -> str:
    """Unix time → ``2026-01-02T03:04:05Z``."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def local(timestamp: float) -> str:
    """Unix time → ``2026-01-02 04:04:05``, at this machine's offset of now, which ``local_zone`` names."""
    return datetime.fromtimestamp(timestamp, _local_offset()).strftime("%Y-%m-%d %H:%M:%S")


def local_zone() -> str:
    """``CET``, ``UTC``, ``+03``: in which zone ``local`` tells the time, summer or winter as it is now."""
    return _local_offset().tzname(None)


def _local_offset() -> timezone:
    """One offset for all times that stand together, so that one name of a zone is true of all."""
    now = datetime.now().astimezone()
    return timezone(now.utcoffset() or timedelta(), now.tzname() or "")


def from_iso(text: str) -> float:
    """RFC 3339 → Unix time; a missing offset means UTC."""
    stamp = datetime.fromisoformat(text)
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
