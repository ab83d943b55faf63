"""The breaker: a refused password is sent again seldom enough that no account locks, and often enough to recover."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from pydantic import SecretStr

from mover.clock import FakeClock
from mover.errors import LoginRefused
from mover.hypervisor.nutanix import breaker as breaking
from mover.hypervisor.nutanix.address import PrismAddress, parse_address
from mover.hypervisor.nutanix.breaker import Breaker
from mover.hypervisor.nutanix.session import Session
from tests.support.prismworld import prism_world
from tests.support.tinyprism import TinyPrism, answers, serving, settings_for

MINUTE, HOUR = 60.0, 3600.0
ADDRESS = PrismAddress("pe")


def breaker(folder, clock, secret="hunter2", address=ADDRESS):
    """As a fresh process makes it."""
    return Breaker(folder, address, "admin", secret, clock)


def is_let_through(one):
    try:
        one.check()
    except LoginRefused:
        return False
    return True


@pytest.fixture
def clock(monkeypatch):
    """And cheap hashes."""
    monkeypatch.setattr(breaking, "_COST", {"n": 2, "r": 1, "p": 1})
    return FakeClock()


def test_it_keeps_no_password(tmp_path, clock):
    one = breaker(tmp_path, clock)
    one.open()
    written = one.path.read_text()
    assert "hunter2" not in written
    assert one.path.stat().st_mode & 0o077 == 0
    assert not is_let_through(one)
    assert is_let_through(breaker(tmp_path, clock, "other"))
    assert is_let_through(breaker(tmp_path, clock, address=PrismAddress("pe2")))


def test_probes_are_single_and_ever_rarer_over_restarts(tmp_path, clock):
    breaker(tmp_path, clock).open()
    sent = []
    for at in (0.2, 0.25, 0.5, 1.2, 1.25, 4, 7.2, 7.25, 20, 31.2, 31.25, 55.2, 55.25):
        clock.elapsed = at * HOUR
        for one in (breaker(tmp_path, clock), breaker(tmp_path, clock)):
            if is_let_through(one):
                sent.append(at)
                one.open()
    assert sent == [0.25, 1.25, 7.25, 31.25, 55.25]
    wrong = [0.0, *sent]
    assert max(sum(at <= other < at + 24 for other in wrong) for at in wrong) == 4


def test_a_probe_that_dies_on_its_way_is_not_sent_anew(tmp_path, clock):
    breaker(tmp_path, clock).open()
    clock.elapsed += 15 * MINUTE
    assert is_let_through(breaker(tmp_path, clock))
    clock.elapsed += 59 * MINUTE
    assert not is_let_through(breaker(tmp_path, clock))
    clock.elapsed += 1 * MINUTE
    assert is_let_through(breaker(tmp_path, clock))


def test_refusals_of_several_processes_at_once_are_all_counted(tmp_path, clock):
    for one in [breaker(tmp_path, clock) for _ in range(4)]:
        one.open()
    clock.elapsed += 23 * HOUR
    assert not is_let_through(breaker(tmp_path, clock))


def test_a_central_and_its_element_count_together(tmp_path, clock):
    """They ask the same directory, which counts all wrong log-ins."""

    def pair():
        return breaker(tmp_path, clock), breaker(tmp_path, clock, address=PrismAddress("pc"))

    for one in pair():
        one.open()
    sent = [0.0, 0.0]
    for at in range(1, 32):
        clock.elapsed = at * HOUR
        for one in pair():
            if is_let_through(one):
                sent.append(clock.elapsed / HOUR)
                one.open()
    assert sent == [0.0, 0.0, 1.0, 7.0, 31.0]
    clock.elapsed = 55 * HOUR
    element, central = pair()
    assert is_let_through(element)
    element.close()
    assert is_let_through(central)


def test_success_forgets_its_own_password_alone(tmp_path, clock):
    mine, theirs = breaker(tmp_path, clock), breaker(tmp_path, clock, "other")
    mine.open()
    theirs.open()
    assert not is_let_through(mine)
    assert not is_let_through(theirs)
    mine.close()
    assert is_let_through(breaker(tmp_path, clock))
    assert not is_let_through(breaker(tmp_path, clock, "other"))
    theirs.close()
    assert not theirs.path.exists()


def test_two_wrong_passwords_do_not_make_each_other_new(tmp_path, clock):
    for _ in range(3):
        for secret in ("old", "typo"):
            one = breaker(tmp_path, clock, secret)
            if is_let_through(one):
                one.open()
    [first, second] = json.loads(breaker(tmp_path, clock).path.read_text())["refused"]
    assert (first["tries"], second["tries"]) == (1, 1)


def test_a_torn_file_does_not_stop_anybody(tmp_path, clock):
    one = breaker(tmp_path, clock)
    one.open()
    one.path.write_text('{"salt": "zz"')
    assert is_let_through(one)
    assert one.path.exists()


def test_a_clock_that_was_set_back_does_not_stop_it_for_years(tmp_path, clock):
    clock.elapsed = 400 * 24 * HOUR
    breaker(tmp_path, clock).open()
    clock.elapsed = 0.0
    assert is_let_through(breaker(tmp_path, clock))
    assert not is_let_through(breaker(tmp_path, clock))


def test_what_cannot_be_written_is_remembered_and_what_cannot_be_claimed_is_not_tried(tmp_path, clock, monkeypatch):
    known = breaker(tmp_path, clock)
    known.open()
    clock.elapsed += HOUR

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LoginRefused, match="cannot be noted"):
        breaker(tmp_path, clock).check()
    other = breaker(tmp_path, clock, "other")
    other.open()
    assert not is_let_through(other)
    clock.elapsed += 16 * MINUTE
    assert is_let_through(other)
    assert not is_let_through(other)


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
