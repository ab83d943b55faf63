"""What tests of the log-in share: a clock with cheap hashes, and a session with a state folder."""

from __future__ import annotations

from mover.clock import FakeClock
from mover.hypervisor.nutanix import breaker as breaking
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.session import Session
from tests.support.tinyprism import settings_for


def cheap_clock(monkeypatch):
    """A clock to set, and hashes of secrets that cost nothing."""
    monkeypatch.setattr(breaking, "_COST", {"n": 2, "r": 1, "p": 1})
    return FakeClock()


def session_of(tiny, folder, clock):
    return Session(PrismAddress("127.0.0.1", tiny.port), settings_for(tiny), clock=clock, state_dir=folder)
