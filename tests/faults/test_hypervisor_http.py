"""Each fault of HTTP, met by a call that only reads and by one that must not be sent twice."""

from __future__ import annotations

import asyncio

import pytest

from mover.errors import (
    Conflict,
    EffectUnknown,
    HypervisorUnreachable,
    LoginRefused,
    NotFound,
    Overloaded,
    RequestRefused,
    RightsMissing,
    UnsupportedEndpoint,
)
from mover.hypervisor.nutanix.session import Repeat
from tests.support.tinyprism import TinyPrism, answers, cut, error, hang_up, html, never, serving, session_with

PASSING = {
    "429": answers(429),
    "500": answers(500),
    "503": answers(503),
    "504": answers(504),
    "408": answers(408),
    "html-502": html(502),
    "html-200": html(200),
    "cut": cut(),
    "hang-up": hang_up(),
    "redirect": answers(302, {}, Location="https://elsewhere/"),
    "error-in-200": answers(200, error(503, "SERVICE_UNAVAILABLE")),
}
REFUSED = {400: RequestRefused, 422: RequestRefused, 403: RightsMissing, 404: NotFound, 409: Conflict}


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    tiny.routes["POST v2/attach"] = lambda _m, _c: (201, {"task_uuid": "t"})
    async with serving(tiny, tmp_path):
        yield tiny


@pytest.mark.parametrize("fault", PASSING)
async def test_a_read_is_repeated_until_it_passes(prism, tmp_path, fault):
    prism.script("things", PASSING[fault], PASSING[fault])
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}
        assert 0 < session.clock.monotonic() < 10
    assert len(prism.sent("things")) == 3


@pytest.mark.parametrize("fault", [name for name in PASSING if name != "429"])
async def test_a_change_without_a_key_is_sent_once(prism, tmp_path, fault):
    prism.script("attach", PASSING[fault], effect_first=True)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(EffectUnknown, match="outcome is not known") as caught:
            await session.post("v2", "attach", {}, repeat=Repeat.NEVER)
    assert len(prism.sent("attach")) == 1
    assert "mover orphans" in caught.value.remedy


async def test_a_change_without_a_key_is_not_repeated_at_429_by_the_session(prism, tmp_path):
    prism.script("attach", answers(429))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(Overloaded):
            await session.post("v2", "attach", {}, repeat=Repeat.NEVER)
    assert len(prism.sent("attach")) == 1


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize("repeat", list(Repeat))
async def test_a_definite_refusal_is_never_repeated(prism, tmp_path, status, repeat):
    prism.script("attach", answers(status, error(status, "WHY", "because")))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(REFUSED[status], match="because") as caught:
            await session.post("v2", "attach", {}, repeat=repeat)
    assert len(prism.sent("attach")) == 1
    assert caught.value.facts["status"] == status
    assert caught.value.facts["reason"] == "WHY"


async def test_a_401_on_a_cookie_costs_one_log_in(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.script("attach", answers(401))
        assert await session.post("v2", "attach", {}, repeat=Repeat.NEVER) == {"task_uuid": "t"}
    assert [call.basic for call in prism.sent("attach")] == [False, False]
    assert [call.path for call in prism.calls if call.basic] == ["v3/users/me"] * 2


async def test_a_401_on_basic_is_final(prism, tmp_path):
    prism.script("users/me", answers(401))
    async with session_with(prism, tmp_path) as session:
        for _ in range(3):
            with pytest.raises(LoginRefused):
                await session.get("v3", "things/1")
    assert len(prism.calls) == 1


async def test_a_time_out_is_repeated_for_a_read_and_unknown_for_a_change(prism, tmp_path):
    gate = asyncio.Event()
    prism.script("things", never(gate))
    prism.script("attach", never(gate))
    async with session_with(prism, tmp_path, call_timeout=0.2) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}
        with pytest.raises(EffectUnknown, match="in time"):
            await session.post("v2", "attach", {}, repeat=Repeat.NEVER)
    gate.set()
    assert len(prism.sent("attach")) == 1


async def test_trouble_during_the_log_in_is_no_unknown_effect(prism, tmp_path):
    prism.script("users/me", html(), answers(503))
    async with session_with(prism, tmp_path) as session:
        assert await session.post("v2", "attach", {}, repeat=Repeat.NEVER) == {"task_uuid": "t"}
    assert len(prism.sent("attach")) == 1


@pytest.mark.parametrize(("fault", "kind"), [("503", Overloaded), ("html-502", HypervisorUnreachable)])
async def test_patience_ends_with_its_budget(prism, tmp_path, fault, kind):
    prism.script("things", *[PASSING[fault]] * 200)
    async with session_with(prism, tmp_path, retry_budget=60.0) as session:
        await session.log_in()
        with pytest.raises(kind):
            await session.get("v3", "things/1")
        assert 60 <= session.clock.monotonic() <= 61


async def test_the_budget_is_shared_by_all_calls(prism, tmp_path):
    prism.script("things", *[html()] * 200)
    async with session_with(prism, tmp_path, retry_budget=60.0) as session:
        await session.log_in()
        with pytest.raises(HypervisorUnreachable):
            await session.get("v3", "things/1")
        begun, sent = session.clock.monotonic(), len(prism.sent("things"))
        with pytest.raises(HypervisorUnreachable):
            await session.get("v3", "things/2")
        assert session.clock.monotonic() == begun
    assert len(prism.sent("things")) == sent + 1


async def test_an_old_failure_does_not_use_up_the_budget(prism, tmp_path):
    prism.script("things", *[html()] * 40)
    async with session_with(prism, tmp_path, retry_budget=60.0) as session:
        await session.log_in()
        with pytest.raises(HypervisorUnreachable):
            await session.get("v3", "things/1")
        await session.clock.sleep(3600)
        prism.scripts.clear()
        prism.script("things", html())
        assert await session.get("v3", "things/2") == {"thing": "2"}


async def test_a_500_is_not_repeated_for_minutes(prism, tmp_path):
    prism.script("things", *[answers(500)] * 20)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(HypervisorUnreachable):
            await session.get("v3", "things/1")
    assert len(prism.sent("things")) == 3


async def test_a_500_that_speaks_of_a_service_that_is_not_ready_is_borne(prism, tmp_path):
    said = {"message": "Acropolis leader is not available", "error_code": {"code": 1000}}
    prism.script("things", *[answers(500, said)] * 8)
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}


async def test_a_500_to_a_change_with_a_key_is_a_refusal_where_it_says_so(prism, tmp_path):
    prism.script("detach", answers(500, {"message": "kInvalidArgument: invalid disk", "error_code": {"code": 3}}))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(RequestRefused, match="invalid disk"):
            await session.post("v2", "detach", {})
    assert len(prism.sent("detach")) == 1


async def test_retry_after_holds_all_calls(prism, tmp_path):
    prism.script("things", answers(429, Retry_After="7"))
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        assert session.clock.monotonic() >= 7


async def test_an_address_that_is_no_prism_is_said(prism, tmp_path):
    prism.script("users/me", answers(404))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(UnsupportedEndpoint, match="v3"):
            await session.get("v3", "things/1")


async def test_an_absurdly_long_answer_is_cut_off(prism, tmp_path, monkeypatch):
    monkeypatch.setattr("mover.hypervisor.nutanix.wire._BODY_LIMIT_BYTES", 100)
    prism.script("things", answers(200, {"pad": "x" * 1000}))
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}


@pytest.mark.parametrize("reply", [html(404), html(200), html(403), answers(302, {}, Location="https://elsewhere/")])
async def test_an_address_that_speaks_no_json_is_given_up_soon(prism, tmp_path, reply):
    prism.script("users/me", *[reply] * 100)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(UnsupportedEndpoint) as caught:
            await session.get("v3", "things/1")
        assert session.clock.monotonic() < 5
    assert "prism.url" in caught.value.remedy


async def test_a_gateway_that_restarts_at_the_first_contact_is_borne(prism, tmp_path):
    prism.script("users/me", *[html(502)] * 8)
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/1") == {"thing": "1"}


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_what_exists_already_is_a_conflict_whatever_the_status(prism, tmp_path, status):
    prism.script("attach", answers(status, error(status, "ENTITY_ALREADY_EXISTS")))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(Conflict):
            await session.post("v2", "attach", {})


async def test_v2_may_say_with_a_500_that_something_does_not_exist(prism, tmp_path):
    prism.script("things", answers(500, {"message": "VM 0F-1 does not exist", "error_code": {"code": 1202}}))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(NotFound, match="1202"):
            await session.get("v2", "things/0f-1")
    assert len(prism.sent("things")) == 1


async def test_a_500_that_misses_something_else_does_not_make_a_vm_vanish(prism, tmp_path):
    prism.script("things", answers(500, {"message": "host 7 not found", "error_code": {"code": 7}}))
    async with session_with(prism, tmp_path) as session:
        assert await session.get("v3", "things/0f-1") == {"thing": "0f-1"}


async def test_a_500_to_a_change_without_a_key_is_no_refusal_whatever_it_says(prism, tmp_path):
    prism.script("attach", answers(500, {"message": "file does not exist", "error_code": {"code": 3}}))
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(EffectUnknown):
            await session.post("v2", "attach", {}, repeat=Repeat.NEVER)
