"""Waiting for Prism's tasks: v2 by long poll, v3 by looking."""

from __future__ import annotations

from typing import Any

from mover.errors import EffectUnknown, HypervisorUnreachable, NotFound, RequestRefused, TaskFailed
from mover.hypervisor.nutanix.answers import message_of
from mover.hypervisor.nutanix.reading import Json, items, number, strings, text, uuid, word
from mover.hypervisor.nutanix.session import Session

_LONG_POLL_S = 20
_FIRST_LOOK_S = 0.1
_LONGEST_LOOK_S = 5.0
# A task may not be known yet right after the call that made it (reference, section 6.1).
_UNKNOWN_GRACE_S = 15.0

_ENDED_WELL = {"SUCCEEDED"}
_ENDED_BADLY = {"FAILED", "ABORTED", "CANCELED", "CANCELLED"}


async def wait_for_v2(session: Session, answer: Any, *, what: str) -> Json:
    """Wait for the task that a v2 change answered with; returns its record.

    Raises TaskFailed (ended FAILED or ABORTED), EffectUnknown (no task in the answer, or
    not ended in ``task_timeout``: it may still take effect).
    """
    task_uuid = uuid(answer, "task_uuid")
    if not task_uuid:
        raise _unknown(what, "", "Prism's answer names no task")
    return await _wait(_V2Tasks(session), task_uuid, what)


async def wait_for_v3(session: Session, answer: Any, *, what: str) -> Json | None:
    """The same for a v3 change; None when the answer names no task (then look at the entity itself)."""
    named = strings(answer, "status", "execution_context", "task_uuid")
    named += strings(answer, "status", "execution_context", "task_uuids") + strings(answer, "task_uuid")
    if not named:
        return None
    return await _wait(_V3Tasks(session), named[0].lower(), what)


async def _wait(tasks: _V2Tasks | _V3Tasks, task_uuid: str, what: str) -> Json:
    clock = tasks.session.clock
    deadline = clock.monotonic() + tasks.session.task_timeout_s
    grace = clock.monotonic() + _UNKNOWN_GRACE_S
    pause_s = _FIRST_LOOK_S
    while True:
        task = await tasks.look(task_uuid)
        status = tasks.status(task)
        if status in _ENDED_WELL:
            return task or {}
        if status in _ENDED_BADLY:
            raise _failed(what, task_uuid, status, await tasks.explain(task or {}))
        now = clock.monotonic()
        if task is None and now >= grace:
            raise _unknown(what, task_uuid, "Prism does not know its own task")
        if now >= deadline:
            raise _unknown(what, task_uuid, f"its task has not ended in {tasks.session.task_timeout_s:.0f} s")
        await clock.sleep(pause_s)
        pause_s = min(pause_s * 2, tasks.longest_pause_s)


class _V2Tasks:
    """The long poll as long as it is believed to exist: a refusal disproves it only while the task is known."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._poll_s = max(1, min(_LONG_POLL_S, int(session.call_timeout_s * 0.6)))
        self._has_poll, self._is_known = True, True

    @property
    def longest_pause_s(self) -> float:
        """Short while the long poll itself waits."""
        return 1.0 if self._has_poll else _LONGEST_LOOK_S

    async def look(self, task_uuid: str) -> Json | None:
        """The record, after a long poll where the interface has one; None: not known."""
        is_refused = False
        # A poll for a task that is not known (yet) may fail for that reason alone: not asked until it is.
        if self._has_poll and self._is_known:
            try:
                for task in items(await self._poll(task_uuid), "completed_tasks_info"):
                    if uuid(task, "uuid") == task_uuid:
                        return task
            except (NotFound, RequestRefused, HypervisorUnreachable) as refused:
                if isinstance(refused, HypervisorUnreachable) and refused.facts.get("status") != 500:
                    raise
                is_refused = True
        try:
            found = await self.session.get("v2", f"tasks/{task_uuid}")
        except NotFound:
            self._is_known = False
            return None
        self._is_known = True
        self._has_poll = self._has_poll and not is_refused
        return found if isinstance(found, dict) else {}

    async def _poll(self, task_uuid: str) -> Any:
        body = {"completed_tasks": [task_uuid], "timeout_interval": self._poll_s}
        return await self.session.post("v2", "tasks/poll", body, timeout_s=self._poll_s + self.session.call_timeout_s)

    def status(self, task: Json | None) -> str:
        return word(task, "progress_status")

    async def explain(self, task: Json) -> str:
        said = text(task, "meta_response", "error_detail") or text(task, "message")
        code = number(task, "meta_response", "error_code")
        return f"{said} (code {code})" if code else said


class _V3Tasks:
    longest_pause_s = _LONGEST_LOOK_S

    def __init__(self, session: Session) -> None:
        self.session = session

    async def look(self, task_uuid: str) -> Json | None:
        try:
            task = await self.session.get("v3", f"tasks/{task_uuid}")
        except NotFound:
            return None
        return task if isinstance(task, dict) else {}

    def status(self, task: Json | None) -> str:
        return word(task, "status")

    async def explain(self, task: Json) -> str:
        """Its own words; a Central leaves them to the sub-tasks."""
        said = text(task, "error_detail") or message_of(task)
        if said:
            return said
        for below in items(task, "subtask_reference_list"):
            subtask = await self.look(uuid(below, "uuid"))
            if text(subtask, "error_detail"):
                return text(subtask, "error_detail")
        return text(task, "error_code")


def _failed(what: str, task_uuid: str, status: str, said: str) -> TaskFailed:
    return TaskFailed(
        f"{what}: Prism's task ended {status}: {said or 'without an explanation'}",
        remedy=f"Look at task {task_uuid} in Prism, remove the cause, and run the command again.",
        task_uuid=task_uuid,
        status=status,
        detail=said,
    )


def _unknown(what: str, task_uuid: str, why: str) -> EffectUnknown:
    return EffectUnknown(
        f"{what}: {why}; whether it took effect is not known",
        remedy="Nothing is sent twice: `mover orphans` looks what became of it.",
        task_uuid=task_uuid,
    )
