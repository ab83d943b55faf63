"""Manifests, sessions and voids as stored; the list of points and what names mean."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.errors import AmbiguousName, Damaged, NoSuchPoint, PointPinned
from mover.model.machine import Consistency, DiskKind, Slot
from mover.model.point import BLOCK_SIZES, BasePair, OtherDevice, ReadMode, RestorePoint, Touched, TouchedDay
from mover.repository import layout
from mover.repository.hold import SessionRecord
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher
from mover.repository.manifest import open_header, open_manifest, seal_manifest, seal_void, summary
from tests.support.repositories import BLOCK, VM, backup, blocks_of, flip, image, make, open_in, overwrite, point

SECRETS = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})
NAME = layout.point_name(VM, "point-1")

TEXT = st.text(max_size=20)
NUMBERS = st.integers(0, 2**53)
DAYS = st.builds(TouchedDay, st.floats(0, 1e10), st.tuples(*[NUMBERS] * len(BLOCK_SIZES)))
TOUCHED = st.builds(Touched, NUMBERS, st.lists(DAYS, max_size=7).map(tuple))


@st.composite
def restore_points(draw: st.DrawFn) -> RestorePoint:
    disks = []
    for index in range(draw(st.integers(0, 3))):
        blocks = draw(st.integers(0, 40))
        nodes = draw(st.binary(min_size=-(-blocks // 8) * 32, max_size=-(-blocks // 8) * 32))
        base = draw(st.none() | st.builds(BasePair, TEXT, TEXT, TEXT))
        disks.append(
            image(
                blocks * BLOCK,
                nodes,
                slot=Slot("scsi", index),
                mode=draw(st.sampled_from(ReadMode)),
                reason=draw(TEXT),
                base=base,
                bytes_read=draw(NUMBERS),
                touched=draw(st.none() | TOUCHED),
                full_at=draw(st.none() | st.floats(0, 1e10)),
                seconds={"copy": draw(st.floats(0, 1e6))},
            )
        )
    return point(
        draw(TEXT),
        disks,
        "point-1",
        created_at=draw(st.floats(0, 1e10)),
        consistency=draw(st.sampled_from(Consistency)),
        others=(OtherDevice(Slot("ide", 0), DiskKind.CDROM, draw(TEXT)),),
        warnings=tuple(draw(st.lists(TEXT, max_size=3))),
        vm_spec={"spec": {"name": draw(TEXT), "list": [1, None, True]}},
        snapshot_expires_at=draw(st.none() | st.floats(0, 1e10)),
        is_base=draw(st.booleans()),
    )


@given(made=restore_points())
@settings(max_examples=50, deadline=None)
def test_a_manifest_comes_back_as_it_was(made: RestorePoint):
    stored = b"".join(seal_manifest(SECRETS, made))
    assert open_manifest(SECRETS, NAME, stored) == made
    header = open_header(SECRETS, NAME, stored)
    assert header is not None
    line = summary(NAME, header)
    assert (line.id, line.vm_uuid, line.disks, line.is_base) == ("point-1", VM, len(made.disks), made.is_base)
    assert line.size_bytes == made.size_bytes


def test_each_flipped_byte_of_a_manifest_is_refused():
    stored = b"".join(seal_manifest(SECRETS, point("s", [image(3 * BLOCK, b"n" * 32)], "point-1")))
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(Exception, match=NAME):
            open_manifest(SECRETS, NAME, bytes(broken))


def test_a_manifest_is_that_of_its_name():
    stored = b"".join(seal_manifest(SECRETS, point("s", [], "point-1")))
    with pytest.raises(Damaged):
        open_manifest(SECRETS, layout.point_name(VM, "point-2"), stored)
    with pytest.raises(ValueError, match="cannot be part"):
        layout.point_name(VM, "../escape")


def test_node_ids_must_fit_the_disk():
    wrong = replace(image(30 * BLOCK, b"n" * 96), fan_out=8)
    stored = b"".join(seal_manifest(SECRETS, point("s", [wrong], "point-1")))
    with pytest.raises(Damaged, match="nodes"):
        open_manifest(SECRETS, NAME, stored)
    with pytest.raises(ValueError, match="not whole"):
        seal_manifest(SECRETS, point("s", [image(BLOCK, b"n" * 31)], "point-1"))


def test_a_void_is_read_as_one_and_never_as_a_manifest():
    stored = b"".join(seal_void(SECRETS, NAME, session_id="dead", at=1.0, by="collector"))
    assert open_header(SECRETS, NAME, stored) == {"void": "dead"}
    with pytest.raises(Damaged):
        open_manifest(SECRETS, NAME, stored)


def test_a_session_record_comes_back_and_each_flip_is_refused():
    made = SessionRecord("s1", "writer", ((VM, "point-1"),), 1.0, 3, 2.0)
    name = layout.session_name("s1")
    stored = b"".join(made.seal(SECRETS))
    assert SessionRecord.open(SECRETS, name, stored) == made
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(Exception, match=name):
            SessionRecord.open(SECRETS, name, bytes(broken))


async def test_points_are_listed_newest_last_and_found_by_id_prefix_and_name(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    blocks = blocks_of(1, 3)
    await backup(repository, blocks, "aa-1", created_at=30.0)
    await backup(repository, blocks, "aa-2", created_at=10.0)
    await backup(repository, blocks, "bb-3", created_at=20.0, vm_name="db@01")
    assert [line.id for line in await repository.points()] == ["aa-2", "bb-3", "aa-1"]
    assert await repository.points(VM) == await repository.points()
    assert await repository.points("another-vm") == []
    known = {"aa-2": "aa-2", "bb": "bb-3", "web01@latest": "aa-1", "web01": "aa-1", VM: "aa-1"}
    for text, wanted in {**known, "db@01@latest": "aa-1", "db@01": "aa-1"}.items():
        assert (await repository.find_point(text)).id == wanted
    with pytest.raises(AmbiguousName):
        await repository.find_point("aa")
    for missing in ("zz", "", "web01@oldest"):
        with pytest.raises(NoSuchPoint):
            await repository.find_point(missing)
    line = await repository.find_point("aa-1")
    await repository.delete_point("aa-1")
    with pytest.raises(NoSuchPoint, match="meanwhile"):
        await repository.load(line)
    await repository.close()


async def test_a_long_header_is_read_whole(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    noise = random.Random(1).randbytes(50_000).hex()
    await backup(repository, blocks_of(1, 2), "p1", vm_spec={"noise": noise})
    assert [line.problem for line in await repository.points()] == [None]
    assert (await repository.load("p1")).vm_spec == {"noise": noise}
    await repository.close()


async def test_a_damaged_manifest_is_listed_with_its_problem_and_hides_nothing(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    for number in (1, 2):
        await backup(repository, blocks_of(number, 3), f"p{number}")
    name = layout.point_name(VM, "p2")
    flip(store, name, 100)
    lines = {line.id: line.problem for line in await repository.points()}
    assert lines["p1"] is None
    assert name in str(lines["p2"])
    with pytest.raises(Damaged, match="p2"):
        await repository.find_point("web01@latest")
    assert (await repository.find_point("p1")).id == "p1"
    overwrite(store, name, store._objects[name].data[:80])
    assert "cut off" in str({line.id: line.problem for line in await repository.points()}["p2"])
    await repository.delete_point("p2")
    assert [line.id for line in await repository.points()] == ["p1"]
    await repository.close()


async def test_a_base_is_pinned_until_a_newer_one_is_there(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    await backup(repository, blocks_of(1, 3), "p1", is_base=True, created_at=1.0)
    with pytest.raises(PointPinned):
        await repository.delete_point("p1")
    await backup(repository, blocks_of(1, 3), "p2", is_base=True, created_at=2.0)
    await repository.delete_point("p1")
    await repository.delete_point("p2", force=True)
    with pytest.raises(NoSuchPoint):
        await repository.delete_point("p2")
    await repository.close()
