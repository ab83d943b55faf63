"""What the book of jobs forgets."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from mover.clock import SystemClock
from mover.errors import NoSuchVm
from mover.jobs import book as book_module
from mover.jobs.book import JobBook
from tests.support.jobs import opened_book, running

DAY_S = 86400.0


async def double(request, steps):
    async def step(value):
        return value * 2

    return {"is": await steps.step("double", step, request["value"])}


async def refuse(request, steps):
    raise NoSuchVm("no VM x", remedy="see")


@pytest.fixture
async def book(tmp_path):
    async with opened_book(tmp_path) as opened:
        yield opened


class LaterClock(SystemClock):
    def now(self):
        return super().now() + 40 * DAY_S


async def test_jobs_that_ended_long_ago_are_forgotten_with_all_that_they_left(tmp_path, book):
    """Not those that run, nor younger ones."""
    entered = asyncio.Event()

    async def hold(request, steps):
        entered.set()
        await steps.cancellation.unless(asyncio.Event().wait())

    async with running(tmp_path, double=double, refuse=refuse, hold=hold):
        ended = [await book.submit("double", {"value": 5}), await book.submit("refuse", {})]
        held = await book.submit("hold", {})
        for job_id in ended:
            await book.wait(job_id)
        await book.retry(ended[1])
        await book.wait(ended[1])
        await entered.wait()
        await book.prune(older_than_s=30 * DAY_S)
        assert {job.id for job in await book.jobs()} == {*ended, held}
        later = JobBook(tmp_path, clock=LaterClock())
        await later.prune(older_than_s=30 * DAY_S)
        await later.close()
        assert {job.id for job in await book.jobs()} == {held}
        written = "\n".join(_dump(tmp_path / "jobs.sqlite"))
        assert held in written
        assert not [job_id for job_id in ended if job_id in written]


async def test_of_jobs_that_ended_the_newest_are_kept(tmp_path, book, monkeypatch):
    monkeypatch.setattr(book_module, "_KEPT", 3)
    monkeypatch.setattr(book_module, "_PRUNED_AT_ONCE", 2)
    async with running(tmp_path, double=double):
        ids = [await book.submit("double", {"value": number}) for number in range(8)]
        for job_id in ids:
            await book.wait(job_id)
        await book.prune(older_than_s=30 * DAY_S)
        assert [job.id for job in await book.jobs()] == ids[:-4:-1]


async def test_who_asks_meanwhile_does_not_wait_until_all_is_forgotten(tmp_path, book, monkeypatch):
    """The book has one thread, and after years there is much to be forgotten at once."""
    monkeypatch.setattr(book_module, "_PRUNED_AT_ONCE", 1)
    ended = []

    async def note(name, work):
        await work
        ended.append(name)

    async with running(tmp_path, double=double):
        for job_id in [await book.submit("double", {"value": number}) for number in range(4)]:
            await book.wait(job_id)
        async with asyncio.TaskGroup() as group:
            group.create_task(note("forgotten", book.prune(older_than_s=-DAY_S)))
            group.create_task(note("asked", book.active()))
        assert await book.jobs() == []
    assert ended == ["asked", "forgotten"]


def _dump(path):
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())
