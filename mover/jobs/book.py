"""The book of jobs: what was ordered, what runs, how it ended. For executor and clients alike.

One file per state folder, kept by dbos. Reading and ordering need no executor; running
does (``engine``). A job's identity is sixteen hexadecimal digits; each attempt at it is a
line of its own, ``<job>-<attempt>``.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient

from mover import SQLITE_LEAST
from mover.clock import Clock
from mover.errors import (
    AmbiguousName,
    ConfigError,
    JobError,
    MoverError,
    StateDamaged,
    StateFull,
    UsageError,
    all_errors,
)
from mover.jobs.steps import Values
from mover.room import driver_error, make_folder, trouble_of, unusable

APPLICATION = "mover"
# Recovery takes only jobs of the same version, so it names the format of jobs, not of the software.
FORMAT_VERSION = "jobs-1"
WORKFLOW = "mover.job"
QUEUE = "jobs"
DATABASE_NAME = "jobs.sqlite"
CANCEL_FOLDER = "cancel"
_POLL_S = 0.1
_LOST = (
    "mover orphans --apply. Lost is the history of jobs, and the jobs that waited or were to be continued: what those "
    "left on a cluster stands in the ledger and is removed. Restore points do not depend on it."
)
Result = TypeVar("Result")


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    """Running, or to be continued by the next executor."""
    DONE = "done"
    FAILED = "failed"


ACTIVE = (JobState.QUEUED, JobState.RUNNING)
_ACTIVE = ["PENDING", "ENQUEUED", "DELAYED"]
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
"""In dbos's words."""
LISTED = 100
"""Jobs in a list: more would scroll away."""
_KEPT = 10_000
"""Attempts that have ended, however young: some 35 KiB each in the state folder."""
_PRUNED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a job, as the book has it. Times are Unix seconds."""

    id: str
    attempt: int
    operation: str
    request: Mapping[str, Any]
    state: JobState
    created_at: float
    changed_at: float
    result: Values | None = None
    error: MoverError | None = None
    is_ending: bool = False
    """Has not ended, but somebody asked it to."""

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


class JobBook:
    """Order, list, await and cancel jobs. Blocking calls run on its own thread."""

    def __init__(self, state_dir: Path, *, clock: Clock) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._path = prepare_database(state_dir)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._client: DBOSClient | None = None

    async def submit(self, operation: str, request: Mapping[str, Any], *, job_id: str | None = None) -> str:
        """Order a job; durable on return. Gives its id."""
        job_id = job_id or self._clock.new_uuid().replace("-", "")[:16]
        await self._call(self._enqueue, job_id, 1, operation, dict(request))
        return job_id

    async def retry(self, job_id: str) -> str:
        """Order another attempt at a job that failed. Raises UsageError if it did not."""
        job = await self.job(job_id)
        if job.state is not JobState.FAILED:
            raise UsageError(
                f"Job {job.id} is {job.state}, so there is nothing to repeat",
                remedy="See the jobs and their states with: mover job list",
            )
        await self._call(self._unwish, job.id)
        await self._call(self._enqueue, job.id, job.attempt + 1, job.operation, dict(job.request))
        return job.id

    async def cancel(self, job_id: str) -> None:
        """Ask a job to end in order; the executor sees it within a second."""
        job = await self.job(job_id)
        await self._call(self._make_wish, job.id)

    async def job(self, job_id: str) -> Job:
        """The newest attempt at a job, by its id or the beginning of it. Raises UsageError, AmbiguousName."""
        found = await self.jobs(job_id) if job_id else []
        ids = sorted({job.id for job in found})
        if not found:
            raise UsageError(f"There is no job {job_id!r}", remedy="See the jobs with: mover job list")
        if len(ids) > 1:
            raise AmbiguousName(
                f"{job_id} begins the ids of {len(ids)} jobs",
                remedy=f"Write more of it: {', '.join(ids[:5])}.",
                ids=ids,
            )
        return found[0]

    async def jobs(self, job_id: str | None = None, *, limit: int = LISTED) -> list[Job]:
        """Newest first, so many at most."""
        return await self._call(self._list, job_id, limit)

    async def active(self) -> set[str]:
        """Ids of jobs that are queued, running, or to be continued."""
        return await self._call(self._active)

    async def unfinished(self) -> list[Job]:
        """Those jobs, in the order of their ids."""
        found = [await self.job(job_id) for job_id in sorted(await self.active())]
        return [job for job in found if job.is_active]

    async def prune(self, *, older_than_s: float) -> None:
        """Forget attempts that ended so long ago, and all but the newest ten thousand that ended."""
        before = datetime.fromtimestamp(self._clock.now() - older_than_s, UTC).isoformat()
        for which in ({"completed_before": before}, {"offset": _KEPT, "sort_desc": True}):
            # A call each: who asks or orders meanwhile comes in between.
            while await self._call(self._prune_some, which):
                pass

    async def wait(self, job_id: str) -> Job:
        """The job once it has ended (well or not)."""
        while True:
            job = await self.job(job_id)
            if not job.is_active:
                return job
            await self._clock.sleep(_POLL_S)

    async def close(self) -> None:
        """Let go of the file."""
        if self._client is not None:
            await self._call(self._client.destroy)
            self._client = None
        self._threads.shutdown(wait=False)

    async def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except Exception as error:
            cause = driver_error(error)
            if cause is not None:
                raise _unusable(self._path, cause) from error
            raise

    def _book(self) -> DBOSClient:
        if self._client is None:
            url = f"sqlite:////{self._path.relative_to('/')}"
            # A client does not make the tables, and no executor may have run here yet.
            DBOS.migrate(url)
            self._client = DBOSClient(system_database_url=url)
        return self._client

    def _enqueue(self, job_id: str, attempt: int, operation: str, request: Values) -> None:
        self._book().enqueue(
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": f"{job_id}-{attempt}",
                "app_version": FORMAT_VERSION,
                "application_name": APPLICATION,
            },
            operation,
            request,
        )

    def _list(self, job_id: str | None, limit: int) -> list[Job]:
        rows = self._book().list_workflows(name=WORKFLOW, workflow_id_prefix=job_id, limit=limit, sort_desc=True)
        return sorted(map(self._marked, map(_job, rows)), key=lambda job: (job.created_at, job.attempt), reverse=True)

    def _marked(self, job: Job) -> Job:
        if not job.is_active:
            return job
        with suppress(OSError):  # who makes or removes a wish says what ails the folder
            return replace(job, is_ending=self._wish(job.id).exists())
        return job

    def _active(self) -> set[str]:
        return {name.rpartition("-")[0] for name in self._names(_ACTIVE)}

    def _prune_some(self, which: Mapping[str, Any]) -> bool:
        if names := self._names(_ENDED, limit=_PRUNED_AT_ONCE, **which):
            self._book().delete_workflows(names)
        for job_id in {name.rpartition("-")[0] for name in names}:
            self._forget_wish(job_id)
        return bool(names)

    def _make_wish(self, job_id: str) -> None:
        wish = self._wish(job_id)
        with _changing_a_wish(self._state_dir):
            wish.parent.mkdir(parents=True, exist_ok=True)
            wish.touch()

    def _unwish(self, job_id: str) -> None:
        with _changing_a_wish(self._state_dir):
            self._wish(job_id).unlink(missing_ok=True)

    def _forget_wish(self, job_id: str) -> None:
        wish = self._wish(job_id)
        with suppress(OSError):  # an empty file that nobody reads any more
            if wish.exists() and not self._names([*_ACTIVE, *_ENDED], workflow_id_prefix=f"{job_id}-", limit=1):
                wish.unlink()

    def _wish(self, job_id: str) -> Path:
        return self._state_dir / CANCEL_FOLDER / job_id

    def _names(self, states: list[str], **which: Any) -> list[str]:
        rows = self._book().list_workflows(name=WORKFLOW, status=states, load_input=False, load_output=False, **which)
        return [row.workflow_id for row in rows]


def prepare_database(state_dir: Path, *, is_executor: bool = False) -> Path:
    """Make the file and set it to write-ahead logging, once: that persists, and doubles its speed.

    Raises ConfigError for a SQLite that is too old or a folder that cannot be made, StateDamaged for a file that is no
    database, or is cut short; an executor looks at every page (15 ms for 2,000 jobs), since what it runs must not end
    at one that is damaged.
    """
    if sqlite3.sqlite_version_info < SQLITE_LEAST:
        raise ConfigError(
            f"This Python's SQLite is {sqlite3.sqlite_version}; jobs need {'.'.join(map(str, SQLITE_LEAST))} or newer",
            remedy="Install pysqlite3 beside mover (pip install pysqlite3), or run a Python with a newer SQLite.",
        )
    make_folder(state_dir)
    path = (state_dir / DATABASE_NAME).resolve()
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            told = connection.execute("PRAGMA quick_check(1)" if is_executor else "PRAGMA schema_version").fetchone()[0]
            if is_executor and told != "ok":
                raise sqlite3.DatabaseError(told)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise _unusable(path, error) from error
    return path


def _unusable(path: Path, error: sqlite3.DatabaseError) -> StateDamaged | StateFull:
    return unusable(path, "The book of jobs", _LOST, error)


@contextmanager
def _changing_a_wish(state_dir: Path) -> Iterator[None]:
    """Raises StateFull, StateDamaged where the file of a wish to cancel cannot be made or removed."""
    try:
        yield
    except OSError as error:
        raise trouble_of(state_dir) or StateDamaged(
            f"A wish to cancel a job can be neither made nor taken back, {error.filename}: {error.strerror}",
            remedy="Look at its rights, its file system and the kernel's log; then run the command again.",
            file=str(error.filename),
        ) from error


def outcome_of_error(error: MoverError) -> Values:
    """What the book keeps of a job that failed."""
    return {"error": error.as_dict()}


def revive(values: Mapping[str, Any]) -> MoverError:
    """The error that ``as_dict`` described."""
    kind = next((kind for kind in all_errors() if kind.code == values["code"]), JobError)
    return kind(
        values["message"], remedy=values["remedy"], retryable=values["retryable"], **dict(values.get("facts") or {})
    )


def _job(row: Any) -> Job:
    job_id, _, attempt = row.workflow_id.rpartition("-")
    operation, request = row.input["args"][:2]
    outcome = row.output if isinstance(row.output, dict) else {}
    error = revive(outcome["error"]) if "error" in outcome else None
    state = {"ENQUEUED": JobState.QUEUED, "DELAYED": JobState.QUEUED, "PENDING": JobState.RUNNING}.get(row.status)
    if state is None:
        state = JobState.DONE if row.status == "SUCCESS" and error is None else JobState.FAILED
    if state is JobState.FAILED and error is None:
        error = JobError(
            f"Job {job_id} ended as {row.status} without a result", remedy="Run it again; see the log for why."
        )
    return Job(
        id=job_id,
        attempt=int(attempt),
        operation=operation,
        request=request,
        state=state,
        created_at=(row.created_at or 0) / 1000,
        changed_at=(row.updated_at or 0) / 1000,
        result=outcome.get("result"),
        error=error,
    )
