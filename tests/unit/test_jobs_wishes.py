"""Wishes to cancel a job, which are files: what they outlive, and what they never change."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from mover.errors import JobCancelled, StateDamaged
from mover.jobs import engine
from mover.jobs.aside import aside
from mover.jobs.book import JobState
from mover.jobs.engine import Engine
from tests.support.jobs import opened_book, running


@pytest.fixture
async def book(tmp_path):
    async with opened_book(tmp_path) as opened:
        yield opened


async def test_the_outcome_is_what_the_operation_gave_whatever_becomes_of_a_wish_to_cancel_it(tmp_path, book):
    async def leave(request, steps):
        (tmp_path / "cancel" / steps.job_id).mkdir(parents=True)  # no file: whoever unlinks it meets an error
        return {"is": 1}

    async with running(tmp_path, leave=leave):
        ended = await book.wait(await book.submit("leave", {}))
    assert (ended.state, ended.result) == (JobState.DONE, {"is": 1})


async def test_a_folder_of_wishes_that_cannot_be_read_fails_no_job(tmp_path, book, monkeypatch):
    async def failing(call):
        if getattr(call, "__name__", "") == "exists":
            raise OSError(errno.EIO, "Input/output error")
        return await aside(call)

    async def job(request, steps):
        return {"is": 1}

    monkeypatch.setattr(engine, "aside", failing)
    async with running(tmp_path, job=job):
        assert (await book.wait(await book.submit("job", {}))).state is JobState.DONE


async def test_a_cancelled_job_is_cancelled_still_where_its_end_was_not_noted(tmp_path, book, monkeypatch):
    at_its_end, run = asyncio.Event(), Engine._run

    async def hanging(*arguments):
        await run(*arguments)
        at_its_end.set()
        await asyncio.Event().wait()

    async def job(request, steps):
        entered.set()
        if not at_its_end.is_set():
            await steps.cancellation.unless(asyncio.Event().wait())
        steps.cancellation.check()
        return {}

    entered = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_run", hanging)
        async with running(tmp_path, job=job):
            job_id = await book.submit("job", {})
            await entered.wait()
            await book.cancel(job_id)
            await at_its_end.wait()
    async with running(tmp_path, job=job):
        assert isinstance((await book.wait(job_id)).error, JobCancelled)


async def test_a_wish_to_cancel_goes_with_the_last_line_of_its_job(tmp_path, book):
    entered = asyncio.Event()

    async def hold(request, steps):
        entered.set()
        await steps.cancellation.unless(asyncio.Event().wait())

    async with running(tmp_path, hold=hold):
        job_ids = [await book.submit("hold", {}), await book.submit("hold", {})]
        for job_id in job_ids:
            await book.cancel(job_id)
            await book.wait(job_id)
        entered.clear()
        await book.retry(job_ids[1])
        await entered.wait()
        await book.cancel(job_ids[1])
        await book.wait(job_ids[1])
        assert {path.name for path in (tmp_path / "cancel").iterdir()} == set(job_ids)
        await book.prune(older_than_s=-86400.0)
    assert await book.jobs() == []
    assert list((tmp_path / "cancel").iterdir()) == []


async def test_a_wish_that_cannot_be_changed_is_told_in_words(tmp_path, book):
    async def fail(request, steps):
        raise JobCancelled("no", remedy="no")

    async with running(tmp_path, fail=fail):
        job_id = await book.submit("fail", {})
        await book.wait(job_id)
    wish = tmp_path / "cancel" / job_id
    wish.mkdir(parents=True)
    with pytest.raises(StateDamaged, match=f"{wish}: Is a directory"):
        await book.retry(job_id)
    assert [job.attempt for job in await book.jobs()] == [1]
    wish.rmdir()
    wish.parent.rmdir()
    wish.parent.touch()
    with pytest.raises(StateDamaged, match=str(wish.parent)):
        await book.cancel(job_id)


async def test_a_job_that_is_asked_to_end_is_told_from_one_that_goes_on_until_it_has_ended(tmp_path, book):
    async def job(request, steps):
        await steps.cancellation.unless(asyncio.Event().wait())
        steps.cancellation.check()

    ended, other = await book.submit("job", {}), await book.submit("job", {})
    await book.cancel(ended)
    assert {line.id: line.is_ending for line in await book.unfinished()} == {ended: True, other: False}
    async with running(tmp_path, job=job):
        assert not (await book.wait(ended)).is_ending
        assert [line.id for line in await book.unfinished()] == [other]


async def test_what_has_nothing_to_do_with_wishes_is_not_told_as_one(book, monkeypatch):
    def fail():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(book, "_book", fail)
    with pytest.raises(OSError, match="Too many open files"):
        await book.jobs()
