"""Log-ins: which ones are sent, and what the breaker makes of their answers; over real HTTPS."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import SecretStr

from mover.errors import CertificateRejected, HypervisorUnreachable, LoginRefused, Overloaded, RightsMissing
from mover.hypervisor.nutanix.address import PrismAddress, parse_address
from mover.hypervisor.nutanix.breaker import Breaker
from mover.hypervisor.nutanix.session import Session
from tests.support.logins import cheap_clock, session_of
from tests.support.prismworld import prism_world
from tests.support.tinyprism import TinyPrism, answers, cut, error, fingerprint, hang_up, html, serving, settings_for

MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture
def clock(monkeypatch):
    return cheap_clock(monkeypatch)


async def test_a_directory_that_was_away_for_a_minute_costs_a_quarter_of_an_hour(tmp_path, clock):
    tiny = TinyPrism()
    tiny.script("users/me", answers(401))

    async with serving(tiny, tmp_path):
        for pause in (0.0, 5 * MINUTE, 9 * MINUTE):
            clock.elapsed += pause
            one = session_of(tiny, tmp_path, clock)
            with pytest.raises(LoginRefused, match="tried once more"):
                await one.get("v3", "things/1")
            await one.close()
        assert len(tiny.calls) == 1
        clock.elapsed += 1 * MINUTE
        one = session_of(tiny, tmp_path, clock)
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()
    assert list((tmp_path / "breakers").glob("*.json")) == []


async def test_a_prism_without_cookies_gets_two_wrong_log_ins_however_many_calls_fly(tmp_path, clock):
    """The second asks whether it is the password; both are counted."""
    tiny = TinyPrism(cookies=False)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        await one.get("v3", "things/0")
        tiny.password = "changed"
        results = await asyncio.gather(*(one.get("v3", f"things/{n}") for n in range(8)), return_exceptions=True)
        await one.close()
    assert all(isinstance(result, LoginRefused) for result in results)
    assert len(tiny.calls) == 4
    [[refused]] = [list(found.values()) for found in written(tmp_path)]
    assert refused["tries"] == 2


async def test_a_session_that_is_in_comes_back_after_what_another_one_met(tmp_path, clock):
    """Without cookies each call is a log-in: the first that is due again proves the password for all."""
    tiny = TinyPrism(cookies=False)
    async with serving(tiny, tmp_path):
        daemon, command = session_of(tiny, tmp_path, clock), session_of(tiny, tmp_path, clock)
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
    known = Breaker(tmp_path, PrismAddress("127.0.0.1", 1), "admin", "secret", clock)
    await known.open()
    clock.elapsed += 15 * MINUTE
    one = Session(PrismAddress("127.0.0.1", 1), settings_for(nobody), clock=clock, state_dir=tmp_path)
    with pytest.raises(HypervisorUnreachable, match="no connection"):
        await one.get("v3", "things/1")
    await one.close()
    [refused] = json.loads(known.path.read_text())["refused"].values()
    assert refused["tries"] == 1
    await known.check()


async def test_a_probe_counts_once_it_left_and_not_where_the_certificate_was_distrusted(tmp_path, clock):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        address = PrismAddress("127.0.0.1", tiny.port)
        known = Breaker(tmp_path, address, "admin", "secret", clock)
        await known.open()
        clock.elapsed += 15 * MINUTE
        tiny.script("users/me", cut())
        for pin, error, tries in (("00" * 32, CertificateRejected, 1), (fingerprint(), HypervisorUnreachable, 2)):
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

    async def goes_away(request):
        if "Authorization" in request.headers:
            tiny.password = "not known while the directory is away"
        return await answers(401)(request)

    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
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


# --- a 401: the password, or a right that is missing -----------------------------------------


def refusing(tiny, path="v3/secret"):
    """Whatever one brings: 401 to this path alone."""
    tiny.routes[f"GET {path}"] = lambda _m, _c: (401, error(401, "AUTHENTICATION_REQUIRED"))


def written(folder):
    return [json.loads(file.read_text())["refused"] for file in (folder / "breakers").glob("*.json")]


@pytest.mark.parametrize("cookies", [True, False])
async def test_a_right_that_is_missing_is_told_as_such_each_time(tmp_path, clock, cookies):
    tiny = TinyPrism(cookies=cookies)
    refusing(tiny)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        for _ in range(6):
            with pytest.raises(RightsMissing, match="accepts the log-in"):
                await one.get("v3", "secret")
            assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()
    assert written(tmp_path) == []


OUTAGES = [answers(500), answers(503), html(), cut(), hang_up()]


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_right_after_a_401_holds_no_good_password_back(tmp_path, clock, outage):
    """Who sends what meanwhile: each time whether the password is right, never that call again."""
    tiny = TinyPrism()
    refusing(tiny)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        await one.get("v3", "things/1")
        tiny.script("users/me", answers(200, {"status": {}}, Set_Cookie="JSESSIONID=new"), *[outage] * 500)
        with pytest.raises((HypervisorUnreachable, Overloaded)):
            await one.get("v3", "secret")
        assert len([call for call in tiny.sent("v3/secret") if call.basic]) == 1
        assert written(tmp_path) == []
        tiny.scripts.clear()
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()


@pytest.mark.parametrize("outage", OUTAGES)
async def test_without_cookies_an_outage_right_after_a_401_costs_a_quarter_of_an_hour(tmp_path, clock, outage):
    """Others may be under way with the same password: the 401 counts until ``users/me`` has answered."""
    tiny = TinyPrism(cookies=False)
    refusing(tiny)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        await one.log_in()
        tiny.script("users/me", *[outage] * 500)
        with pytest.raises((HypervisorUnreachable, Overloaded)):
            await one.get("v3", "secret")
        tiny.scripts.clear()
        for pause in (0.0, 15 * MINUTE - 1):
            clock.elapsed += pause
            with pytest.raises(LoginRefused, match="1 sent"):
                await one.get("v3", "things/1")
        assert len(tiny.calls) == 3
        clock.elapsed += 1.0
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()
    assert written(tmp_path) == []


async def test_without_cookies_a_wrong_password_during_an_outage_is_sent_twice(tmp_path, clock):
    tiny = TinyPrism(cookies=False)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        await one.get("v3", "things/0")
        tiny.password = "changed"
        tiny.script("users/me", *[answers(503)] * 500)
        for outages in (1, 0):
            results = await asyncio.gather(*(one.get("v3", f"things/{n}") for n in range(5)), return_exceptions=True)
            kinds = [type(result) for result in results]
            assert (kinds.count(Overloaded), kinds.count(LoginRefused)) == (outages, 5 - outages)
            tiny.scripts.clear()
        await one.close()
    assert len(tiny.calls) == 4
    [[refused]] = [list(found.values()) for found in written(tmp_path)]
    assert refused["tries"] == 1


async def test_a_probe_asks_who_we_are_and_nothing_else(tmp_path, clock):
    tiny = TinyPrism(cookies=False)
    refusing(tiny)
    async with serving(tiny, tmp_path):
        known = Breaker(tmp_path, PrismAddress("127.0.0.1", tiny.port), "admin", "secret", clock)
        one = session_of(tiny, tmp_path, clock)
        await one.get("v3", "things/1")
        await known.open()
        clock.elapsed += 15 * MINUTE
        tiny.script("users/me", *[answers(503)] * 500)
        with pytest.raises(Overloaded, match="503"):
            await one.get("v3", "secret")
        assert len(tiny.sent("users/me")) == 2
        with pytest.raises(LoginRefused, match="2 sent"):
            await one.get("v3", "secret")
        [[refused]] = [list(found.values()) for found in written(tmp_path)]
        assert refused["tries"] == 2
        assert tiny.sent("v3/secret") == []
        tiny.scripts.clear()
        clock.elapsed += HOUR
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()
    assert written(tmp_path) == []


# --- each log-in once ------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [True, False])
async def test_a_log_in_that_is_not_answered_is_sent_once(tmp_path, clock, cookies):
    """The HTTP client would send it again by itself."""
    tiny = TinyPrism(cookies=cookies)
    tiny.script("users/me", hang_up())
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        with pytest.raises(HypervisorUnreachable, match="connection was lost"):
            await one.get("v3", "things/1", patience_s=0.0)
        assert len(tiny.calls) == 1
        if not cookies:
            await one.log_in()
            tiny.script("things/1", hang_up())
            with pytest.raises(HypervisorUnreachable, match="connection was lost"):
                await one.get("v3", "things/1", patience_s=0.0)
            assert len(tiny.sent("things/1")) == 1
        assert await one.get("v3", "things/1") == {"thing": "1"}
        await one.close()


async def test_a_log_in_never_travels_on_an_idle_connection(tmp_path, clock):
    """One that Prism has closed meanwhile would pose as a log-in whose fate is unknown, and cost a probe."""
    tiny, ports = TinyPrism(), []

    async def remember(request):
        ports.append(request.transport.get_extra_info("peername")[1])
        return await answers(200, {"status": {}})(request)

    tiny.script("", *[remember] * 3)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        for path in ("1", "2"):
            await one.get("v3", f"things/{path}")
        await one.close()
    assert len(ports) == len(set(ports)) == 3


async def test_who_we_are_is_asked_once_where_the_answer_leaves_no_doubt(tmp_path, clock):
    tiny = TinyPrism(cookies=False)
    async with serving(tiny, tmp_path):
        one = session_of(tiny, tmp_path, clock)
        for _ in range(2):
            assert await one.log_in() == {"status": {"name": "admin"}}
        tiny.password = "changed"
        with pytest.raises(LoginRefused):
            await one.log_in()
        await one.close()
    assert len(tiny.calls) == 3
    [[refused]] = [list(found.values()) for found in written(tmp_path)]
    assert refused["tries"] == 1
