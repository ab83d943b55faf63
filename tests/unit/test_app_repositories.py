"""What the assembly of a repository joins."""

from __future__ import annotations

from pathlib import Path

from mover.app.repositories import repository
from mover.app.stores import store
from mover.clock import SystemClock
from mover.config import Settings
from mover.metrics import REGISTRY
from tests.support.repositories import make


def answered_gets() -> float:
    return REGISTRY.get_sample_value("mover_store_requests_total", {"verb": "get", "outcome": "ok"}) or 0.0


async def test_what_a_node_asks_of_its_store_is_counted(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "repository": {"url": str(tmp_path / "repository")}})
    clock = SystemClock()
    async with store(settings, clock, create=True) as empty:
        await make(empty, passphrase=None)
    before = answered_gets()
    async with repository(settings, clock):
        assert answered_gets() == before + 1  # the descriptor
    assert REGISTRY.get_sample_value("mover_store_reachable") == 1
