"""The breaker: a refused password is sent again seldom enough that no account locks, and often enough to recover."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os

import pytest

from mover.clock import FakeClock
from mover.errors import LoginRefused, StateDamaged, StateFull
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.breaker import Breaker
from tests.support.logins import cheap_clock

MINUTE, HOUR = 60.0, 3600.0
ADDRESS = PrismAddress("pe")


def breaker(folder, clock, secret="hunter2", address=ADDRESS):
    """As a fresh process makes it."""
    return Breaker(folder, address, "admin", secret, clock)


async def is_let_through(one):
    try:
        await one.check()
    except LoginRefused:
        return False
    return True


@pytest.fixture
def clock(monkeypatch):
    return cheap_clock(monkeypatch)


async def test_it_keeps_no_password(tmp_path, clock):
    one = breaker(tmp_path, clock)
    await one.open()
    written = one.path.read_text()
    assert "hunter2" not in written
    assert one.path.stat().st_mode & 0o077 == 0
    assert not await is_let_through(one)
    assert await is_let_through(breaker(tmp_path, clock, "other"))
    assert await is_let_through(breaker(tmp_path, clock, address=PrismAddress("pe2")))


async def test_probes_are_single_and_ever_rarer_over_restarts(tmp_path, clock):
    await breaker(tmp_path, clock).open()
    sent = []
    for at in (0.2, 0.25, 0.5, 1.2, 1.25, 4, 7.2, 7.25, 20, 31.2, 31.25, 55.2, 55.25):
        clock.elapsed = at * HOUR
        for one in (breaker(tmp_path, clock), breaker(tmp_path, clock)):
            if await is_let_through(one):
                sent.append(at)
                await one.open()
    assert sent == [0.25, 1.25, 7.25, 31.25, 55.25]
    wrong = [0.0, *sent]
    assert max(sum(at <= other < at + 24 for other in wrong) for at in wrong) == 4


async def test_a_probe_that_dies_on_its_way_is_not_sent_anew(tmp_path, clock):
    await breaker(tmp_path, clock).open()
    clock.elapsed += 15 * MINUTE
    assert await is_let_through(breaker(tmp_path, clock))
    clock.elapsed += 59 * MINUTE
    assert not await is_let_through(breaker(tmp_path, clock))
    clock.elapsed += 1 * MINUTE
    assert await is_let_through(breaker(tmp_path, clock))


async def test_refusals_of_several_processes_at_once_are_all_counted(tmp_path, clock):
    for one in [breaker(tmp_path, clock) for _ in range(4)]:
        await one.open()
    clock.elapsed += 23 * HOUR
    assert not await is_let_through(breaker(tmp_path, clock))


async def test_a_central_and_its_element_count_together(tmp_path, clock):
    """They ask the same directory, which counts all wrong log-ins."""

    def pair():
        return breaker(tmp_path, clock), breaker(tmp_path, clock, address=PrismAddress("pc"))

    for one in pair():
        await one.open()
    sent = [0.0, 0.0]
    for at in range(1, 32):
        clock.elapsed = at * HOUR
        for one in pair():
            if await is_let_through(one):
                sent.append(clock.elapsed / HOUR)
                await one.open()
    assert sent == [0.0, 0.0, 1.0, 7.0, 24.0]
    clock.elapsed = 55 * HOUR
    element, central = pair()
    assert await is_let_through(element)
    await element.close()
    assert await is_let_through(central)


async def test_success_forgets_its_own_password_alone(tmp_path, clock):
    mine, theirs = breaker(tmp_path, clock), breaker(tmp_path, clock, "other")
    await mine.open()
    await theirs.open()
    assert not await is_let_through(mine)
    assert not await is_let_through(theirs)
    await mine.close()
    assert await is_let_through(breaker(tmp_path, clock))
    assert not await is_let_through(breaker(tmp_path, clock, "other"))
    await theirs.close()
    assert not theirs.path.exists()


async def test_two_wrong_passwords_do_not_make_each_other_new(tmp_path, clock):
    for _ in range(3):
        for secret in ("old", "typo"):
            one = breaker(tmp_path, clock, secret)
            if await is_let_through(one):
                await one.open()
    [first, second] = json.loads(breaker(tmp_path, clock).path.read_text())["refused"].values()
    assert (first["tries"], second["tries"]) == (1, 1)


async def test_a_torn_file_does_not_stop_anybody(tmp_path, clock):
    one = breaker(tmp_path, clock)
    await one.open()
    one.path.write_text('{"salt": "zz"')
    assert await is_let_through(one)
    assert one.path.exists()


async def test_a_clock_that_was_set_back_does_not_stop_it_for_years(tmp_path, clock):
    clock.elapsed = 400 * 24 * HOUR
    await breaker(tmp_path, clock).open()
    clock.elapsed = 0.0
    assert await is_let_through(breaker(tmp_path, clock))
    assert not await is_let_through(breaker(tmp_path, clock))


async def test_a_clock_that_steps_back_lets_one_log_in_through_at_most(tmp_path, clock):
    """Central and Element were both refused often: what the other one's file says is renewed by nobody."""
    places = [breaker(tmp_path, clock, address=PrismAddress(name)) for name in ("pe", "pc")]
    for _ in range(3):
        for one in places:
            await one.open()
    clock.elapsed -= 30.0
    through = [await is_let_through(breaker(tmp_path, clock, address=PrismAddress("pe"))) for _ in range(20)]
    assert sum(through) <= 1


@pytest.fixture
def full_disk(monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        yield patched


async def test_what_cannot_be_written_is_remembered_and_what_cannot_be_claimed_is_not_tried(tmp_path, clock, full_disk):
    one = breaker(tmp_path, clock)
    assert "tried once more at 2025-10-09T09:08:20Z" in (await one.open()).message
    assert not await is_let_through(one)
    clock.elapsed += 15 * MINUTE
    with pytest.raises(StateFull, match="No space left on device") as caught:
        await one.check()
    assert "refused" not in caught.value.message
    assert caught.value.retryable
    full_disk.undo()
    assert await is_let_through(one)
    assert "2 sent); it is tried once more at 2025-10-09T10:08:20Z" in (await one.open()).message
    assert not await is_let_through(one)
    assert not await is_let_through(breaker(tmp_path, clock))


async def test_what_was_sent_elsewhere_counts_for_a_day(tmp_path, clock):
    """The file of a Prism that prism.url named formerly stays."""
    for _ in range(4):
        await breaker(tmp_path, clock, address=PrismAddress("former")).open()
    one = breaker(tmp_path, clock)
    await one.open()
    clock.elapsed += 23 * HOUR
    assert not await is_let_through(one)
    clock.elapsed += 1 * HOUR
    await one.close()
    await one.open()
    clock.elapsed += 15 * MINUTE
    assert await is_let_through(one)


async def test_a_probe_that_never_left_is_due_as_before(tmp_path, clock):
    one = breaker(tmp_path, clock)
    await one.open()
    before = one.path.read_text()
    clock.elapsed += 15 * MINUTE
    for _ in range(5):
        assert await is_let_through(one)
        assert not await is_let_through(breaker(tmp_path, clock))
        await one.give_back()
    assert one.path.read_text() == before
    assert await is_let_through(one)
    await breaker(tmp_path, clock).open()
    await one.give_back()
    clock.elapsed += 6 * HOUR - 1
    assert not await is_let_through(one)


async def test_a_lock_that_cannot_be_used_is_said_and_stops_no_changed_password(tmp_path, clock):
    one = breaker(tmp_path, clock)
    await one.open()
    lock = one.path.with_name("lock")
    lock.unlink()
    lock.mkdir()
    assert not await is_let_through(one)
    clock.elapsed += 15 * MINUTE
    with pytest.raises(StateDamaged, match="Is a directory") as caught:
        await one.check()
    assert str(lock) in caught.value.message
    assert "none was sent" in caught.value.message
    assert "refused" not in caught.value.message
    assert await is_let_through(breaker(tmp_path, clock, "changed"))


async def test_a_process_that_was_stopped_with_the_lock_stops_nobody_else(tmp_path, clock):
    one = breaker(tmp_path, clock)
    await one.open()
    clock.elapsed += 15 * MINUTE
    async with asyncio.TaskGroup() as group:
        with one.path.with_name("lock").open() as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            with pytest.raises(StateDamaged, match="another process holds it") as caught:
                await one.check()
            assert caught.value.retryable
            other = breaker(tmp_path, clock, "other")
            await other.open()
            assert not await is_let_through(other)
            waiting = [group.create_task(is_let_through(breaker(tmp_path, clock))) for _ in range(3)]
            for _ in range(5):
                await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
    assert sorted(task.result() for task in waiting) == [False, False, True]


class StandingClock(FakeClock):
    """Sleeping lets others run; no time passes."""

    async def sleep(self, seconds):
        await asyncio.sleep(0)


@pytest.mark.parametrize("outcome", ["close", "open", "give_back"])
async def test_what_became_of_a_log_in_is_written_even_by_who_is_cancelled(tmp_path, clock, outcome):
    """Else a good password would be held back by its own probe, or a wrong one be sent again."""
    one = breaker(tmp_path, StandingClock())
    if outcome != "open":
        await one.open()
        one = breaker(tmp_path, at_due := StandingClock())
        at_due.elapsed = 15 * MINUTE
        await one.check()
    one.path.parent.mkdir(exist_ok=True)
    async with asyncio.TaskGroup() as group:
        with one.path.with_name("lock").open("a") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            writing = group.create_task(getattr(one, outcome)())
            for _ in range(5):
                await asyncio.sleep(0)
            writing.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
    assert writing.cancelled()
    found = json.loads(one.path.read_text())["refused"] if one.path.exists() else {}
    assert [refused["tries"] for refused in found.values()] == ([] if outcome == "close" else [1])
