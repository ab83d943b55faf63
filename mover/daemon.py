"""``serve``: the daemon. Runs ordered jobs, reconciles, serves metrics and health."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import mover
from mover import logs
from mover.api.server import Health, serving
from mover.app import nodes
from mover.cli.run import Session
from mover.clock import Clock, SystemClock
from mover.errors import (
    HypervisorUnreachable,
    MoverError,
    Overloaded,
    StateDamaged,
    StateFolderBusy,
    StateFull,
    StoreUnreachable,
)
from mover.metrics import BUILD_INFO, LOOP_LAG, NODE_INFO, RECONCILE_LAST_SUCCESS
from mover.operations.clean import forget_the_past, reconcile
from mover.operations.node import Node
from mover.operations.presence import look_for_vms

_LOG = logs.get(__name__)
_LAG_STEP_S = 0.25
_REMEMBER_S = 60.0
"""So soon the metrics show what other commands found, as a verification."""
_RECALL_EVERY = 15
"""So many times more seldom all points are listed anew: other nodes write, users delete."""
_AGAIN_S = 15.0
"""So long after a start that failed for what passes, the next one."""
_PASSING = (HypervisorUnreachable, StoreUnreachable, Overloaded, StateFull)
"""A Prism or store that is away or busy, a full state folder."""
_LATE_RUNS = 3
"""After so many missed reconciles in a row the daemon calls itself unhealthy."""


@dataclass(slots=True)
class _Pulse:
    """Whether the executor runs, when reconcile last ran, and how it ended."""

    at: float
    is_running: bool = False
    problem: str | None = None


async def serve(session: Session) -> None:
    """Run until SIGTERM or Ctrl-C; running jobs go on at the next start."""
    clock = SystemClock()
    settings = session.settings
    pulse = _Pulse(clock.monotonic())

    def health() -> Health:
        age = clock.monotonic() - pulse.at
        is_late = age > _LATE_RUNS * settings.serve.reconcile_every
        facts = {"running": pulse.is_running, "reconciled_s_ago": round(age, 1), "problem": pulse.problem}
        return Health(pulse.is_running and not is_late, facts)

    # The port first: one that cannot be had is known before a job goes on.
    async with serving(settings.serve, health) as url:
        passing: tuple[type[MoverError], ...] = _PASSING
        while True:
            try:
                await _execute(session, url, pulse, clock)
            except MoverError as error:
                if not (isinstance(error, passing) or _may_mend(error)):
                    raise
                # Metrics and health go on telling why nothing runs; whoever restarts us could do no more.
                if pulse.is_running or error.message != pulse.problem:
                    _LOG.warning("no jobs run now", code=error.code, error=error.message, remedy=error.remedy)
                pulse.is_running, pulse.problem = False, error.message
            # While we waited, a command may have taken the jobs on: it ends. At the very start it is a mistake.
            passing = (*_PASSING, StateFolderBusy)
            await clock.sleep(_AGAIN_S)


def _may_mend(error: MoverError) -> bool:
    """A state folder that refuses to be written or locked, or did; a damaged file in it stays so."""
    return isinstance(error, StateDamaged) and error.retryable


async def _execute(session: Session, url: str, pulse: _Pulse, clock: Clock) -> None:
    """Be the executor until cancelled. Raises what ``serve`` waits out, and more."""
    settings = session.settings
    async with nodes.executor(settings, clock=clock) as executor:
        node = executor.node
        BUILD_INFO.labels(mover.__version__).set(1)
        NODE_INFO.labels(settings.node.name, node.install, node.proxy_uuid).set(1)
        pulse.at, pulse.is_running, pulse.problem = clock.monotonic(), True, None
        _LOG.info("serving", url=url, state_dir=str(settings.state_dir))
        session.console.remark(f"Serving {url}/metrics; jobs of {settings.state_dir} run here. Ctrl-C stops.")
        async with asyncio.TaskGroup() as group:
            group.create_task(_recall(node, clock))
            group.create_task(_measure_lag(clock))
            group.create_task(_reconcile(node, pulse, clock, settings.serve.reconcile_every))
            group.create_task(_publish(node, clock))


async def _recall(node: Node, clock: Clock) -> None:
    """Metrics of VMs come from their points and the catalog: an alert on them must outlive a restart."""
    while True:
        try:
            await node.board.standing.recall(node.repository)
        except MoverError as error:
            _LOG.warning("how the VMs stand is not known now", error=error.message, remedy=error.remedy)
        try:
            await look_for_vms(node)
        except MoverError as error:
            _LOG.warning("whether VMs were deleted is not known now", error=error.message, remedy=error.remedy)
        for _ in range(_RECALL_EVERY):
            await clock.sleep(_REMEMBER_S)
            await node.board.standing.remember()


async def _measure_lag(clock: Clock) -> None:
    while True:
        asked = clock.monotonic()
        await clock.sleep(_LAG_STEP_S)
        LOOP_LAG.observe(max(0.0, clock.monotonic() - asked - _LAG_STEP_S))


async def _publish(node: Node, clock: Clock) -> None:
    while True:
        node.workers.publish()
        node.board.tick()
        await clock.sleep(1.0)


async def _reconcile(node: Node, pulse: _Pulse, clock: Clock, every_s: float) -> None:
    while True:
        try:
            done = await reconcile(node, apply=True)
            errors = [*(item.error for item in done), await forget_the_past(node)]
            pulse.problem = next((error.message for error in errors if error), None)
            pulse.at = clock.monotonic()
            if pulse.problem is None:
                RECONCILE_LAST_SUCCESS.set(clock.now())
        except MoverError as error:
            pulse.problem = error.message
            _LOG.warning("reconcile failed", code=error.code, error=error.message, remedy=error.remedy)
        await clock.sleep(every_s)
