"""The session: log-in, cookies, breaker, TLS, pacing; over real HTTPS."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiohttp import web
from pydantic import SecretStr

from mover.clock import FakeClock
from mover.errors import CertificateRejected, ConfigError, HypervisorUnreachable, LoginRefused, RightsMissing
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.session import Repeat, Session
from mover.hypervisor.nutanix.tls import parse_fingerprints, written_fingerprint
from mover.metrics import REGISTRY
from tests.support import tinyprism
from tests.support.tinyprism import TinyPrism, answers, fingerprint, serving, session_with, settings_for


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield tiny


async def test_basic_first_cookies_after(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        await session.get("v3", "things/2")
    assert [(call.path, call.basic) for call in prism.calls if "things" in call.path] == [
        ("v3/things/1", False),
        ("v3/things/2", False),
    ]
    assert [call.path for call in prism.calls if call.basic] == ["v3/users/me"]


async def test_a_prism_without_cookies_gets_basic_every_time(prism, tmp_path):
    prism.cookies = False
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        await session.get("v3", "things/2")
    assert all(call.basic for call in prism.calls)
    assert len(prism.sent("users/me")) == 1


async def test_an_expired_cookie_costs_one_log_in(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.valid_cookies.clear()
        answers_ = await asyncio.gather(*(session.get("v3", f"things/{n}") for n in range(5)))
    assert [answer["thing"] for answer in answers_] == ["0", "1", "2", "3", "4"]
    assert len(prism.sent("users/me")) == 2


async def test_a_wrong_password_is_sent_exactly_once_even_by_many_calls(prism, tmp_path):
    prism.password = "changed"
    async with session_with(prism, tmp_path) as session:
        results = await asyncio.gather(*(session.get("v3", f"things/{n}") for n in range(6)), return_exceptions=True)
    assert all(isinstance(result, LoginRefused) for result in results)
    assert len([call for call in prism.calls if call.basic]) == 1
    assert prism.sent("things") == []


async def test_the_breaker_outlives_the_process_until_the_password_changes(prism, tmp_path):
    prism.password = "changed"
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(LoginRefused):
            await session.get("v3", "things/1")
    calls = len(prism.calls)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(LoginRefused, match="tried once more at 2025-10-09T09:08:20Z") as caught:
            await session.get("v3", "things/1")
    assert len(prism.calls) == calls
    assert str(tmp_path / "breakers") in caught.value.remedy
    async with session_with(prism, tmp_path, password=SecretStr("changed")) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(LoginRefused):
            await session.get("v3", "things/1")
    assert len(prism.sent("users/me")) == 2


async def test_a_password_that_stops_working_midway_opens_the_breaker(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.password = "changed"
        prism.valid_cookies.clear()
        results = await asyncio.gather(*(session.get("v3", f"things/{n}") for n in range(4)), return_exceptions=True)
        assert all(isinstance(result, LoginRefused) for result in results)
    assert len([call for call in prism.calls if call.basic]) == 2


async def test_an_unknown_certificate_shows_its_fingerprint_and_the_setting(prism, tmp_path):
    async with session_with(prism, tmp_path, fingerprint=None) as session:
        with pytest.raises(CertificateRejected) as caught:
            await session.get("v3", "things/1")
    assert fingerprint() in caught.value.message
    assert f"prism.fingerprint to {fingerprint().replace(':', '').lower()}" in caught.value.remedy
    assert prism.calls == []


async def test_a_wrong_pin_shows_the_actual_fingerprint_and_sends_nothing(prism, tmp_path):
    async with session_with(prism, tmp_path, fingerprint="00" * 32) as session:
        with pytest.raises(CertificateRejected, match="not the pinned one") as caught:
            await session.get("v3", "things/1")
    assert caught.value.facts["fingerprint"] == fingerprint()
    assert prism.calls == []


async def test_trust_by_ca_file_by_one_of_several_pins_and_off_in_words(prism, tmp_path):
    for trust in (
        {"fingerprint": None, "ca_file": tmp_path / "cert.pem"},
        {"fingerprint": f"{'00' * 32}, sha256:{fingerprint().replace(':', '').lower()}"},
        {"fingerprint": None, "verify": "no-i-accept-the-risk"},
    ):
        async with session_with(prism, tmp_path, **trust) as session:
            assert await session.get("v3", "things/1") == {"thing": "1"}


async def test_for_an_expired_certificate_only_what_helps_is_offered(tmp_path):
    """A CA does not make it younger; its fingerprint is taken as it is."""
    async with serving(TinyPrism(), tmp_path, is_expired=True) as prism:
        async with session_with(prism, tmp_path, fingerprint=None, ca_file=tmp_path / "cert.pem") as session:
            with pytest.raises(CertificateRejected, match="expired") as caught:
                await session.get("v3", "things/1")
        assert caught.value.remedy.startswith("Give Prism a new certificate")
        assert "ca_file" not in caught.value.remedy
        [pin] = re.findall(r"set prism\.fingerprint to (\w+)\.", caught.value.remedy)
        async with session_with(prism, tmp_path, fingerprint=pin) as session:
            assert await session.get("v3", "things/1") == {"thing": "1"}


async def test_an_unreadable_ca_file_is_a_config_error(prism, tmp_path):
    with pytest.raises(ConfigError, match="ca_file"):
        async with session_with(prism, tmp_path, fingerprint=None, ca_file=tmp_path / "absent.pem"):
            pass


@pytest.mark.parametrize("written", ["xyz", "AA:BB", ",", "00" * 31])
def test_malformed_fingerprints_are_refused(written):
    with pytest.raises(ConfigError, match="fingerprint"):
        parse_fingerprints(written)


def test_fingerprints_round_trip():
    digest = bytes(range(32))
    assert parse_fingerprints(written_fingerprint(digest)) == [digest]


@pytest.mark.parametrize("missing", [{"username": ""}, {"password": SecretStr("")}])
async def test_a_missing_user_or_password_is_said_before_any_call(prism, tmp_path, missing):
    with pytest.raises(ConfigError, match="not set"):
        Session(
            PrismAddress("127.0.0.1", prism.port),
            settings_for(prism, **missing),
            clock=FakeClock(),
            state_dir=tmp_path,
        )


async def test_never_more_than_max_calls_in_flight(prism, tmp_path):
    gate = asyncio.Event()

    async def slow(request):
        if prism.in_flight == 3:
            gate.set()
        await gate.wait()
        return await answers(200, {"thing": "slow"})(request)

    prism.script("things", *[slow] * 9)
    async with session_with(prism, tmp_path, max_calls=3) as session:
        await asyncio.gather(*(session.get("v3", f"things/{n}") for n in range(9)))
    assert prism.in_flight_peak == 3


async def test_secrets_never_reach_the_log(prism, tmp_path, caplog, capsys):
    caplog.set_level("DEBUG")
    prism.script("things", tinyprism.html(), answers(503), tinyprism.hang_up())
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
    seen = caplog.text + "".join(capsys.readouterr())
    cookie = next(iter(prism.valid_cookies))
    assert not re.search(r"Basic |secret|YWRtaW4", seen)
    assert cookie not in seen


async def test_the_clock_difference_comes_from_the_date_header(prism, tmp_path):
    prism.headers["Date"] = "Thu, 09 Oct 2025 08:53:30 GMT"
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        assert session.clock_offset_s == 10.0
        assert session.environment == "pe"


async def test_nobody_at_the_address_is_said_soon(tmp_path):
    async with session_with(TinyPrism(port=1), tmp_path) as session:
        with pytest.raises(HypervisorUnreachable, match="no connection"):
            await session.get("v3", "things/1")
        assert session.clock.monotonic() < 5


async def test_close_logs_out_and_bears_a_prism_without_log_out(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
    assert [call.basic for call in prism.sent("GET v3/logout")] == [False]


async def test_calls_and_repetitions_are_counted(prism, tmp_path):
    def sample(name, **labels):
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = {
        "ok": sample("mover_prism_calls_total", api="v3", status="2xx"),
        "bad": sample("mover_prism_calls_total", api="v3", status="5xx"),
        "again": sample("mover_prism_retries_total", reason="503"),
        "timed": sample("mover_prism_call_seconds_count", api="v3"),
    }
    prism.script("things", answers(503))
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        assert sample("mover_prism_calls_total", api="v3", status="2xx") == before["ok"] + 2
        assert sample("mover_prism_calls_total", api="v3", status="5xx") == before["bad"] + 1
        assert sample("mover_prism_retries_total", reason="503") == before["again"] + 1
        assert sample("mover_prism_call_seconds_count", api="v3") == before["timed"] + 3


async def test_a_change_without_a_key_never_travels_on_an_idle_connection(prism, tmp_path):
    ports = []

    async def remember(request):
        ports.append(request.transport.get_extra_info("peername")[1])
        return await answers(200, {"thing": "x"})(request)

    prism.script("things", *[remember] * 4)
    async with session_with(prism, tmp_path) as session:
        for repeat in (Repeat.SAFE, Repeat.SAFE, Repeat.NEVER, Repeat.NEVER):
            await session.post("v3", "things/1", {}, repeat=repeat)
    assert ports[0] == ports[1]
    assert len(set(ports)) == 3


async def test_a_wrong_password_is_sent_once_even_where_nothing_can_be_written(prism, tmp_path):
    (tmp_path / "breakers").write_text("in the way: the folder cannot be made")
    prism.password = "changed"
    async with session_with(prism, tmp_path) as session:
        for _ in range(3):
            with pytest.raises(LoginRefused, match="tried once more at 2025-10-09T09:08:20Z"):
                await session.get("v3", "things/1")
    assert len([call for call in prism.calls if call.basic]) == 1


async def test_a_right_password_needs_no_folder_for_the_breaker(prism, tmp_path):
    (tmp_path / "breakers").write_text("in the way")
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}


async def test_a_401_right_after_an_accepted_log_in_does_not_condemn_the_password(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        prism.script("things", *[answers(401)] * 3)
        with pytest.raises(RightsMissing, match="401"):
            await session.get("v3", "things/1")
        assert await session.get("v3", "things/1") == {"thing": "1"}
    assert list((tmp_path / "breakers").glob("*.json")) == []


async def test_where_cookies_do_not_count_basic_is_sent_by_one_call_at_a_time(prism, tmp_path):
    """A directory behind Prism refuses good passwords that come many at once."""
    now = peak = 0

    async def only_basic(request):
        nonlocal now, peak
        if "Authorization" not in request.headers:
            return web.json_response(tinyprism.error(401, "AUTHENTICATION_REQUIRED"), status=401)
        now += 1
        peak = max(peak, now)
        for _ in range(50):
            await asyncio.sleep(0)
        now -= 1
        return web.json_response({"is": "in"})

    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.script("v2/odd", *[only_basic] * 30)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(session.get("v2", f"odd/{number}")) for number in range(6)]
    assert [one.result() for one in asked] == [{"is": "in"}] * 6
    assert peak == 1
    assert not (tmp_path / "breakers").exists()


async def test_a_log_in_that_is_forbidden_speaks_of_the_account(prism, tmp_path):
    prism.script("users/me", answers(403, tinyprism.error(403, "ACCESS_DENIED", "The account is locked.")))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(LoginRefused, match="locked") as caught:
            await session.get("v3", "things/1")
    assert "unlock" in caught.value.remedy
    assert len(prism.calls) == 1


async def test_logging_in_asks_who_we_are_once(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        assert await session.log_in() == {"status": {"name": "admin"}}
    assert len(prism.sent("users/me")) == 1
