"""Several sessions without cookies on one state folder: each call is a log-in, and others are under way."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mover.clock import FakeClock
from mover.errors import LoginRefused, Overloaded, RightsMissing
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.breaker import Breaker
from tests.support.logins import cheap_clock, session_of
from tests.support.tinyprism import TinyPrism, answers, error, serving


@pytest.fixture
def clock(monkeypatch):
    return cheap_clock(monkeypatch)


def refusing(tiny):
    """Whatever one brings: 401 to this path alone."""
    tiny.routes["GET v3/secret"] = lambda _m, _c: (401, error(401, "AUTHENTICATION_REQUIRED"))


def written(folder):
    return [json.loads(file.read_text())["refused"] for file in (folder / "breakers").glob("*.json")]


class StandingClock(FakeClock):
    """Waiting for a lock lets others run; no time passes."""

    async def sleep(self, seconds):
        await asyncio.sleep(0)


@asynccontextmanager
async def element_and_central(folder, clock, *, each):
    """Two Prisms without cookies that count no call yet, and so many sessions with each that are in; by turns."""
    prisms = TinyPrism(cookies=False), TinyPrism(cookies=False)
    async with AsyncExitStack() as stack:
        for tiny in prisms:
            await stack.enter_async_context(serving(tiny, folder))
        sessions = [session_of(tiny, folder, clock) for _ in range(each) for tiny in prisms]
        for one in sessions:
            stack.push_async_callback(one.close)
            await one.get("v3", "things/1")
        for tiny in prisms:
            tiny.calls.clear()
        yield prisms, sessions


def together(prisms, pattern, number):
    """Calls that match are answered once so many have come, to all Prisms together."""
    come, is_full = [], asyncio.Event()
    for tiny in prisms:

        async def handle(request, answer=tiny._handle):
            if re.search(pattern, request.path):
                come.append(request.path)
                if len(come) >= number:
                    is_full.set()
                await is_full.wait()
            return await answer(request)

        tiny._handle = handle


async def asked_by(sessions, path, times=1):
    calls = (one.get("v3", path) for one in sessions for _ in range(times))
    return {type(result) for result in await asyncio.gather(*calls, return_exceptions=True)}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_two_sessions_each_with_element_and_central_send_four_wrong_log_ins_at_most(tmp_path, clock, number):
    """All are in when the password changes; so many are under way before the first is answered."""
    async with element_and_central(tmp_path, StandingClock(), each=2) as (prisms, sessions):
        for tiny in prisms:
            tiny.password = "changed"
        together(prisms, "things", number)
        assert await asked_by(sessions, "things/1", times=4) == {LoginRefused}
        assert await asked_by(sessions, "things/1") == {LoginRefused}
        sent = sum(len(tiny.calls) for tiny in prisms)
    assert sent <= 4
    assert sum(refused["tries"] for found in written(tmp_path) for refused in found.values()) == sent


async def test_a_command_that_starts_with_the_old_password_is_among_the_four(tmp_path, clock):
    """Who is in waits for its log-ins too before it asks."""
    async with element_and_central(tmp_path, StandingClock(), each=1) as (prisms, sessions):
        fresh = [session_of(tiny, tmp_path, StandingClock()) for tiny in prisms]
        for tiny in prisms:
            tiny.password = "changed"
        together(prisms, "", 4)
        assert await asked_by([*sessions, *fresh], "things/1") == {LoginRefused}
        for one in fresh:
            await one.close()
        assert sum(len(tiny.calls) for tiny in prisms) == 4


@pytest.mark.parametrize("each", [1, 2])
async def test_a_right_that_is_missing_to_several_at_once_holds_nobody_back(tmp_path, clock, each):
    """The first of two or three asks for all, when all are answered."""
    async with element_and_central(tmp_path, StandingClock(), each=each) as (prisms, sessions):
        for tiny in prisms:
            refusing(tiny)
        sessions = sessions[:3]
        together(prisms, "secret", len(sessions))
        assert await asked_by(sessions, "secret") == {RightsMissing}
        assert await asked_by(sessions, "things/1") == {dict}
    assert written(tmp_path) == []


async def test_who_meets_a_claim_that_is_not_settled_sends_nothing(tmp_path, clock):
    """Whether the password is right is asked by the first alone; here it learns nothing."""
    async with element_and_central(tmp_path, StandingClock(), each=1) as (prisms, sessions):
        for tiny in prisms:
            refusing(tiny)
            tiny.script("users/me", *[answers(503)] * 9)
        together(prisms, "secret", 2)
        assert await asked_by(sessions, "secret") == {Overloaded, LoginRefused}
        assert sum(len(tiny.sent("users/me")) for tiny in prisms) == 1


async def test_who_cannot_ask_alone_does_not_ask(tmp_path, clock):
    """A process that was stopped amid a log-in; time passes."""
    async with element_and_central(tmp_path, clock, each=1) as (prisms, sessions):
        refusing(prisms[0])
        async with Breaker(tmp_path, PrismAddress("other"), "admin", "secret", clock).flight(is_made=True):
            assert await asked_by(sessions[:1], "secret") == {LoginRefused}
        assert prisms[0].sent("users/me") == []
        assert await asked_by(sessions, "things/1") == {LoginRefused, dict}
