"""The Prism that each promise of ``hypervisor.protocol`` is held against."""

from __future__ import annotations

import pytest

from tests.support.prismworld import prism_world


@pytest.fixture(params=("element", "central"))
async def world(request, tmp_path):
    async with prism_world(tmp_path, request.param) as made:
        yield made
