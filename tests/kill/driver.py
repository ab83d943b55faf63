"""A program that is killed: runs one durable job on a world kept in a folder, and dies where it is told.

Started once, it forks a child per line of its input, so that imports are paid once::

    {"folder": …, "job": "backup" | "restore", "kill_at": 7 | null, "after_ms": null}
    → {"signal": 9} or {"exit": 0}; the child's outcome is in <folder>/outcome.json

kill_at counts ticks: each boundary of a step, and in the mode "instants" also each call to
hypervisor and store, before and after its effect, and each line of the ledger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from mover.clock import SystemClock
from mover.errors import UsageError
from mover.jobs.book import JobBook
from mover.jobs.engine import Engine
from mover.jobs.lock import executor_lock
from mover.jobs.steps import Call
from mover.operations.backup import backup_vm
from mover.operations.clean import reconcile
from mover.operations.node import ReadingNode
from mover.operations.reconcile import INTENT_LIFE_S
from mover.operations.request import BACKUP, RESTORE, RestoreRequest
from mover.operations.restore import restore_vm
from mover.operations.tofile import restore_to_file
from mover.storage.local import LocalStore
from tests.support.fakehypervisor import FakeHypervisor
from tests.support.world import BLOCK, World, world

SLOTS = ("scsi.0", "scsi.1")
SIZES = [2 * BLOCK, BLOCK + 4096, BLOCK]
"""The third one is left out of backups, and comes back empty."""
EMPTY = "scsi.2"
JOB_IDS = {"first": "f" * 16, "backup": "b" * 16, "restore": "e" * 16}


class SkewedClock(SystemClock):
    """So many seconds later."""

    skew_s = 0.0

    def now(self) -> float:
        return super().now() + self.skew_s


class Ticks:
    """Counts, and dies at the number it was given."""

    def __init__(self, kill_at: int | None) -> None:
        self.count = 0
        self._kill_at = kill_at

    def tick(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async def later(self, _: Any = None) -> None:
        self.tick()

    def around(self, function: Any) -> Any:
        """An async function with a tick before and one after it."""

        @functools.wraps(function)
        async def ticking(*arguments: Any, **named: Any) -> Any:
            self.tick()
            result = await function(*arguments, **named)
            self.tick()
            return result

        return ticking


class TickingSteps:
    """Steps with a tick before each, at the end of its body, and when it is recorded."""

    def __init__(self, steps: Any, ticks: Ticks) -> None:
        self._steps, self._ticks = steps, ticks
        self.job_id, self.cancellation = steps.job_id, steps.cancellation

    async def step(self, name: str, function: Any, *arguments: Any) -> Any:
        return await self._ticks.around(self._steps.step)(name, self._body(function), *arguments)

    async def together(self, calls: Any) -> list[Any]:
        ticking = [Call(call.name, self._body(call.function), call.arguments) for call in calls]
        return await self._ticks.around(self._steps.together)(ticking)

    def _body(self, function: Any) -> Any:
        async def body(*arguments: Any) -> Any:
            result = await function(*arguments)
            self._ticks.tick()
            return result

        return body


async def run(order: dict[str, Any]) -> None:
    """One life of the executor: continue or order the job, see it through, reconcile, tell."""
    folder = Path(order["folder"])
    clock = SkewedClock()
    ticks = Ticks(order.get("kill_at"))
    if order.get("after_ms"):
        signal.setitimer(signal.ITIMER_REAL, order["after_ms"] / 1000)
    (folder / "store").mkdir(exist_ok=True)
    with executor_lock(folder):
        hypervisor = FakeHypervisor(now=clock.now, file=folder / "world.pickle")
        if not hypervisor.state.vms:
            hypervisor.add_vm("proxy", [4096])
            hypervisor.add_vm("web", SIZES, seed=11)
        book = JobBook(folder, clock=clock)
        async with world(folder, inner=LocalStore(folder / "store"), hypervisor=hypervisor, clock=clock) as w:
            node = dataclasses.replace(w.node, active_jobs=book.active)
            if order.get("mode") == "instants":
                tick_everywhere(w, ticks)

            async def job(operation: Any, request: Any, steps: Any) -> Any:
                return await operation(node, request, TickingSteps(steps, ticks))

            operations = {
                BACKUP: functools.partial(job, backup_vm),
                RESTORE: functools.partial(job, restore_vm),
            }
            async with Engine.running(folder, operations, side_by_side=2, clock=clock):
                await reconcile(node, apply=True)
                done = await see_through(order["job"], w, book)
                await reconcile(node, apply=True)
                outcome = {
                    "state": str(done.state),
                    "error": done.error.as_dict() if done.error else None,
                    "result": done.result,
                    "ticks": ticks.count,
                    "ours": w.ours(),
                    "points": await points_held(w),
                }
                # Intents without effect are closed once their calls cannot take effect any more.
                clock.skew_s = INTENT_LIFE_S
                await reconcile(node, apply=True)
                outcome["ledger"] = [entry.kind for entry in await node.ledger.open_entries()]
                outcome["ours_later"] = w.ours()
                (folder / "outcome.json").write_text(json.dumps(outcome))
                # Death is the usual end here, and quicker.
                os._exit(0)


async def see_through(name: str, w: World, book: JobBook) -> Any:
    """The job, ended; ordered now if its order was lost."""
    job_id = JOB_IDS[name]
    try:
        await book.job(job_id)
    except UsageError:
        if name == "restore":
            [point] = await w.node.repository.points()
            request = RestoreRequest(point.id, "web2", power_on=True).values()
            await book.submit(RESTORE, request, job_id=job_id)
        else:
            web = w.hypervisor.named("web")
            hook = {"command": ["/bin/sh", "-c", f"echo post >> {w.node.settings.state_dir}/hooks"]}
            await book.submit(BACKUP, w.request(web, post_snapshot=hook, exclude=(EMPTY,)).values(), job_id=job_id)
    return await book.wait(job_id)


def tick_everywhere(w: World, ticks: Ticks) -> None:
    w.hypervisor.on_call = w.hypervisor.on_done = ticks.later
    inner = w.store.inner
    for verb in ("create", "replace", "get", "get_range", "delete", "info"):
        setattr(inner, verb, ticks.around(getattr(inner, verb)))
    for change in ("intend", "made", "note", "gone", "given"):
        method = ticks.around(getattr(w.node.ledger, change))
        setattr(w.node.ledger, change, method)


async def points_held(w: World) -> dict[str, dict[str, str]]:
    """Point → slot → SHA-256 of what a restore gives."""
    node = ReadingNode(w.node.settings, w.clock, w.node.repository, w.node.workers)
    held: dict[str, dict[str, str]] = {}
    for point in await w.node.repository.points():
        for slot in SLOTS:
            path = w.node.settings.state_dir / "restored"
            path.unlink(missing_ok=True)
            await restore_to_file(node, point, slot, path)
            held.setdefault(point.id, {})[slot] = hashlib.sha256(path.read_bytes()).hexdigest()
    return held


def main() -> None:
    # What mover imports only when it first logs: each child would pay for it anew.
    importlib.import_module("structlog")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 0
            try:
                asyncio.run(run(json.loads(line)))
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        ended = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
