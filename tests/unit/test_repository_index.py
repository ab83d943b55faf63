"""Index objects, and the local cache of them: small in memory, deletable, never wrong."""

from __future__ import annotations

import fcntl
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.errors import Damaged
from mover.model.point import LOST_ID, ZERO_ID
from mover.repository import layout, segment
from mover.repository.index import IndexObject, LocalIndex, PlaceState
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher
from mover.repository.pack import Contents
from mover.repository.rows import PACK_ROW_DTYPE, TABLE_ROW_DTYPE
from mover.repository.segment import Segment, SegmentUnfit

SECRETS = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})


def contents(ids: list[bytes], number: int = 0) -> Contents:
    table = np.zeros(len(ids), TABLE_ROW_DTYPE)
    for row, block_id in zip(table, ids, strict=True):
        row["key"], row["tail"] = int.from_bytes(block_id[:8], "big"), list(block_id[8:])
    table["stored"], table["plain"] = 100, 1000
    table["offset"] = 64 + 100 * np.arange(len(ids))
    return Contents(number.to_bytes(32, "big"), b"k" * 16, 64 + 100 * len(ids) + 80, table)


def index_object(packs: list[list[bytes]], name: str = "session", first: int = 1) -> IndexObject:
    return IndexObject.of(name, 0, [contents(ids, first + number) for number, ids in enumerate(packs)])


def some_ids(seed: int, count: int) -> list[bytes]:
    dice = random.Random(seed)
    return [dice.randbytes(32) for _ in range(count)]


def name(session: str) -> str:
    return layout.index_name(session, 0)


def keep(local: LocalIndex, *sessions: str) -> list[bool]:
    """The store has the index objects of these sessions only. Which of them were cached."""
    called = local.roll_call()
    known = called.answer([name(session) for session in sessions])
    local.keep(called)
    return known.tolist()


IDS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=30, unique=True)


@given(packs=st.lists(IDS, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_an_index_object_comes_back_as_it_was(packs: list[list[bytes]]):
    made = index_object(packs)
    found = IndexObject.open(SECRETS, made.name, b"".join(made.seal(SECRETS)))
    assert (found.session_id, found.number, found.replaces) == ("session", 0, ())
    assert (found.rows == made.rows).all()
    assert (found.packs == made.packs).all()
    assert (np.diff(found.rows["key"].astype(object)) >= 0).all()


def test_each_flipped_byte_of_an_index_object_is_refused():
    made = index_object([some_ids(1, 3)])
    stored = b"".join(made.seal(SECRETS))
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(Exception, match=made.name):
            IndexObject.open(SECRETS, made.name, bytes(broken))


def test_a_row_that_names_no_pack_is_refused():
    made = index_object([some_ids(1, 3)])
    made.rows["pack"][1] = 7
    with pytest.raises(Damaged, match="names no pack"):
        IndexObject.open(SECRETS, made.name, b"".join(made.seal(SECRETS)))


@pytest.mark.parametrize("replaced", ["packs/00/00", 5, None])
def test_one_that_replaces_what_is_no_index_object_is_refused(replaced: Any):
    made = IndexObject.of("session", 0, [contents(some_ids(1, 3), 1)], [replaced])
    with pytest.raises(Damaged, match="replaces what is no index object"):
        IndexObject.open(SECRETS, made.name, b"".join(made.seal(SECRETS)))


@given(objects=st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=1, max_size=9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_lookups_agree_with_a_plain_dict(objects: list[list[list[bytes]]], seed: int, tmp_path_factory):
    local, known = LocalIndex(tmp_path_factory.mktemp("index")), {}
    for number, packs in enumerate(objects):
        local.add([index_object(packs, f"s{number}", first=number * 10 + 1).part()])
        for ids in packs:
            for at, block_id in enumerate(ids):
                known.setdefault(block_id, set()).add(64 + 100 * at)
    strangers = [block_id for block_id in some_ids(seed, 20) if block_id not in known]
    assert all(local.has(block_id, frozenset()) for block_id in known)
    assert not any(local.has(block_id, frozenset()) for block_id in strangers)
    asked = [*known, *strangers]
    places = local.view().locate(b"".join(asked))
    for block_id, state, offset in zip(asked, places.state, places.offset_bytes, strict=True):
        if block_id in (ZERO_ID, LOST_ID):
            continue
        assert (state == PlaceState.STORED) == (block_id in known)
        assert block_id not in known or offset in known[block_id]


def test_ids_that_share_their_first_bytes_are_told_apart(tmp_path: Path):
    twins = [b"12345678" + bytes([number]) * 24 for number in range(1, 40)]
    local = LocalIndex(tmp_path)
    local.add([index_object([twins[:20]]).part()])
    assert all(local.has(block_id, frozenset()) for block_id in twins[:20])
    assert not any(local.has(block_id, frozenset()) for block_id in twins[20:])
    places = local.view().locate(b"".join(twins))
    assert [int(state) for state in places.state] == [PlaceState.STORED] * 20 + [PlaceState.MISSING] * 19
    assert places.offset_bytes[:20].tolist() == [64 + 100 * at for at in range(20)]


def test_zero_and_lost_ids_are_said_to_be_so(tmp_path: Path):
    places = LocalIndex(tmp_path).view().locate(ZERO_ID + LOST_ID + b"x" * 32)
    assert [int(state) for state in places.state] == [PlaceState.ZERO, PlaceState.LOST, PlaceState.MISSING]
    assert places.pack_no.tolist() == [-1, -1, -1]


def test_a_tombstoned_pack_is_invisible_to_writers_and_serves_readers(tmp_path: Path):
    first, second = some_ids(1, 5), some_ids(2, 5)
    local = LocalIndex(tmp_path)
    local.add([index_object([first, second]).part()])
    dead = frozenset([(1).to_bytes(32, "big")])
    assert not any(local.has(block_id, dead) for block_id in first)
    assert all(local.has(block_id, dead) for block_id in second)
    assert (local.view().locate(b"".join(first)).state == PlaceState.STORED).all()


def test_a_second_copy_serves_when_the_first_pack_is_tombstoned(tmp_path: Path):
    ids = some_ids(1, 5)
    local = LocalIndex(tmp_path)
    local.add([index_object([ids, ids]).part()])
    assert all(local.has(block_id, frozenset([(1).to_bytes(32, "big")])) for block_id in ids)
    both = frozenset([(1).to_bytes(32, "big"), (2).to_bytes(32, "big")])
    assert not any(local.has(block_id, both) for block_id in ids)


def test_rows_of_an_index_object_that_is_gone_are_not_found(tmp_path: Path):
    first, second = some_ids(1, 5), some_ids(2, 5)
    local = LocalIndex(tmp_path)
    local.add([index_object([first], "a").part(), index_object([second], "b", first=9).part()])
    assert keep(local, "b", "stranger") == [True, False]
    assert not any(local.has(block_id, frozenset()) for block_id in first)
    assert all(local.has(block_id, frozenset()) for block_id in second)
    assert (local.view().locate(b"".join(first)).state == PlaceState.MISSING).all()
    keep(local)
    assert local.segments == ()
    assert list(tmp_path.iterdir()) == []


@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 9))), min_size=1, max_size=30),
    chunk=st.sampled_from([1, 3, segment.CHUNK_ROWS]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_cached_is_what_was_taken_in_and_is_still_there(
    steps: list[tuple[int, set[int]]], chunk: int, tmp_path_factory
):
    """Also of an object that two segments have, as where two processes share the folder. What a list left out once
    may be known when it is back, and is then found."""
    folder = tmp_path_factory.mktemp("index")
    local, cached, ever = LocalIndex(folder), set[int](), set[int]()
    ids = {number: some_ids(number, 3) for number in range(10)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "CHUNK_ROWS", chunk)
        for taken, there in steps:
            local.add([index_object([ids[taken]], f"s{taken}", first=taken + 1).part()])
            known = keep(local, *(f"s{number}" for number in sorted(there)))
            ever.add(taken)
            least = (cached | {taken}) & there
            cached = {number for number, is_known in zip(sorted(there), known, strict=True) if is_known}
            assert least <= cached <= ever
            for found in (local, LocalIndex(folder)):
                keep(found, *(f"s{number}" for number in cached))
                assert {number for number in ids if found.has(ids[number][0], frozenset())} == cached


def test_an_index_object_that_comes_back_is_read_again(tmp_path: Path):
    """A listing that lags shows an object, hides it once, and shows it again."""
    first = some_ids(1, 5)
    local, back = LocalIndex(tmp_path), index_object([first], "a").part()
    local.add([back, index_object([some_ids(2, 5)], "b", first=9).part()])
    keep(local, "b")
    later = [f"s{number}" for number in range(3, 9)]
    for number, session in enumerate(later, 3):
        local.add([index_object([some_ids(number, 5)], session, first=number * 10).part()])
    for fresh in (local, LocalIndex(tmp_path)):
        assert fresh.roll_call().answer([name("a"), name("b")]).tolist() == [False, True]
        keep(fresh, *later)
        assert not fresh.has(some_ids(2, 5)[0], frozenset())
        assert fresh.has(some_ids(8, 5)[0], frozenset())
    local.add([back])
    assert (local.view().locate(b"".join(first)).state == PlaceState.STORED).all()


def test_a_view_stays_as_it_was(tmp_path: Path):
    first, second = some_ids(1, 5), some_ids(2, 5)
    local = LocalIndex(tmp_path)
    local.add([index_object([first], "a").part(), index_object([second], "b", first=9).part()])
    view = local.view()
    keep(local, "b")
    local.add([index_object([some_ids(number, 5)], f"s{number}").part() for number in range(3, 9)])
    assert (view.locate(b"".join(first + second)).state == PlaceState.STORED).all()


def test_drafts_of_killed_processes_are_removed_and_those_of_living_ones_kept(tmp_path: Path):
    (tmp_path / "dead.draft").write_bytes(b"half")
    with (tmp_path / "living.draft").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        LocalIndex(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["living.draft"]


def test_many_deltas_become_few_segments_and_lose_nothing(tmp_path: Path):
    local, everything = LocalIndex(tmp_path), []
    for number in range(40):
        ids = some_ids(number, 50)
        everything += ids
        local.add([index_object([ids], f"s{number}", first=number).part()])
    assert len(local.segments) < segment.CHUNK_ROWS
    assert len(local.segments) <= 8
    assert all(local.has(block_id, frozenset()) for block_id in everything)
    assert len(list(tmp_path.glob("*.segment"))) == len(local.segments)
    again = LocalIndex(tmp_path)
    assert all(keep(again, *(f"s{number}" for number in range(40))))
    assert all(again.has(block_id, frozenset()) for block_id in everything)


@pytest.mark.parametrize("chunk", [1, segment.CHUNK_ROWS])
def test_of_what_others_wrote_into_the_folder_only_that_which_adds_nothing_goes(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segment, "CHUNK_ROWS", chunk)
    parts = {
        session: index_object([some_ids(ord(session), 3)], session, first=ord(session)).part() for session in "abc"
    }
    others = [LocalIndex(tmp_path) for _ in range(3)]
    for local, sessions in zip(others, ("ab", "bc", "b"), strict=True):
        local.add([parts[session] for session in sessions])
    again = LocalIndex(tmp_path)
    assert again.roll_call().answer([name(session) for session in "abc"]).all()
    assert all(again.has(some_ids(ord(session), 3)[0], frozenset()) for session in "abc")
    assert sorted(tmp_path.iterdir()) == sorted(local.segments[0].path for local in others[:2])


def test_a_damaged_segment_is_thrown_away(tmp_path: Path):
    LocalIndex(tmp_path).add([index_object([some_ids(1, 50)]).part()])
    (path,) = tmp_path.glob("*.segment")
    whole = path.read_bytes()
    for at in [*range(0, 64, 3), *random.Random(1).sample(range(64, len(whole)), 40)]:
        broken = bytearray(whole)
        broken[at] ^= 16
        path.write_bytes(broken)
        with pytest.raises(SegmentUnfit):
            Segment(path)
    path.write_bytes(whole[:-1])
    assert LocalIndex(tmp_path).segments == ()
    assert not path.exists()


def test_a_full_disk_is_an_error_and_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space"):
        LocalIndex(tmp_path).add([index_object([some_ids(1, 5)]).part()])
    assert list(tmp_path.iterdir()) == []


def test_a_million_records_cost_little_anonymous_memory(tmp_path: Path):
    rows = 1_000_000
    raw = np.random.default_rng(1).integers(0, 2**64, (rows, 4), np.uint64)
    table = np.zeros(rows, segment.ROW_DTYPE)
    table["tail"] = raw[:, 1:]
    packs = np.zeros(1000, PACK_ROW_DTYPE)
    table["pack"] = np.arange(rows) % 1000
    part = segment.Part(segment.names_of(["index/a-00000000"]), packs, raw[:, 0], table, np.ones(1000, bool))
    tracemalloc.start()
    try:
        local = LocalIndex(tmp_path)
        local.add([part])
        wanted = raw[:1000].copy()
        wanted[:, 0] = wanted[:, 0].byteswap()
        assert (local.view().locate(wanted.tobytes()).state == PlaceState.STORED).all()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 << 20
    assert peak < 32 << 20
