"""A pack's memory serves another pack only when nobody looks at it any more."""

from __future__ import annotations

from mover.repository.memory import PackMemory, private_memory

USUAL = 1 << 16


def memory_of(most: int = 2) -> PackMemory:
    return PackMemory(usual_bytes=USUAL, most=most)


def test_what_was_given_back_is_taken_again():
    memory = memory_of()
    first = memory.take(USUAL)
    assert memory.take(USUAL) is not first
    memory.give_back(first)
    assert memory.take(USUAL) is first
    assert memory.take(USUAL) is not first


def test_what_somebody_still_reads_is_not_used_until_they_are_done():
    memory = memory_of()
    first = memory.take(USUAL)
    first[:4] = b"late"
    late = memoryview(first)[:4].toreadonly()
    memory.give_back(first)
    second = memory.take(USUAL)
    second[:4] = b"next"
    assert bytes(late) == b"late"
    late.release()
    assert memory.take(USUAL) is first


def test_other_sizes_are_never_kept():
    memory = memory_of()
    large = private_memory(2 * USUAL)
    memory.give_back(large)
    assert memory.take(2 * USUAL) is not large
    assert len(memory.take(USUAL)) == USUAL


def test_no_more_is_kept_than_was_said():
    memory = memory_of(most=1)
    old, new = memory.take(USUAL), memory.take(USUAL)
    memory.give_back(old)
    memory.give_back(new)
    assert memory.take(USUAL) is new
    assert memory.take(USUAL) is not old
    memory.give_back(new)
    memory.clear()
    assert memory.take(USUAL) is not new
