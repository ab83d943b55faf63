"""The executor: jobs are durable, errors come back as themselves, a stop loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from mover import room
from mover.errors import (
    AmbiguousName,
    JobCancelled,
    JobError,
    NoSuchVm,
    StateDamaged,
    StateFolderBusy,
    StateFull,
    UsageError,
)
from mover.jobs import engine
from mover.jobs.aside import aside
from mover.jobs.book import JobState
from mover.jobs.lock import executor_lock, executor_pid
from mover.jobs.steps import Call, Cancellation, side_by_side
from mover.metrics import REGISTRY
from tests.support.jobs import opened_book, running


async def double(value):
    return value * 2


async def add_up(request, steps):
    first = await steps.step("first", double, request["value"])
    rest = await steps.together([Call(f"part-{i}", double, (i,)) for i in range(4)])
    return {"sum": first + sum(rest)}


async def refuse(request, steps):
    raise NoSuchVm("no VM x", remedy="see", near=["y"])


async def break_down(request, steps):
    raise RuntimeError("fault")


@pytest.fixture
async def book(tmp_path):
    async with opened_book(tmp_path) as opened:
        yield opened


async def test_jobs_end_as_their_operations_do(tmp_path, book):
    async with running(tmp_path, add=add_up, refuse=refuse, fault=break_down):
        good = await book.submit("add", {"value": 5})
        bad = await book.submit("refuse", {})
        broken = await book.submit("fault", {})
        unknown = await book.submit("nothing", {})
        done, failed = await book.wait(good), await book.wait(bad)
        assert (done.state, done.result) == (JobState.DONE, {"sum": 22})
        assert failed.state is JobState.FAILED
        assert isinstance(failed.error, NoSuchVm)
        assert (failed.error.message, failed.error.facts) == ("no VM x", {"near": ["y"]})
        assert "RuntimeError: fault" in str((await book.wait(broken)).error)
        assert "no operation" in str((await book.wait(unknown)).error)
        assert await book.active() == set()
        await book.retry(bad)
        assert (await book.wait(bad)).attempt == 2
        with pytest.raises(UsageError):
            await book.retry(good)


async def test_jobs_are_counted_by_how_they_ended(tmp_path, book):
    """A cancelled one is no failure; an operation that nobody knows gets no label of its own."""

    async def hold(request, steps):
        await steps.cancellation.unless(asyncio.Event().wait())

    def counted():
        outcomes = ("done", "failed", "cancelled", "interrupted")
        labels = [{"operation": "counted", "outcome": outcome} for outcome in outcomes]
        labels.append({"operation": "unknown", "outcome": "failed"})
        return [REGISTRY.get_sample_value("mover_jobs_total", each) or 0 for each in labels]

    async with running(tmp_path, counted=hold):
        before = counted()
        assert REGISTRY.get_sample_value("mover_jobs_total", {"operation": "counted", "outcome": "failed"}) == before[1]
        job, unknown = await book.submit("counted", {}), await book.submit("nothing", {})
        await book.cancel(job)
        await book.wait(job)
        await book.wait(unknown)
        assert [now - then for now, then in zip(counted(), before, strict=True)] == [0, 0, 1, 0, 1]


async def test_a_stopped_executor_leaves_its_job_to_the_next(tmp_path, book):
    entered, calls = asyncio.Event(), []

    async def once():
        calls.append("once")
        return 1

    async def hold():
        entered.set()
        await asyncio.Event().wait()

    async def go_on():
        return 2

    async def job(request, steps):
        return {"values": [await steps.step("once", once), await steps.step("second", second)]}

    second = hold
    async with running(tmp_path, job=job) as executor:
        job_id = await book.submit("job", {})
        await entered.wait()
    assert await book.active() == {job_id}
    assert not executor.is_without_state
    second = go_on
    async with running(tmp_path, job=job):
        assert (await book.wait(job_id)).result == {"values": [1, 2]}
    assert calls == ["once"]


async def test_a_job_that_comes_as_the_executor_stops_is_no_error(tmp_path, monkeypatch):
    """It fails before its first line, and nothing of it is recorded: it is left to the next."""
    said, library, destroy = [], logging.getLogger("dbos"), engine.DBOS.destroy

    def late(**how):
        library.error("Exception encountered in asynchronous workflow")
        destroy(**how)

    monkeypatch.setattr(engine.DBOS, "destroy", late)
    async with running(tmp_path):
        listener = logging.Handler()
        listener.emit = said.append
        library.addHandler(listener)
        library.error("a")
    library.removeHandler(listener)
    assert [record.msg for record in said] == ["a"]
    async with running(tmp_path):
        assert library.isEnabledFor(logging.ERROR)


async def test_a_cancelled_job_ends_in_order(tmp_path, book):
    entered, cleaned = asyncio.Event(), []

    async def job(request, steps):
        async def long():
            entered.set()
            await steps.cancellation.unless(asyncio.Event().wait())

        try:
            await steps.step("long", long)
        except Exception:
            cleaned.append("clean")
            raise
        return {}

    async with running(tmp_path, job=job):
        job_id = await book.submit("job", {})
        await entered.wait()
        await book.cancel(job_id)
        ended = await book.wait(job_id)
    assert isinstance(ended.error, JobCancelled)
    assert cleaned == ["clean"]


async def test_the_error_of_the_block_is_raised_as_itself(tmp_path):
    with pytest.raises(NoSuchVm):
        async with running(tmp_path):
            raise NoSuchVm("x", remedy="y")


async def test_an_unknown_job_is_refused(book):
    for name in ("feed", ""):
        with pytest.raises(UsageError, match="no job"):
            await book.cancel(name)


async def test_a_job_is_known_by_the_beginning_of_its_id(book, tmp_path):
    for job_id in ("abcd000000000001", "abef000000000002"):
        await book.submit("job", {}, job_id=job_id)
    with pytest.raises(AmbiguousName, match="2 jobs"):
        await book.cancel("ab")
    await book.cancel("abe")
    assert [path.name for path in (tmp_path / "cancel").iterdir()] == ["abef000000000002"]


def test_one_executor_per_folder(tmp_path):
    with executor_lock(tmp_path):
        assert executor_pid(tmp_path) == os.getpid()
        with pytest.raises(StateFolderBusy, match=str(os.getpid())), executor_lock(tmp_path):
            pass
    assert executor_pid(tmp_path) is None


def test_a_killed_executor_frees_its_folder(tmp_path):
    program = (
        "import sys, pathlib, mover.jobs.lock as lock\n"
        "with lock.executor_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert executor_pid(tmp_path) == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
    with executor_lock(tmp_path):
        assert executor_pid(tmp_path) == os.getpid()


async def test_the_first_error_of_several_is_raised_and_ends_the_rest():
    ended = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("wait")

    async def fail():
        raise JobError("first", remedy="r")

    with pytest.raises(JobError, match="first"):
        await side_by_side([wait(), fail(), wait()])
    assert ended == ["wait", "wait"]


async def test_a_wish_to_cancel_breaks_off_a_long_wait():
    cancellation = Cancellation()
    assert await cancellation.unless(double(2)) == 4
    with pytest.raises(JobError, match="inner"):
        await cancellation.unless(_raise(JobError("inner", remedy="r")))
    cancellation.wish()
    with pytest.raises(JobCancelled):
        await cancellation.unless(asyncio.Event().wait())
    with pytest.raises(JobCancelled):
        cancellation.check()


async def _raise(error):
    raise error


# --- a state folder that cannot be written any more ---


async def stopped_and_continued(folder, book, step, make_well):
    """A job whose step (or its record) fails with the state folder is no failure: the next executor runs it."""

    async def job(request, steps):
        return {"value": await steps.step("first", step)}

    error = None
    try:
        async with running(folder, job=job) as executor:
            job_id = await book.submit("job", {})
            try:
                await asyncio.Event().wait()
            finally:
                assert executor.is_without_state
    except (StateFull, StateDamaged) as caught:
        error = caught
    assert await book.active() == {job_id}
    make_well()
    async with running(folder, job=job):
        assert (await book.wait(job_id)).result == {"value": 1}
    return error


async def test_a_full_state_folder_stops_the_executor_and_no_job_fails(tmp_path, book, monkeypatch):
    trouble = []

    async def step():
        if not trouble:
            trouble.append(StateFull("no room", remedy="Make room."))
            await asyncio.Event().wait()
        return 1

    monkeypatch.setattr(engine, "trouble_of", lambda folder: trouble[-1] if trouble else None)
    monkeypatch.setattr(engine, "_ROOM_POLL_S", 0.01)
    error = await stopped_and_continued(tmp_path, book, step, lambda: trouble.append(None))
    assert isinstance(error, StateFull)


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_a_database_that_fails_within_a_step_stops_the_executor(tmp_path, book, is_wrapped):
    is_ill = True

    async def step():
        if not is_ill:
            return 1
        error = sqlite3.OperationalError("disk I/O error")
        raise Wrapped(error) if is_wrapped else error

    def make_well():
        nonlocal is_ill
        is_ill = False

    error = await stopped_and_continued(tmp_path, book, step, make_well)
    assert isinstance(error, StateDamaged)
    assert error.retryable
    assert "disk I/O error" in error.message


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_database_that_fails_beside_the_jobs_is_told_in_words(tmp_path, monkeypatch, is_full):
    """The daemon's own tasks read and write there, too: before the watch of the room looks again."""

    async def daemon():
        async with running(tmp_path), asyncio.TaskGroup() as group:
            short = StateFull("no room", remedy="Make room.") if is_full else None
            monkeypatch.setattr(room, "trouble_of", lambda folder: short)
            group.create_task(_raise(Wrapped(sqlite3.OperationalError("database or disk is full"))))

    with pytest.raises(StateFull if is_full else StateDamaged):
        await daemon()


async def test_damage_in_a_database_is_nothing_to_wait_out(tmp_path):
    async def daemon():
        async with running(tmp_path), asyncio.TaskGroup() as group:
            group.create_task(_raise(Wrapped(sqlite3.DatabaseError("database disk image is malformed"))))

    with pytest.raises(StateDamaged, match="malformed") as caught:
        await daemon()
    assert not caught.value.retryable


async def test_without_a_thread_for_the_look_nothing_is_known_of_the_state_folder(monkeypatch):
    def no_more(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert await aside(lambda: "looked") is None


async def test_what_a_look_raises_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        await aside((tmp_path / "absent").stat)


async def test_a_wrong_statement_is_a_fault_of_the_program(tmp_path, book):
    async def step():
        raise sqlite3.IntegrityError("UNIQUE constraint failed")

    async def job(request, steps):
        await steps.step("first", step)

    async with running(tmp_path, job=job):
        assert "A fault of the program" in str((await book.wait(await book.submit("job", {}))).error)


class Wrapped(Exception):
    """As SQL libraries do it."""

    def __init__(self, orig):
        super().__init__(str(orig))
        self.orig = orig


async def test_a_state_folder_that_hangs_holds_up_neither_the_stop_nor_the_end_of_the_process(tmp_path, monkeypatch):
    """As a dead NFS does: the look at its room does not come back."""
    asked, comes_back, watchers = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def hang(_folder):
        watchers.append(threading.current_thread())
        loop.call_soon_threadsafe(asked.set)
        comes_back.wait()

    monkeypatch.setattr(engine, "trouble_of", hang)
    try:
        async with asyncio.timeout(20), running(tmp_path):
            await asked.wait()
    finally:
        comes_back.set()
    [watcher] = watchers
    assert watcher.daemon
    watcher.join(20)
    assert not watcher.is_alive()
