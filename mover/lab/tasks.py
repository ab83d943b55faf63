"""One task engine for all APIs: orders that survive a restart, their run, and how they look.

A task's order is written down before the call that made it is answered; what a killed
lab had not finished is done at its next start, under the same UUIDs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from mover.clock import Clock, iso
from mover.errors import LabError
from mover.lab.answers import Json, Refusal, Stuck, TaskFailure, missing
from mover.lab.faults import Faults
from mover.lab.options import LabOptions
from mover.lab.state import State, TaskRecord

Effect = Callable[[dict[str, Any]], Awaitable[None]]
Spawn = Callable[[Coroutine[Any, Any, None]], None]


class TaskBook:
    """Starts, runs and shows tasks. Tasks of one entity run one after the other."""

    def __init__(
        self, state: State, options: LabOptions, faults: Faults, clock: Clock, save: Callable[[], None], spawn: Spawn
    ) -> None:
        self._state = state
        self._options = options
        self._faults = faults
        self._clock = clock
        self._save = save
        self._spawn = spawn
        self._effects: dict[str, Effect] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._stuck: set[str] = set()
        self._news = asyncio.Condition()

    def register(self, effects: dict[str, Effect]) -> None:
        self._effects.update(effects)

    def start(
        self,
        operation: str,
        kind: str,
        order: str,
        args: dict[str, Any],
        entities: list[tuple[str, str, str]],
        *,
        turn: str,
    ) -> TaskRecord:
        """Write the order down and run it soon. entities: (kind, uuid, name). turn: whose tasks queue up."""
        task = TaskRecord(
            uuid=self._clock.new_uuid(),
            operation=operation,
            kind=kind,
            turn=turn,
            order=order,
            args=args,
            unseen_gets=self._options.unseen_task_gets,
            entities=entities,
            created_at=self.now(),
        )
        self._state.tasks[task.uuid] = task
        self._purge()
        self._spawn(self._run(task))
        return task

    def turn(self, uuid: str) -> asyncio.Lock:
        """Held while something about this VM changes."""
        return self._turns.setdefault(uuid, asyncio.Lock())

    def resume(self) -> None:
        """Go on with what was unfinished when the lab ended."""
        for task in list(self._state.tasks.values()):
            if not task.is_done:
                self._spawn(self._run(task))

    def now(self) -> float:
        return self._clock.now() + self._options.clock_skew_s

    async def _run(self, task: TaskRecord) -> None:
        about = {text for entity in task.entities for text in entity} | _texts(task.args)
        bites = self._faults.take("task", task.operation, about)
        if "task_lost" in bites:
            task.is_lost = True
        async with self.turn(task.turn):
            await self._clock.sleep(self._options.task_delay_s + bites.get("task_slow", {}).get("seconds", 0.0))
            task.status, task.started_at = "RUNNING", self.now()
            if "task_stuck" in bites:
                self._stuck.add(task.uuid)
            else:
                await self._finish(task, bites)
        self._save()
        async with self._news:
            self._news.notify_all()

    async def _finish(self, task: TaskRecord, bites: dict[str, dict[str, Any]]) -> None:
        try:
            if "task_aborts" in bites:
                task.error_detail = bites["task_aborts"]["detail"]
                task.status = "ABORTED"
                return
            if "task_fails" in bites:
                raise TaskFailure(bites["task_fails"]["detail"])
            await self._effects[task.order](task.args)
            if "task_fails_after_effect" in bites:
                raise TaskFailure(bites["task_fails_after_effect"]["detail"])
            task.status = "SUCCEEDED"
        except TaskFailure as failure:
            task.status, task.error_code, task.error_detail = "FAILED", failure.code, failure.detail
        except Stuck:
            self._stuck.add(task.uuid)
        except LabError as failure:
            task.status, task.error_code, task.error_detail = "FAILED", 1, f"kInternalError: {failure.message}"
        except OSError as failure:
            # A file that a concurrent deletion took away: on a real cluster a failed task, too.
            task.status, task.error_code, task.error_detail = "FAILED", 1, f"kInternalError: {failure.strerror}"
        finally:
            if task.is_done:
                task.completed_at = self.now()

    def is_busy(self) -> bool:
        """Whether a task is still to end; those that never will do not count."""
        return any(not task.is_done and task.uuid not in self._stuck for task in self._state.tasks.values())

    def _purge(self) -> None:
        done = [uuid for uuid, task in self._state.tasks.items() if task.is_done]
        for uuid in done[: max(0, len(self._state.tasks) - self._options.purge_tasks_over)]:
            del self._state.tasks[uuid]

    # --- looking ------------------------------------------------------------------------

    def get(self, uuid: str) -> TaskRecord:
        """Raises Refusal 404."""
        task = self._state.tasks.get(uuid.lower())
        if task is not None and task.unseen_gets:
            task.unseen_gets -= 1
            task = None
        if task is None or task.is_lost:
            raise missing("task", uuid)
        return task

    def all(self) -> list[TaskRecord]:
        """Newest first."""
        return [task for task in reversed(self._state.tasks.values()) if not task.is_lost]

    async def poll(self, uuids: Iterable[str], *, timeout_s: float, until_all: bool) -> list[TaskRecord]:
        """The completed ones among them: as soon as one (all) of them is, or at the time-out."""
        wanted = [self.get(uuid) for uuid in uuids]
        if not wanted:
            raise Refusal(422, "INVALID_REQUEST", "no task to poll")
        enough = len(wanted) if until_all else 1
        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(lambda: sum(task.is_done for task in wanted) >= enough)
        except TimeoutError:
            pass
        return [task for task in wanted if task.is_done]


def _texts(args: Any) -> set[str]:
    """All strings in an order, for matching faults."""
    if isinstance(args, dict):
        return {text for value in args.values() for text in _texts(value)}
    if isinstance(args, list):
        return {text for value in args for text in _texts(value)}
    return {args} if isinstance(args, str) else set()


_V2_ENTITIES = {"vm": "VM", "vm_snapshot": "SNAPSHOT", "snapshot": "SNAPSHOT"}
_KIND_METHODS = {
    "VmDiskCreate": "VmAttachDisk",
    "VmDiskDelete": "VmDetachDisk",
    "VmSetPowerState": "VmChangePowerState",
}


def as_v2(task: TaskRecord, cluster_uuid: str) -> Json:
    body: Json = {
        "uuid": task.uuid,
        "cluster_uuid": cluster_uuid,
        "operation_type": task.kind,
        "progress_status": task.status.capitalize(),
        "percentage_complete": _percent(task),
        "message": task.error_detail,
        "create_time_usecs": _usecs(task.created_at),
        "last_updated_time_usecs": _usecs(task.completed_at or task.started_at or task.created_at),
        "entity_list": [
            {"entity_id": uuid, "entity_type": _V2_ENTITIES[kind], "entity_name": name}
            for kind, uuid, name in task.entities
        ],
        "meta_request": {"method_name": _KIND_METHODS.get(task.kind, task.kind)},
        "subtask_uuid_list": [],
    }
    if task.started_at is not None:
        body["start_time_usecs"] = _usecs(task.started_at)
    if task.completed_at is not None:
        body["complete_time_usecs"] = _usecs(task.completed_at)
        body["meta_response"] = {"error_code": task.error_code, "error_detail": task.error_detail}
    return body


def as_v3(task: TaskRecord, cluster_uuid: str) -> Json:
    body: Json = {
        "api_version": "3.1",
        "uuid": task.uuid,
        "status": task.status,
        "percentage_complete": _percent(task),
        "operation_type": task.kind,
        "progress_message": task.kind,
        "creation_time": iso(task.created_at),
        "creation_time_usecs": _usecs(task.created_at),
        "last_update_time": iso(task.completed_at or task.started_at or task.created_at),
        "logical_timestamp": 1 + task.is_done,
        "entity_reference_list": [{"kind": kind, "uuid": uuid} for kind, uuid, _ in task.entities],
        "cluster_reference": {"kind": "cluster", "uuid": cluster_uuid},
        "subtask_reference_list": [],
    }
    if task.started_at is not None:
        body["start_time"], body["start_time_usecs"] = iso(task.started_at), _usecs(task.started_at)
    if task.completed_at is not None:
        body["completion_time"], body["completion_time_usecs"] = iso(task.completed_at), _usecs(task.completed_at)
    if task.error_detail:
        body["error_code"], body["error_detail"] = "INTERNAL_ERROR", task.error_detail
    return body


def _percent(task: TaskRecord) -> int:
    return 100 if task.is_done else 50 if task.status == "RUNNING" else 0


def _usecs(timestamp: float) -> int:
    return int(timestamp * 1_000_000)
