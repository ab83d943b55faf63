"""The lab's changed regions are exact: every byte that differs is listed, nothing else is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.lab import extents, loops
from mover.lab.disks import DiskBank

GRAIN = extents.GRAIN_BYTES
ALLOCATED_ONLY = -1
"""Space reserved but never written: it reads as zero."""
QUIET = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_hand(new: bytes, old: bytes) -> list[extents.Row]:
    """The definition, slowly."""
    rows: list[extents.Row] = []
    for at in range(0, len(new), GRAIN):
        ours, theirs = new[at : at + GRAIN], old[at : at + GRAIN]
        if ours == theirs:
            continue
        is_zero = not any(ours)
        if rows and rows[-1][2] == is_zero and rows[-1][0] + rows[-1][1] == at:
            rows[-1] = (rows[-1][0], rows[-1][1] + len(ours), is_zero)
        else:
            rows.append((at, len(ours), is_zero))
    return rows


writes = st.lists(
    st.tuples(st.integers(0, 40 * GRAIN - 1), st.integers(1, 3 * GRAIN), st.sampled_from([0, 7, 255, ALLOCATED_ONLY])),
    max_size=8,
)


@pytest.fixture(params=[False, True], ids=["plain", "xfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on this machine's own file system, and one where clones share extents."""
    if request.param and loops.usable() is not None:
        pytest.skip(f"loop devices: {loops.usable()}")
    bank = DiskBank(tmp_path, use_loop=request.param)
    assert bank.has_reflink or not request.param
    yield bank.root
    bank.close()


@QUIET
@given(first=writes, second=writes, odd=st.integers(0, GRAIN - 1))
def test_difference_is_what_a_slow_comparison_finds(folder: Path, first: list, second: list, odd: int) -> None:
    size = 40 * GRAIN + odd
    old, new = folder / "old", folder / "new"
    new.unlink(missing_ok=True)
    written(old, size, first)
    if not extents.reflink(old, new):
        extents.copy_sparse(old, new)
    written(new, size, second, fresh=False)
    assert extents.difference(new, old) == by_hand(new.read_bytes(), old.read_bytes())
    assert extents.difference(old, new) == by_hand(old.read_bytes(), new.read_bytes())


@QUIET
@given(first=writes, second=writes, odd=st.integers(0, GRAIN - 1), grown=st.integers(1, 5 * GRAIN))
def test_difference_of_a_grown_disk_covers_all_that_differs(
    folder: Path, first: list, second: list, odd: int, grown: int
) -> None:
    size = 40 * GRAIN + odd
    old, new = folder / "old", folder / "new"
    new.unlink(missing_ok=True)
    written(old, size, first)
    if not extents.reflink(old, new):
        extents.copy_sparse(old, new)
    written(new, size + grown, second, fresh=False)
    rebuilt, wanted = bytearray(old.read_bytes() + bytes(grown)), new.read_bytes()
    at = 0
    for offset, length, is_zero in extents.difference(new, old):
        assert offset >= at
        at = offset + length
        rebuilt[offset:at] = bytes(length) if is_zero else wanted[offset:at]
    assert at == len(wanted)
    assert rebuilt == wanted


def written(path: Path, size: int, changes: list[tuple[int, int, int]], *, fresh: bool = True) -> None:
    with open(path, "wb" if fresh else "r+b") as file:
        file.truncate(size)
        for offset, length, value in changes:
            length = min(length, size - offset)
            if value == ALLOCATED_ONLY:
                file.flush()
                os.posix_fallocate(file.fileno(), offset, length)
                continue
            file.seek(offset)
            file.write(bytes([value]) * length)


@QUIET
@given(changes=writes)
def test_allocation_covers_the_file_and_calls_nothing_zero_that_is_not(tmp_path: Path, changes: list) -> None:
    path = tmp_path / "disk"
    written(path, 40 * GRAIN + 512, changes)
    rows, data = extents.allocation(path), path.read_bytes()
    at = 0
    for offset, length, is_zero in rows:
        assert offset == at
        assert not (is_zero and any(data[offset : offset + length]))
        at += length
    assert at == len(data)


def test_grown_tail_is_listed_with_its_zeroes(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    written(old, 8 * GRAIN, [(0, GRAIN, 1)])
    written(new, 32 * GRAIN, [(0, GRAIN, 1), (16 * GRAIN, GRAIN, 2)])
    assert extents.difference(new, old) == [
        (8 * GRAIN, 8 * GRAIN, True),
        (16 * GRAIN, GRAIN, False),
        (17 * GRAIN, 15 * GRAIN, True),
    ]


def test_shrunk_file_is_compared_to_its_end(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    written(old, 8 * GRAIN, [(0, GRAIN, 1)])
    written(new, 4 * GRAIN, [(0, GRAIN, 3)])
    assert extents.difference(new, old) == [(0, GRAIN, False)]


def test_many_scattered_changes_need_several_fiemap_calls(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    size = 20_000 * GRAIN
    written(old, size, [])
    written(new, size, [(2 * GRAIN * n, 1, 9) for n in range(10_000)])
    assert extents.difference(new, old) == [(2 * GRAIN * n, GRAIN, False) for n in range(10_000)]


def test_copy_shares_nothing_and_keeps_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    written(source, 1 << 24, [(1 << 20, GRAIN, 5)])
    extents.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= 64
    with pytest.raises(FileExistsError):
        extents.copy_sparse(source, target)


def test_without_fiemap_bytes_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(extents, "_fiemap", refuse)
    old, new = tmp_path / "old", tmp_path / "new"
    written(old, 16 * GRAIN, [(0, 2 * GRAIN, 1), (8 * GRAIN, 1, 4)])
    written(new, 16 * GRAIN, [(0, 2 * GRAIN, 1), (4 * GRAIN, 1, 4)])
    assert extents.difference(new, old) == [(4 * GRAIN, GRAIN, False), (8 * GRAIN, GRAIN, True)]
