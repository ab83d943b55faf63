"""Buffers: aligned, bounded, counted, and a lease that can be cancelled."""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path

import pytest

from mover.device.buffers import BufferPool
from mover.device.memory import HUGE_BYTES, direct_memory


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


def test_a_fork_gets_no_copy():
    """A fork while the kernel writes must not leave the data in the other copy."""
    for size in (mmap.PAGESIZE, HUGE_BYTES):
        view = direct_memory(size)
        assert len(view) == size
        assert "dc" in _flags(view), "not copied on fork"


def test_large_memory_lies_on_huge_pages():
    view = direct_memory(2 * HUGE_BYTES)
    assert _address(view) % HUGE_BYTES == 0
    if Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        assert "hg" in _flags(view)


def test_buffers_share_a_huge_page_and_nothing_else():
    with BufferPool(HUGE_BYTES // 4, 6) as pool:
        buffers = [pool.lease() for _ in range(6)]
        for number, buffer in enumerate(buffers):
            buffer.view[:] = bytes([number]) * len(buffer.view)
        assert [set(buffer.view.tobytes()) for buffer in buffers] == [{number} for number in range(6)]
        assert len({_address(buffer.view) // HUGE_BYTES for buffer in buffers[:4]}) == 1
        for buffer in buffers:
            buffer.give_back()


def test_a_run_is_one_piece_of_memory():
    with BufferPool(mmap.PAGESIZE, 6, together=4) as pool:
        whole, rest = pool.lease_run(4), pool.lease_run(4)
        assert (len(whole), len(whole.view), len(rest)) == (4, 4 * mmap.PAGESIZE, 2)
        assert pool.leased == 6
        whole.view[:] = bytes([7]) * len(whole.view)
        whole.give_back()
        single = pool.lease()
        assert _address(single.view) == _address(whole.view), "a single one comes from the front"
        following = pool.lease_run(4)
        assert len(following) == 3, "the followers are still together"
        assert set(following.view.tobytes()) == {7}
        with pytest.raises(ValueError, match="before"):
            whole.give_back()
        for leased in (single, following, rest):
            leased.give_back()


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _flags(view: memoryview) -> list[str]:
    """The kernel's flags of the mapping that holds the view."""
    is_inside = False
    for row in Path("/proc/self/smaps").read_text().splitlines():
        word = row.split()[0]
        if "-" in word:
            low, high = (int(edge, 16) for edge in word.split("-"))
            is_inside = low <= _address(view) < high
        elif is_inside and word == "VmFlags:":
            return row.split()[1:]
    raise AssertionError("the view is not mapped")


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
