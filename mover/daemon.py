"""``serve``: the daemon. Runs ordered jobs, reconciles, serves metrics and health."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mover import logs
from mover.api.server import Health, serving
from mover.app import nodes
from mover.cli.run import Session
from mover.clock import Clock, SystemClock
from mover.errors import MoverError
from mover.metrics import LOOP_LAG
from mover.operations.clean import reconcile
from mover.operations.gauges import publish_newest

_LOG = logs.get(__name__)
_LAG_STEP_S = 0.25
_LATE_RUNS = 3
"""After so many missed reconciles in a row the daemon calls itself unhealthy."""


@dataclass(slots=True)
class _Pulse:
    """When reconcile last ran, and how it ended."""

    at: float
    problem: str | None = None


async def serve(session: Session) -> None:
    """Run until SIGTERM or Ctrl-C; running jobs go on at the next start."""
    clock = SystemClock()
    settings = session.settings
    async with nodes.executor(settings, clock=clock) as executor:
        pulse = _Pulse(clock.monotonic())

        def health() -> Health:
            age = clock.monotonic() - pulse.at
            is_late = age > _LATE_RUNS * settings.serve.reconcile_every
            return Health(not is_late, {"reconciled_s_ago": round(age, 1), "problem": pulse.problem})

        async with serving(settings.serve, health) as url, asyncio.TaskGroup() as group:
            _LOG.info("serving", url=url, state_dir=str(settings.state_dir))
            session.console.remark(f"Serving {url}/metrics; jobs of {settings.state_dir} run here. Ctrl-C stops.")
            group.create_task(_recall(executor))
            group.create_task(_measure_lag(clock))
            group.create_task(_reconcile(executor, pulse, clock, settings.serve.reconcile_every))
            group.create_task(_publish(executor, clock))


async def _recall(executor: nodes.Executor) -> None:
    """Metrics of VMs come from their newest points: an alert on them must outlive a restart."""
    try:
        await publish_newest(executor.node.repository)
    except MoverError as error:
        _LOG.warning("metrics of former points are unknown", error=error.message, remedy=error.remedy)


async def _measure_lag(clock: Clock) -> None:
    while True:
        asked = clock.monotonic()
        await clock.sleep(_LAG_STEP_S)
        LOOP_LAG.observe(max(0.0, clock.monotonic() - asked - _LAG_STEP_S))


async def _publish(executor: nodes.Executor, clock: Clock) -> None:
    while True:
        executor.node.workers.publish()
        await clock.sleep(1.0)


async def _reconcile(executor: nodes.Executor, pulse: _Pulse, clock: Clock, every_s: float) -> None:
    while True:
        try:
            done = await reconcile(executor.node, apply=True)
            pulse.problem = next((item.error.message for item in done if item.error), None)
            pulse.at = clock.monotonic()
        except MoverError as error:
            pulse.problem = error.message
            _LOG.warning("reconcile failed", code=error.code, error=error.message, remedy=error.remedy)
        await clock.sleep(every_s)
