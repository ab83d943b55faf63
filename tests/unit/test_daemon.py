"""The daemon while nothing can run: it stays, says why, and goes on when it can."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from mover import daemon
from mover.config import Settings
from mover.errors import (
    ConfigError,
    HypervisorUnreachable,
    Overloaded,
    StateDamaged,
    StateFolderBusy,
    StateFull,
    StoreUnreachable,
)
from mover.metrics import REGISTRY
from tests.support.repositories import until


@pytest.fixture
def scene(monkeypatch):
    """A daemon without a port; ``fates`` says how each try to be the executor ends, the last one lasts."""

    class Scene:
        fates = []
        health = None

    @asynccontextmanager
    async def serving(settings, health):
        Scene.health = health
        yield "http://here"

    async def execute(session, url, pulse, clock):
        if Scene.fates and isinstance(Scene.fates[0], Exception):
            raise Scene.fates.pop(0)
        pulse.is_running = True
        await asyncio.Event().wait()

    monkeypatch.setattr(daemon, "serving", serving)
    monkeypatch.setattr(daemon, "_execute", execute)
    monkeypatch.setattr(daemon, "_AGAIN_S", 0.01)
    return Scene


PASSING = [
    *(
        kind("Prism is away", remedy="Wait.")
        for kind in (HypervisorUnreachable, StoreUnreachable, Overloaded, StateFull)
    ),
    StateDamaged("Prism is away", remedy="Look who holds the lock.", retryable=True),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: error.code)
async def test_what_passes_by_itself_is_waited_out_and_told(scene, monkeypatch, error):
    scene.fates = [error]
    may_try = asyncio.Event()
    monkeypatch.setattr(daemon, "SystemClock", lambda: WaitingClock(may_try))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(daemon.serve(SimpleNamespace(settings=Settings())))
        await until(lambda: not scene.fates)
        seen = scene.health()
        assert not seen.ok
        assert seen.facts["problem"] == "Prism is away"
        assert not seen.facts["running"]
        may_try.set()
        await until(lambda: scene.health().ok)
        serving.cancel()
    assert serving.cancelled()


@pytest.mark.parametrize("kind", [ConfigError, StateFolderBusy, StateDamaged])
async def test_what_stays_wrong_ends_the_daemon(scene, kind):
    scene.fates = [kind("prism.url is not set", remedy="Set it.")]
    with pytest.raises(kind):
        await daemon.serve(SimpleNamespace(settings=Settings()))


async def test_a_command_that_ran_the_jobs_meanwhile_is_waited_for(scene):
    scene.fates = [StateFull("no room", remedy="Make room."), StateFolderBusy("Process 7 runs jobs", remedy="Wait.")]
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(daemon.serve(SimpleNamespace(settings=Settings())))
        await until(lambda: scene.health is not None and scene.health().ok)
        assert not scene.fates
        serving.cancel()
    assert serving.cancelled()


@pytest.mark.parametrize("unforgotten", [None, StateDamaged("the book is damaged", remedy="Move it away.")])
async def test_a_past_that_cannot_be_forgotten_is_a_problem_and_what_was_done_counts(monkeypatch, unforgotten):
    async def reconcile(node, *, apply):
        return []

    async def forget_the_past(node):
        return unforgotten

    monkeypatch.setattr(daemon, "reconcile", reconcile)
    monkeypatch.setattr(daemon, "forget_the_past", forget_the_past)
    daemon.RECONCILE_LAST_SUCCESS.set(0)
    pulse, clock = daemon._Pulse(at=-1.0), WaitingClock(asyncio.Event())
    async with asyncio.TaskGroup() as group:
        reconciling = group.create_task(daemon._reconcile(None, pulse, clock, 60.0))
        await until(lambda: pulse.at == 0.0)
        reconciling.cancel()
    assert pulse.problem == (unforgotten and unforgotten.message)
    last_success = REGISTRY.get_sample_value("mover_reconcile_last_success_timestamp_seconds")
    assert last_success == (0 if unforgotten else clock.now())


class WaitingClock:
    def __init__(self, may_go_on):
        self._may_go_on = may_go_on

    def monotonic(self):
        return 0.0

    def now(self):
        return 7.0

    async def sleep(self, seconds):
        await self._may_go_on.wait()
