"""What the assembly of a node says of a state folder that fails under it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from mover.app import nodes
from mover.config import Settings
from mover.errors import StateDamaged


@pytest.mark.parametrize("apply", [False, True])
async def test_a_ledger_that_fails_while_a_command_looks_is_told_in_words(
    apply: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def node(*_: object, **__: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(nodes, "node", node)
    settings = Settings.model_validate({"state_dir": tmp_path})
    with pytest.raises(StateDamaged, match=rf"{tmp_path} .*: disk I/O error"):
        async with nodes.looking_node(settings, apply=apply):
            raise OperationalError("UPDATE ledger", {}, sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(ZeroDivisionError):
        async with nodes.looking_node(settings, apply=apply):
            raise ZeroDivisionError
