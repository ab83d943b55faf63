"""Every call of a backup to its store fails once, before or after its effect.

Afterwards the earlier point is whole, the repository checks clean, and the same job run
again (its session resumed where that is possible) makes its point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.errors import MoverError, SessionVoided
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from mover.storage.retry import RetryingStore
from tests.support.faultystore import CI_FAULTS, EVERY_FAULT, FaultyStore, How
from tests.support.repositories import VM, backup, blocks_of, copy_into, make, open_in, point, restore

BEFORE, AFTER = blocks_of(1, 10), [*blocks_of(1, 10)[:6], *blocks_of(2, 10)[6:]]


async def prepared(tmp_path: Path) -> FaultyStore:
    """A repository with one point."""
    store = FaultyStore(await make(MemoryStore()))
    repository = await open_in(store, tmp_path / "before", pack_bytes=9_000)
    await backup(repository, BEFORE, "before")
    await repository.close()
    return store


async def attempt(repository: Repository, session_id: str | None, seen: list[str]) -> None:
    """One run of the job: backs up and commits, or raises; ``seen`` keeps the session's id."""
    session: Session = await repository.open_session(points=[(VM, "after")], session_id=session_id)
    seen.append(session.id)
    async with asyncio.TaskGroup() as group:
        group.create_task(session.run())
        disk, _ = await copy_into(session, AFTER)
        await session.commit(point(session.id, [disk], "after"))
        await session.end()


async def run_until_done(store: FaultyStore, tmp_path: Path) -> int:
    """Attempts that it took; every failure is one that a user can be told."""
    seen: list[str] = []
    for number in range(1, 5):
        try:
            repository = await open_in(store, tmp_path / f"attempt-{number}", pack_bytes=9_000)
            try:
                await attempt(repository, seen[-1] if seen else None, seen)
            finally:
                await repository.close()
        except SessionVoided:
            seen.clear()
        except (MoverError, ExceptionGroup) as error:
            for one in leaves(error):
                assert isinstance(one, MoverError), one
        else:
            return number
    raise AssertionError("it never converges")


def leaves(error: BaseException) -> Sequence[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]


async def all_is_well(store: FaultyStore, tmp_path: Path) -> None:
    repository = await open_in(store.inner, tmp_path / "end")
    assert {line.id for line in await repository.points()} == {"before", "after"}
    assert await restore(repository, "before") == BEFORE
    assert await restore(repository, "after") == AFTER
    assert (await check(repository)).problems == []
    await repository.close()


async def count_calls(tmp_path: Path) -> int:
    store = await prepared(tmp_path)
    begun = len(store.calls)
    await run_until_done(store, tmp_path)
    return len(store.calls) - begun


async def nth_failure(how: How, tmp_path: Path) -> None:
    for nth in range(1, await count_calls(tmp_path / "count") + 1):
        folder = tmp_path / str(nth)
        store = await prepared(folder)
        store.fail(nth, how)
        assert await run_until_done(store, folder) <= 3
        await store.settle()
        await all_is_well(store, folder)


@pytest.mark.parametrize("how", CI_FAULTS, ids=lambda how: how.name)
async def test_each_call_to_the_store_may_fail_once(how: How, tmp_path: Path):
    await nth_failure(how, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("how", [how for how in EVERY_FAULT if how not in CI_FAULTS], ids=lambda how: how.name)
async def test_each_call_to_the_store_may_fail_in_rarer_ways(how: How, tmp_path: Path):
    await nth_failure(how, tmp_path)


@pytest.mark.parametrize("how", CI_FAULTS, ids=lambda how: how.name)
async def test_behind_retries_no_failure_is_seen(how: How, tmp_path: Path):
    for nth in range(1, await count_calls(tmp_path / "count") + 1, 3):
        folder = tmp_path / str(nth)
        faulty = await prepared(folder)
        faulty.fail(nth, how)
        store = RetryingStore(faulty, FakeClock())
        repository = await open_in(store, folder / "once", pack_bytes=9_000)
        await attempt(repository, None, [])
        await repository.close()
        await all_is_well(faulty, folder)
