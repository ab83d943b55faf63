"""The ledger: written before and after, numbered by try, durable over a restart."""

from __future__ import annotations

import sqlite3

import pytest

from mover.catalog.ledger import Kind, Ledger, State
from mover.clock import FakeClock
from mover.errors import ConfigError


@pytest.fixture
async def ledger(tmp_path):
    opened = await Ledger.open(tmp_path / "catalog.sqlite", clock=FakeClock())
    yield opened
    await opened.close()


async def test_an_entry_lives_from_intent_to_gone(ledger):
    entry = await ledger.intend(Kind.ATTACHMENT, job="j1", ordinal=0, facts={"slot": "scsi.3"})
    assert (entry.state, entry.attempt, entry.identity) == (State.INTENDED, 1, None)
    entry = await ledger.made(entry, "vmdisk-1", size_bytes=4096)
    assert entry.state is State.MADE
    assert entry.facts == {"slot": "scsi.3", "size_bytes": 4096}
    assert [e.id for e in await ledger.open_entries()] == [entry.id]
    await ledger.gone(entry)
    assert await ledger.open_entries() == []


async def test_tries_at_the_same_thing_are_numbered(ledger):
    first = await ledger.intend(Kind.SNAPSHOT, job="j1", ordinal=0, facts={})
    second = await ledger.intend(Kind.SNAPSHOT, job="j1", ordinal=0, facts={})
    other = await ledger.intend(Kind.SNAPSHOT, job="j1", ordinal=1, facts={})
    assert (first.attempt, second.attempt, other.attempt) == (1, 2, 1)


async def test_what_is_given_is_never_ours_again(ledger):
    entry = await ledger.made(await ledger.intend(Kind.VM, job="j1", ordinal=0, facts={}), "vm-1")
    await ledger.given(entry)
    assert await ledger.open_entries("j1") == []
    assert [e.state for e in await ledger.entries("j1")] == [State.GIVEN]


async def test_entries_are_chosen_by_job_and_kind(ledger):
    await ledger.intend(Kind.SNAPSHOT, job="j1", ordinal=0, facts={})
    await ledger.intend(Kind.HOOK_POST, job="j2", ordinal=0, facts={})
    assert [e.kind for e in await ledger.open_entries("j2")] == [Kind.HOOK_POST]
    assert [e.job for e in await ledger.open_entries(kind=Kind.SNAPSHOT)] == ["j1"]


async def test_lines_about_what_is_there_are_chosen_whatever_their_state(ledger):
    async def line(kind, job, identity=None, *, is_gone=True):
        entry = await ledger.intend(kind, job=job, ordinal=0, facts={})
        entry = await ledger.made(entry, identity) if identity else entry
        return (await ledger.gone(entry) if is_gone else entry).job

    await line(Kind.ATTACHMENT, "of another disk", "disk-2")
    await line(Kind.HOOK_POST, "of a command")
    await line(Kind.SNAPSHOT, "of another snapshot", "snapshot-2")
    await line(Kind.ATTACHMENT, "of a job whose snapshot is there", "disk-3")
    chosen = [
        await line(Kind.HOOK_POST, "that is open", is_gone=False),
        await line(Kind.ATTACHMENT, "that names a disk", "disk-1"),
        await line(Kind.TEMPORARY_DISK, "of a disk without a name"),
        await line(Kind.SNAPSHOT, "of a snapshot by its job"),
        await line(Kind.VM, "that names a VM", "vm-1"),
    ]
    many = [f"other-{number}" for number in range(40_000)]
    about = await ledger.lines_about(
        identities=["disk-1", "vm-1", *many], snapshot_jobs=["of a snapshot by its job", "of a job whose disk", *many]
    )
    assert [entry.job for entry in about] == chosen


async def test_the_ledger_survives_a_restart(tmp_path):
    path = tmp_path / "catalog.sqlite"
    first = await Ledger.open(path, clock=FakeClock())
    await first.intend(Kind.SNAPSHOT, job="j1", ordinal=0, facts={"name": "n"})
    await first.close()
    second = await Ledger.open(path, clock=FakeClock())
    assert [e.facts["name"] for e in await second.open_entries()] == ["n"]
    await second.close()


async def test_trust_in_a_cluster_is_remembered_and_withdrawn(ledger):
    assert not await ledger.trusts_unlisted("c1")
    await ledger.trust_unlisted("c1")
    await ledger.trust_unlisted("c1")
    assert await ledger.trusts_unlisted("c1")
    await ledger.distrust_unlisted("c1")
    assert not await ledger.trusts_unlisted("c1")


async def test_a_catalog_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(ConfigError, match="newer version"):
        await Ledger.open(path, clock=FakeClock())
