"""A bounded queue between threads; it counts what passes and how long both ends wait."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from mover.pipeline.waiting import Waiting

T = TypeVar("T")


class Closed(Exception):
    """The channel takes no more, or has no more to give. Never leaves the pipeline."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    items: int
    waiting: int
    most_waiting: int
    put_wait_s: float
    get_wait_s: float


class Channel(Generic[T]):
    """A bounded queue between threads that can be closed from either end."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._is_closed = False
        self._lock = threading.Lock()
        self._has_item = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._count = self._most = 0
        self._puts, self._gets = Waiting(), Waiting()

    def put(self, item: T) -> None:
        """Append, waiting for room. Raises Closed."""
        with self._lock:
            if len(self._items) >= self._capacity and not self._is_closed:
                self._puts.enter()
                while len(self._items) >= self._capacity and not self._is_closed:
                    self._has_room.wait()
                self._puts.leave()
            if self._is_closed:
                raise Closed
            self._items.append(item)
            self._count += 1
            if len(self._items) > self._most:
                self._most = len(self._items)
            if self._gets.now:
                self._has_item.notify()

    def get(self) -> T:
        """The oldest item, waiting for one. Raises Closed when closed and empty."""
        with self._lock:
            if not self._items and not self._is_closed:
                self._gets.enter()
                while not self._items and not self._is_closed:
                    self._has_item.wait()
                self._gets.leave()
            if not self._items:
                raise Closed
            item = self._items.popleft()
            if self._puts.now:
                self._has_room.notify()
            return item

    def close(self, *, discard: bool = False) -> list[T]:
        """No more puts. What is inside can still be got, or is returned if discarded. Idempotent."""
        with self._lock:
            self._is_closed = True
            dropped = list(self._items) if discard else []
            if discard:
                self._items.clear()
            self._has_item.notify_all()
            self._has_room.notify_all()
            return dropped

    def statistics(self) -> ChannelStatistics:
        with self._lock:
            waited = self._puts.seconds(), self._gets.seconds()
            return ChannelStatistics(self._count, len(self._items), self._most, *waited)
