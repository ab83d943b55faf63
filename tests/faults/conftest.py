"""Nodes whose metrics are watched."""

from __future__ import annotations

import pytest

from tests.support.watched import watched


@pytest.fixture
async def seen(tmp_path):
    async with watched(tmp_path) as made:
        yield made


@pytest.fixture
async def web(seen):
    return await seen.backed_up("web")
