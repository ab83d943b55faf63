"""The executor: runs ordered jobs durably, continues those that a crash cut off.

dbos is embedded here, on the loop that starts it, with one fixed version of the format
of jobs. Whoever runs it holds the executor's lock. Leaving the ``running`` block stops
jobs without ending them: the next executor continues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Never, TypeVar

from dbos import DBOS, DBOSConfig

from mover import logs
from mover.clock import Clock
from mover.errors import JobCancelled, JobError, MoverError, StateDamaged, StateFull
from mover.jobs.aside import aside
from mover.jobs.book import (
    APPLICATION,
    CANCEL_FOLDER,
    FORMAT_VERSION,
    QUEUE,
    WORKFLOW,
    outcome_of_error,
    prepare_database,
)
from mover.jobs.steps import Call, Cancellation, Operation, Values, first_of, side_by_side
from mover.metrics import JOBS, JOBS_RUNNING
from mover.room import trouble_by, trouble_of

Result = TypeVar("Result")
EXECUTOR = "executor"
"""The one of this state folder; the lock proves that the former one is dead."""
_QUEUE_POLL_S = 0.1
_CANCEL_POLL_S = 0.5
_ROOM_POLL_S = 5.0
_LOG = logs.get(__name__)
_OUTCOMES = ("done", "failed", "cancelled", "interrupted")


class DurableSteps:
    """``Steps`` by dbos: results are recorded by job and step number, and given again."""

    def __init__(self, job_id: str, cancellation: Cancellation, stop_for: Callable[[Exception], Awaitable[None]]):
        """stop_for: does not come back where the error is one of the state folder."""
        self._job_id = job_id
        self._cancellation = cancellation
        self._stop_for = stop_for

    @property
    def job_id(self) -> str:
        return self._job_id

    @property
    def cancellation(self) -> Cancellation:
        return self._cancellation

    async def step(self, name: str, function: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        try:
            return await DBOS.run_step_async({"name": name}, self._guarded(function), *arguments)
        except Exception as error:
            await self._stop_for(error)
            raise

    async def together(self, calls: Sequence[Call]) -> list[Any]:
        # Numbers are drawn here, in order: tasks reach their first line in any order.
        places = [DBOS.reserve_step() for _ in calls]
        works = [
            place.run_async({"name": call.name}, self._guarded(call.function), *call.arguments)
            for place, call in zip(places, calls, strict=True)
        ]
        try:
            return await side_by_side(works)
        except Exception as error:
            await self._stop_for(error)
            raise

    def _guarded(self, function: Callable[..., Awaitable[Result]]) -> Callable[..., Any]:
        # Inside the step, so that a job which is run again takes the same path up to it.
        async def guarded(*arguments: Any) -> Result:
            self._cancellation.check()
            try:
                return await function(*arguments)
            except Exception as error:
                # Before it is recorded as the step's outcome: the next start is to try again.
                await self._stop_for(error)
                raise

        return guarded


class Engine:
    """The running executor of one state folder."""

    def __init__(self, state_dir: Path, operations: Mapping[str, Operation], clock: Clock) -> None:
        self._state_dir = state_dir
        self._operations = dict(operations)
        self._clock = clock
        self._running: dict[str, tuple[asyncio.Task[Any], Cancellation]] = {}
        self._trouble: asyncio.Future[Never] = asyncio.get_running_loop().create_future()

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        state_dir: Path,
        operations: Mapping[str, Operation],
        *,
        side_by_side: int,
        clock: Clock,
    ) -> AsyncIterator[Engine]:
        """Execute jobs for the length of the block. The caller holds the executor's lock.

        operations: name → function; a function runs with ``Steps`` and gives JSON-able values.
        Once the state folder cannot be written, the block is cancelled and StateFull or StateDamaged raised;
        its jobs are left to be continued.
        """
        engine = cls(state_dir, operations, clock)
        for operation in operations:
            JOBS_RUNNING.labels(operation)
            for outcome in _OUTCOMES:
                # From nothing: the first of a kind must be seen as an increase.
                JOBS.labels(operation, outcome)
        threads = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            await engine._launch(side_by_side)
            async with asyncio.TaskGroup() as group:
                watching = [
                    group.create_task(watch)
                    for watch in (engine._watch_cancels(), engine._watch_room(), engine._fail_without_state())
                ]
                yield engine
                for task in watching:
                    task.cancel()
        except BaseExceptionGroup as errors:
            first = first_of(errors)
            raise trouble_by(state_dir, first) or first from None
        finally:
            await engine._stop(threads)
            threads.shutdown(wait=False)

    def is_running(self, job_id: str) -> bool:
        """True while this process works on the job."""
        return job_id in self._running

    @property
    def is_without_state(self) -> bool:
        """What the jobs did can be noted no more: the block is being left."""
        return self._trouble.done() and not self._trouble.cancelled()

    async def _launch(self, side_by_side: int) -> None:
        path = prepare_database(self._state_dir, is_executor=True)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": f"sqlite:////{path.relative_to('/')}",
            "application_version": FORMAT_VERSION,
            # Not the node's name: whoever renames the node would strand the jobs that are to be continued.
            "executor_id": EXECUTOR,
            # Below it speaks of each task that a failing sibling ends, and of a service of its makers.
            "log_level": "ERROR",
            "enable_otlp": False,
        }
        DBOS(config=config)
        DBOS.workflow(name=WORKFLOW)(self._workflow())
        DBOS.listen_queues([QUEUE])
        try:
            # On this loop: what the operations hold (sessions, connections) lives here.
            DBOS.launch()
            await DBOS.register_queue_async(QUEUE, worker_concurrency=side_by_side, polling_interval_sec=_QUEUE_POLL_S)
        except Exception as error:
            raise trouble_by(self._state_dir, error) or error from None

    def _workflow(self) -> Callable[[str, Values], Awaitable[Values]]:
        async def job(operation: str, request: Values) -> Values:
            identity = DBOS.workflow_id
            task = asyncio.current_task()
            assert identity is not None
            assert task is not None
            job_id = identity.rpartition("-")[0]
            cancellation = Cancellation()
            self._running[job_id] = (task, cancellation)
            try:
                # It stays until the book forgets the job: whoever runs this again, its end not noted, is to see it too.
                if await self._is_wished(job_id):
                    cancellation.wish()
                return await self._run(operation, request, DurableSteps(job_id, cancellation, self._stop_for))
            finally:
                self._running.pop(job_id, None)

        return job

    async def _run(self, operation: str, request: Values, steps: DurableSteps) -> Values:
        kind = operation if operation in self._operations else "unknown"
        JOBS_RUNNING.labels(kind).inc()
        outcome = "interrupted"
        try:
            with logs.bind(job=steps.job_id):
                values = await self._outcome(operation, request, steps)
            outcome = _outcome_of(values)
            return values
        finally:
            JOBS_RUNNING.labels(kind).dec()
            JOBS.labels(kind, outcome).inc()

    async def _outcome(self, operation: str, request: Values, steps: DurableSteps) -> Values:
        function = self._operations.get(operation)
        try:
            if function is None:
                raise JobError(
                    f"This version has no operation {operation!r}",
                    remedy="Cancel the job, or run the version that knows it.",
                )
            return {"result": await function(request, steps)}
        except JobCancelled as error:
            return outcome_of_error(error)
        except MoverError as error:
            _LOG.error("job failed", code=error.code, error=error.message, remedy=error.remedy)
            return outcome_of_error(error)
        except Exception as error:
            await self._stop_for(error)
            _LOG.exception("job failed by a fault of the program")
            fault = JobError(
                f"A fault of the program ended the job: {type(error).__name__}: {error}",
                remedy="Report it with the log; run the job again meanwhile.",
            )
            return outcome_of_error(fault)

    async def _is_wished(self, job_id: str) -> bool:
        try:
            return bool(await aside((self._state_dir / CANCEL_FOLDER / job_id).exists))
        except OSError:
            # No outcome of a job: what ails the state folder is told by who watches its room.
            return False

    async def _watch_cancels(self) -> None:
        while True:
            for job_id, (_, cancellation) in list(self._running.items()):
                if await self._is_wished(job_id):
                    cancellation.wish()
            await self._clock.sleep(_CANCEL_POLL_S)

    async def _watch_room(self) -> None:
        """Before a database finds out: then something is half done."""
        while not (trouble := await aside(partial(trouble_of, self._state_dir))):
            await self._clock.sleep(_ROOM_POLL_S)
        self._lose(trouble)

    async def _fail_without_state(self) -> None:
        await self._trouble

    async def _stop_for(self, error: Exception) -> None:
        """Does not come back where the state folder failed: like a stop, that is no outcome of a job."""
        trouble = trouble_by(self._state_dir, error)
        if trouble is not None:
            self._lose(trouble)
            await asyncio.Event().wait()

    def _lose(self, trouble: StateFull | StateDamaged) -> None:
        if not self._trouble.done():
            self._trouble.set_exception(trouble)

    async def _stop(self, threads: ThreadPoolExecutor) -> None:
        # Cancelled tasks record nothing, so the jobs stay to be continued.
        tasks = [task for task, _ in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A job that is taken up only now fails before its first line, unrecorded, in a traceback that means nothing.
        logging.getLogger("dbos").setLevel(logging.CRITICAL)
        await asyncio.get_running_loop().run_in_executor(threads, lambda: DBOS.destroy(destroy_registry=True))


def _outcome_of(values: Values) -> str:
    if "error" not in values:
        return "done"
    return "cancelled" if values["error"]["code"] == JobCancelled.code else "failed"
