"""Buffers: aligned, bounded, counted, and a lease that can be cancelled."""

from __future__ import annotations

import ctypes
import mmap
import threading

import pytest

from mover.device.buffers import BufferPool


def test_buffers_are_page_aligned_and_recycled():
    with BufferPool(2 * mmap.PAGESIZE, 3) as pool:
        first = pool.lease()
        assert len(first.view) == 2 * mmap.PAGESIZE
        assert ctypes.addressof(ctypes.c_char.from_buffer(first.view)) % mmap.PAGESIZE == 0
        first.give_back()
        second = pool.lease()
        assert second is first, "the warm one first"
        assert (pool.leased, pool.made) == (1, 1)
        second.give_back()


def test_memory_is_shared_with_children():
    """A fork while the kernel writes must not leave the data in the other copy."""
    with BufferPool(mmap.PAGESIZE, 1) as pool:
        buffer = pool.lease()
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer.view))
        buffer.give_back()
        with open("/proc/self/maps") as maps:
            line = next(row for row in maps if _holds(row, address))
        assert line.split()[1] == "rw-s"


def _holds(row: str, address: int) -> bool:
    low, high = (int(edge, 16) for edge in row.split()[0].split("-"))
    return low <= address < high


def test_a_lease_waits_for_a_buffer():
    with BufferPool(mmap.PAGESIZE, 1) as pool:
        held = pool.lease()
        got = []
        waiter = threading.Thread(target=lambda: got.append(pool.lease()))
        waiter.start()
        held.give_back()
        waiter.join(10)
        assert got == [held]
        held.give_back()


def test_a_cancelled_lease_returns_nothing():
    with BufferPool(mmap.PAGESIZE, 1) as pool:
        held = pool.lease()
        is_cancelled, got, asked = [False], [], threading.Event()

        def cancelled() -> bool:
            asked.set()
            return is_cancelled[0]

        waiter = threading.Thread(target=lambda: got.append(pool.lease(cancelled)))
        waiter.start()
        assert asked.wait(10)
        is_cancelled[0] = True
        pool.wake()
        waiter.join(10)
        assert got == [None]
        assert pool.leased == 1
        held.give_back()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="whole pages"):
        BufferPool(mmap.PAGESIZE + 1, 1)
    with pytest.raises(ValueError, match="at least one"):
        BufferPool(mmap.PAGESIZE, 0)
    pool = BufferPool(mmap.PAGESIZE, 1)
    buffer = pool.lease()
    with pytest.raises(ValueError, match="still leased"):
        pool.close()
    buffer.give_back()
    with pytest.raises(ValueError, match="before"):
        buffer.give_back()
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.lease()


def test_a_slice_outlives_the_pool():
    """A traceback may hold a slice of a buffer: closing the pool must not fail for that."""
    pool = BufferPool(mmap.PAGESIZE, 1)
    buffer = pool.lease()
    part = buffer.view[:10]
    part[:] = b"0123456789"
    buffer.give_back()
    pool.close()
    assert bytes(part) == b"0123456789"


def test_many_threads_never_share_a_buffer():
    with BufferPool(mmap.PAGESIZE, 3) as pool:
        owners: dict[int, int] = {}
        clashes = []

        def work(number: int) -> None:
            for _ in range(200):
                buffer = pool.lease()
                if owners.setdefault(id(buffer), number) != number:
                    clashes.append(number)
                del owners[id(buffer)]
                buffer.give_back()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not clashes
        assert pool.leased == 0
        assert pool.made <= 3
