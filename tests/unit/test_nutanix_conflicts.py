"""Somebody else changes the object meanwhile (409): each try begins with a look of its own, and they end."""

from __future__ import annotations

import pytest

from mover.errors import Conflict
from mover.hypervisor.nutanix.snapshots import delete_snapshot, extend_snapshot
from mover.hypervisor.nutanix.vms import delete_vm
from tests.support.tinyprism import TinyPrism, answers, serving, session_with

ID = "3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21"
SNAPSHOT = f"v3/vm_snapshots/{ID}"
VM = f"v3/vms/{ID}"


@pytest.fixture
async def prism(tmp_path):
    tiny = TinyPrism()
    async with serving(tiny, tmp_path):
        yield tiny


async def test_an_expiry_is_put_on_what_the_snapshot_is_by_then(prism, tmp_path):
    prism.routes[f"GET {SNAPSHOT}"] = lambda _m, _c: (
        200,
        {"metadata": {"uuid": ID, "spec_version": len(prism.sent("PUT"))}, "spec": {"name": "s"}},
    )
    prism.routes[f"PUT {SNAPSHOT}"] = lambda _m, _c: (200, {})
    prism.script("PUT", answers(409), answers(409))
    async with session_with(prism, tmp_path) as session:
        await extend_snapshot(session, ID, 5.0)
    assert [call.body["metadata"]["spec_version"] for call in prism.sent("PUT")] == [0, 1, 2]


@pytest.mark.parametrize(("remove", "path"), [(delete_snapshot, SNAPSHOT), (delete_vm, VM)])
async def test_what_is_always_being_changed_is_a_conflict_in_the_end(prism, tmp_path, remove, path):
    prism.script(f"DELETE {path}", *[answers(409)] * 9)
    async with session_with(prism, tmp_path) as session:
        with pytest.raises(Conflict):
            await remove(session, ID)
        assert 7 < session.clock.monotonic() < 10
    assert len(prism.sent("DELETE")) == 5


@pytest.mark.parametrize(("remove", "path"), [(delete_snapshot, SNAPSHOT), (delete_vm, VM)])
async def test_what_somebody_else_deleted_meanwhile_is_gone(prism, tmp_path, remove, path):
    prism.script(f"DELETE {path}", answers(409), answers(404))
    async with session_with(prism, tmp_path) as session:
        await remove(session, ID)
    assert len(prism.sent("DELETE")) == 2
