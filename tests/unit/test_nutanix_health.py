"""What the metrics say of a Prism: whether it lets us in, and until when its certificate is good. Over real HTTPS."""

from __future__ import annotations

import asyncio
import errno
import os
from unittest.mock import Mock

import pytest
from cryptography import x509

from mover.errors import CertificateRejected, HypervisorUnreachable, LoginRefused, NotFound, Overloaded, StateFull
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.central import Central
from mover.hypervisor.nutanix.tls import note_certificate
from mover.metrics import REGISTRY
from tests.support.tinyprism import TinyPrism, answers, certificate, html, serving, session_with

HOST = "127.0.0.1"


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield tiny


def reachable():
    return REGISTRY.get_sample_value("mover_prism_reachable", {"prism": HOST})


def expiry(host=HOST):
    return REGISTRY.get_sample_value("mover_prism_certificate_expiry_timestamp_seconds", {"prism": host})


async def test_an_answer_is_an_answer_whatever_it_says(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        assert reachable() == 1
        with pytest.raises(NotFound):
            await session.get("v3", "nothing")
        assert reachable() == 1
        prism.script("busy", *[answers(429)] * 99)
        with pytest.raises(Overloaded):
            await session.get("v3", "busy", patience_s=0.0)
        assert reachable() == 1


async def test_a_gateway_that_answers_for_a_dead_prism_is_no_prism(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.script("things", *[html(503)] * 99)
        with pytest.raises((Overloaded, HypervisorUnreachable)):
            await session.get("v3", "things/1", patience_s=0.0)
        assert reachable() == 0
        prism.scripts.clear()
        await session.get("v3", "things/1")
        assert reachable() == 1


async def test_a_wrong_password_is_as_bad_as_no_answer_also_while_it_is_not_tried(prism, tmp_path):
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.password = "changed"
        prism.valid_cookies.clear()
        for _ in range(2):
            with pytest.raises(LoginRefused):
                await session.get("v3", "things/1")
            assert reachable() == 0


async def test_a_log_in_that_cannot_be_counted_lets_nobody_in(prism, tmp_path, monkeypatch):
    """A full state folder: nothing is sent. A Central that is not needed costs its categories, no more."""
    prism.password = "changed"
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(LoginRefused):
            await session.log_in()
        session.clock.elapsed += 900
        monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StateFull, match="none was sent"):
            await session.log_in()
        assert reachable() == 0
        found, note = await Central(session, is_needed=False).vm("x")
        assert (found, "No space left" in note) == (None, True)
        with pytest.raises(StateFull):
            await Central(session, is_needed=True).vm("x")
    assert len(prism.calls) == 1


async def test_a_cancelled_call_says_nothing(prism, tmp_path):
    never = asyncio.Event()
    arrived = asyncio.Event()

    async def hang(_request):
        arrived.set()
        await never.wait()

    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
        prism.script("things/2", hang)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(session.get("v3", "things/2"))
            await arrived.wait()
            call.cancel()
        assert reachable() == 1
        never.set()


async def test_the_end_of_the_certificate_is_known_from_the_handshake(prism, tmp_path):
    end = x509.load_pem_x509_certificate(certificate()[0]).not_valid_after_utc.timestamp()
    async with session_with(prism, tmp_path) as session:
        await session.get("v3", "things/1")
    assert expiry() == end


async def test_a_certificate_that_is_refused_shows_its_end_too(prism, tmp_path):
    """An expired one is refused: that is when its end matters."""
    end = x509.load_pem_x509_certificate(certificate()[0]).not_valid_after_utc.timestamp()
    note_certificate(PrismAddress(HOST, 1), b"not a certificate")
    assert expiry() is None
    async with session_with(prism, tmp_path, fingerprint=None, verify="yes") as session:
        with pytest.raises(CertificateRejected):
            await session.get("v3", "things/1")
    assert expiry() == end
    assert reachable() == 0
