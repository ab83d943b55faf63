"""The breaker: a refused password is sent again seldom enough that no account locks, and often enough to recover."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os

import pytest
from pydantic import SecretStr

from mover.clock import FakeClock
from mover.errors import CertificateRejected, HypervisorUnreachable, LoginRefused, StateDamaged
from mover.hypervisor.nutanix import breaker as breaking
from mover.hypervisor.nutanix.address import PrismAddress, parse_address
from mover.hypervisor.nutanix.breaker import Breaker
from mover.hypervisor.nutanix.session import Session
from tests.support.prismworld import prism_world
from tests.support.tinyprism import TinyPrism, answers, cut, fingerprint, serving, settings_for

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
    """And cheap hashes."""
    monkeypatch.setattr(breaking, "_COST", {"n": 2, "r": 1, "p": 1})
    return FakeClock()


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
    with pytest.raises(StateDamaged, match="No space left on device") as caught:
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


# --- in a session -----------------------------------------------------------------------


async def test_a_directory_that_was_away_for_a_minute_costs_a_quarter_of_an_hour(tmp_path, clock):
    tiny = TinyPrism()
    tiny.routes["GET v3/things/1"] = lambda _m, _c: (200, {"thing": "1"})
    tiny.script("users/me", answers(401))

    def session():
        return Session(PrismAddress("127.0.0.1", tiny.port), settings_for(tiny), clock=clock, state_dir=tmp_path)

    async with serving(tiny, tmp_path):
        for pause in (0.0, 5 * MINUTE, 9 * MINUTE):
            clock.elapsed += pause
            one = session()
            with pytest.raises(LoginRefused, match="tried once more"):
                await one.get("v3", "things/1")
            await one.close()
        assert len(tiny.calls) == 1
        clock.elapsed += 1 * MINUTE
        one = session()
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()
    assert list((tmp_path / "breakers").glob("*.json")) == []


async def test_a_prism_without_cookies_gets_one_wrong_log_in_however_many_calls_fly(tmp_path, clock):
    tiny = TinyPrism(cookies=False)
    tiny.routes["GET v3/things/(.*)"] = lambda match, _c: (200, {"thing": match[1]})
    async with serving(tiny, tmp_path):
        one = Session(PrismAddress("127.0.0.1", tiny.port), settings_for(tiny), clock=clock, state_dir=tmp_path)
        await one.get("v3", "things/0")
        tiny.password = "changed"
        results = await asyncio.gather(*(one.get("v3", f"things/{n}") for n in range(8)), return_exceptions=True)
        await one.close()
    assert all(isinstance(result, LoginRefused) for result in results)
    assert len(tiny.calls) == 3


async def test_a_session_that_is_in_comes_back_after_what_another_one_met(tmp_path, clock):
    """Without cookies each call is a log-in: the first that is due again proves the password for all."""
    tiny = TinyPrism(cookies=False)
    tiny.routes["GET v3/things/1"] = lambda _m, _c: (200, {"thing": "1"})

    def session():
        return Session(PrismAddress("127.0.0.1", tiny.port), settings_for(tiny), clock=clock, state_dir=tmp_path)

    async with serving(tiny, tmp_path):
        daemon, command = session(), session()
        await daemon.get("v3", "things/1")
        tiny.script("users/me", answers(401))
        for one in (command, daemon):
            with pytest.raises(LoginRefused):
                await one.get("v3", "things/1")
        clock.elapsed += 15 * MINUTE
        for one in (daemon, daemon, command):
            assert await one.get("v3", "things/1") == {"thing": "1"}
        await daemon.close()
        await command.close()
    assert list((tmp_path / "breakers").glob("*.json")) == []


async def test_an_outage_is_told_as_such_and_costs_no_probe(tmp_path, clock):
    nobody = TinyPrism(port=1)
    known = breaker(tmp_path, clock, "secret", PrismAddress("127.0.0.1", 1))
    await known.open()
    clock.elapsed += 15 * MINUTE
    one = Session(PrismAddress("127.0.0.1", 1), settings_for(nobody), clock=clock, state_dir=tmp_path)
    with pytest.raises(HypervisorUnreachable, match="no connection"):
        await one.get("v3", "things/1")
    await one.close()
    [refused] = json.loads(known.path.read_text())["refused"].values()
    assert refused["tries"] == 1
    assert await is_let_through(known)


async def test_a_probe_counts_once_it_left_and_not_where_the_certificate_was_distrusted(tmp_path, clock):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        address = PrismAddress("127.0.0.1", tiny.port)
        known = breaker(tmp_path, clock, "secret", address)
        await known.open()
        clock.elapsed += 15 * MINUTE
        tiny.script("users/me", cut())
        for pin, error, tries in (("00" * 32, CertificateRejected, 1), (fingerprint(), LoginRefused, 2)):
            one = Session(address, settings_for(tiny, fingerprint=pin), clock=clock, state_dir=tmp_path)
            with pytest.raises(error):
                await one.log_in()
            await one.close()
            [refused] = json.loads(known.path.read_text())["refused"].values()
            assert refused["tries"] == tries
    assert len(tiny.calls) == 1


async def test_where_cookies_do_not_count_a_directory_that_goes_away_gets_two_wrong_log_ins_of_many_calls(
    tmp_path, clock
):
    """The second asks whether it is the password, or the right to that call; both are counted."""
    tiny = TinyPrism()
    tiny.routes["GET v3/things/1"] = lambda _m, _c: (200, {"thing": "1"})

    async def goes_away(request):
        if "Authorization" in request.headers:
            tiny.password = "not known while the directory is away"
        return await answers(401)(request)

    async with serving(tiny, tmp_path):
        one = Session(PrismAddress("127.0.0.1", tiny.port), settings_for(tiny), clock=clock, state_dir=tmp_path)
        await one.get("v3", "things/1")
        tiny.script("v2/odd", *[goes_away] * 40)
        results = await asyncio.gather(*(one.get("v2", f"odd/{n}") for n in range(8)), return_exceptions=True)
        await one.close()
    assert all(isinstance(result, LoginRefused) for result in results)
    assert len([call for call in tiny.sent("v2/odd") if call.basic]) == 1
    assert len(tiny.sent("users/me")) == 3
    [file] = (tmp_path / "breakers").glob("*.json")
    [refused] = json.loads(file.read_text())["refused"].values()
    assert refused["tries"] == 2


async def test_ten_hours_of_two_processes_with_a_wrong_password_lock_no_account(tmp_path, clock):
    """The lab locks at the fifth wrong log-in, however long ago the others were."""
    async with prism_world(tmp_path, "element", vms=()) as world:
        address = parse_address(world.lab.element_url)

        async def log_in(password):
            settings = world.settings(password=SecretStr(password))
            session = Session(address, settings, clock=clock, state_dir=tmp_path)
            try:
                await session.log_in()
            finally:
                await session.close()

        for _ in range(20):
            clock.elapsed += HOUR / 2
            for _ in range(2):
                with pytest.raises(LoginRefused):
                    await log_in("wrong")
        assert len([call for call in world.lab.calls if call.status == 401]) == 4
        await log_in(world.lab.password)
