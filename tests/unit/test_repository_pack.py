"""Packs and the seal: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import random

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.errors import Damaged, FormatUnsupported
from mover.repository import layout
from mover.repository.codec import Codecs, PackingError
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher, Codec, FrameKind, ObjectKind
from mover.repository.memory import private_memory
from mover.repository.pack import (
    PackBuilder,
    RecordOpener,
    open_contents,
    pack_bytes_for,
    parse_footer,
    read_contents,
)
from mover.repository.seal import FRAME_OVERHEAD_BYTES, open_first_section, open_object, seal_object
from mover.storage.memory import MemoryStore

SEALED = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})
OPEN = Secrets.without_encryption(b"r" * 16)
BOTH = pytest.mark.parametrize("secrets", [SEALED, OPEN], ids=["sealed", "open"])


def make_pack(secrets: Secrets, blocks: list[bytes]) -> tuple[bytes, bytes, list[bytes]]:
    """(pack id, stored bytes, ids)."""
    builder, codecs, ids = PackBuilder(secrets, memory=private_memory(1 << 20)), Codecs(), []
    for block in blocks:
        block_id = blake3(block, key=secrets.block_key()).digest()
        codec, packed = codecs.pack(block)
        number, memory = builder.place(block_id, len(packed) + FRAME_OVERHEAD_BYTES, len(block), codec, FrameKind.BLOCK)
        builder.sealer.seal_into(
            memory,
            packed,
            number=number,
            kind=FrameKind.BLOCK,
            codec=codec,
            plain_bytes=len(block),
            block_id=block_id,
        )
        ids.append(block_id)
    return builder.pack_id, b"".join(builder.finish()), ids


def open_pack(secrets: Secrets, pack_id: bytes, stored: bytes) -> list[bytes]:
    """All blocks, from the pack alone."""
    trailer_bytes = parse_footer(stored, "pack", len(stored))[1]
    tail = stored[-trailer_bytes - layout.FOOTER.size :]
    contents = open_contents(secrets, pack_id, len(stored), stored[: layout.ENVELOPE.size], tail)
    opener = RecordOpener(secrets, Codecs())
    sealer = opener.sealer(pack_id, contents.key_id)
    found = []
    for row in contents.table:
        begin = int(row["offset"])
        sealed = memoryview(stored)[begin : begin + int(row["stored"])]
        record_id = int(row["key"]).to_bytes(8, "big") + row["tail"].tobytes()
        found.append(
            bytes(opener.open(sealer, sealed, offset=begin, record_id=record_id, plain_bytes=int(row["plain"])))
        )
    return found


@BOTH
@given(blocks=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_a_pack_tells_its_blocks_from_its_own_end(secrets: Secrets, blocks: list[bytes]):
    pack_id, stored, _ = make_pack(secrets, blocks)
    assert open_pack(secrets, pack_id, stored) == blocks


@BOTH
def test_each_flipped_byte_of_header_frames_trailer_and_footer_is_refused(secrets: Secrets):
    blocks = [b"a" * 500, random.Random(1).randbytes(300), b"b" * 40]
    pack_id, stored, _ = make_pack(secrets, blocks)
    name = layout.pack_name(pack_id)
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises((Damaged, FormatUnsupported)) as refused:
            open_pack(secrets, pack_id, bytes(broken))
        assert refused.value.facts["object"] in (name, "pack"), at


@BOTH
def test_a_pack_that_is_cut_or_grown_is_refused(secrets: Secrets):
    pack_id, stored, _ = make_pack(secrets, [b"a" * 500, b"b" * 500])
    for broken in (stored[:-1], stored[: len(stored) // 2], stored + b"\0", stored[1:]):
        with pytest.raises(Damaged):
            open_pack(secrets, pack_id, broken)


@BOTH
def test_a_record_cannot_pose_as_another(secrets: Secrets):
    pack_id, stored, ids = make_pack(secrets, [b"a" * 500, b"b" * 500])
    other_id, other, _ = make_pack(secrets, [b"a" * 500, b"b" * 500])
    opener = RecordOpener(secrets, Codecs())
    trailer_bytes = parse_footer(stored, "pack", len(stored))[1]
    tail = stored[-trailer_bytes - layout.FOOTER.size :]
    table = open_contents(secrets, pack_id, len(stored), stored[:64], tail).table
    sealed = [memoryview(stored)[row["offset"] : row["offset"] + row["stored"]] for row in table]
    sealer = opener.sealer(pack_id, secrets.key_id)
    assert opener.open(sealer, sealed[0], offset=0, record_id=ids[0], plain_bytes=500) == b"a" * 500
    foreign = memoryview(other)[table[0]["offset"] : table[0]["offset"] + table[0]["stored"]]
    for wrong in (
        {"sealed": sealed[1], "record_id": ids[0], "plain_bytes": 500},
        {"sealed": sealed[0], "record_id": ids[1], "plain_bytes": 500},
        {"sealed": sealed[0], "record_id": ids[0], "plain_bytes": 499},
        {"sealed": foreign, "record_id": ids[0], "plain_bytes": 500},
        {"sealed": sealed[0], "record_id": ids[0], "plain_bytes": 500, "kind": FrameKind.NODE},
        {"sealed": sealed[0][:20], "record_id": ids[0], "plain_bytes": 500},
    ):
        with pytest.raises(Damaged, match=pack_id.hex()):
            opener.open(sealer, offset=0, **wrong)
    assert other_id != pack_id


async def test_contents_are_read_from_a_store_in_two_or_three_reads():
    few_id, few, ids = make_pack(SEALED, [b"a" * 100])
    many_id, many, _ = make_pack(SEALED, [bytes([number % 250 + 1]) * (number + 1) for number in range(2000)])
    store = MemoryStore()
    for pack_id, stored in ((few_id, few), (many_id, many)):
        await store.create(layout.pack_name(pack_id), [stored])
    assert (await read_contents(store, SEALED, few_id, len(few))).table["tail"][0].tobytes() == ids[0][8:]
    assert len((await read_contents(store, SEALED, many_id, len(many))).table) == 2000
    with pytest.raises(Damaged, match="too few"):
        await read_contents(store, SEALED, few_id, 60)


def test_a_pack_says_when_it_is_full():
    need = pack_bytes_for(1000)
    builder = PackBuilder(SEALED, memory=private_memory(need))
    assert builder.has_room(1000)
    assert not builder.has_room(1001)
    _, memory = builder.place(b"x" * 32, 1000, 900, Codec.RAW, FrameKind.BLOCK)
    assert len(memory) == 1000
    assert not builder.has_room(1)
    assert sum(len(part) for part in builder.finish()) == need


def test_finishing_twice_gives_identical_bytes():
    builder = PackBuilder(SEALED, memory=private_memory(10_000))
    builder.place(b"x" * 32, 1000, 900, Codec.RAW, FrameKind.BLOCK)
    assert b"".join(builder.finish()) == b"".join(builder.finish())


@BOTH
def test_each_flipped_byte_of_a_sealed_object_is_refused(secrets: Secrets):
    name = "index/session-00000000"
    stored = b"".join(
        seal_object(secrets, ObjectKind.INDEX, name, [b"first" * 40, b"", random.Random(3).randbytes(99)])
    )
    assert open_object(secrets, ObjectKind.INDEX, name, stored, sections=3)[0] == b"first" * 40
    for at in range(len(stored)):
        broken = bytearray(stored)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises((Damaged, FormatUnsupported), match=name):
            open_object(secrets, ObjectKind.INDEX, name, bytes(broken), sections=3)


@BOTH
def test_a_sealed_object_is_bound_to_its_name_kind_and_length(secrets: Secrets):
    name = "index/session-00000000"
    stored = b"".join(seal_object(secrets, ObjectKind.INDEX, name, [b"one", b"two"]))
    for broken in (stored[:-1], stored + b"\0", stored[:70], stored[:10], b""):
        with pytest.raises(Damaged):
            open_object(secrets, ObjectKind.INDEX, name, broken, sections=2)
    with pytest.raises(Damaged):
        open_object(secrets, ObjectKind.INDEX, "index/session-00000001", stored, sections=2)
    with pytest.raises(Damaged):
        open_object(secrets, ObjectKind.MANIFEST, name, stored, sections=2)
    with pytest.raises(Damaged):
        open_object(secrets, ObjectKind.INDEX, name, stored, sections=1)


def test_a_repository_without_encryption_is_not_read_with_a_key_nor_the_other_way():
    for one, other in ((SEALED, OPEN), (OPEN, SEALED)):
        stored = b"".join(seal_object(one, ObjectKind.INDEX, "index/a", [b"one"]))
        with pytest.raises(Damaged):
            open_object(other, ObjectKind.INDEX, "index/a", stored, sections=1)


def test_a_first_section_opens_from_the_first_bytes():
    stored = b"".join(seal_object(SEALED, ObjectKind.MANIFEST, "points/a/b", [b"head", b"body" * 1000]))
    kinds = (ObjectKind.MANIFEST, ObjectKind.VOID)
    assert open_first_section(SEALED, kinds, "points/a/b", stored[:200]) == (ObjectKind.MANIFEST, b"head")
    assert open_first_section(SEALED, kinds, "points/a/b", stored[:90]) is None
    assert open_first_section(SEALED, kinds, "points/a/b", stored[:70]) is None


@pytest.mark.parametrize("level", [-7, 1, 3, 9])
def test_every_level_packs_and_unpacks_blocks_and_tails(level):
    rng, codecs = random.Random(7), Codecs(level)
    words = [rng.randbytes(rng.randint(3, 12)) for _ in range(4000)]
    for size_bytes in (1, 4096, 100_000, 256 << 10, 1 << 20):
        plain = b"".join(rng.choices(words, k=size_bytes // 3 + 1))[:size_bytes]
        codec, packed = codecs.pack(plain)
        assert codecs.unpack(codec, packed, size_bytes) == plain
        if level != 1:
            # The library's own choice for a level goes by how long the input is.
            assert len(packed) == min(size_bytes, len(zstandard.ZstdCompressor(level=level).compress(plain)))


def test_unpacking_never_trusts_a_length():
    codecs = Codecs()
    codec, packed = codecs.pack(b"a" * 1000)
    assert codec is Codec.ZSTD
    assert codecs.unpack(codec, packed, 1000) == b"a" * 1000
    for wrong in (999, 1001, 0):
        with pytest.raises(PackingError):
            codecs.unpack(codec, packed, wrong)
    with pytest.raises(PackingError):
        codecs.unpack(codec, bytes(packed) + b"x", 1000)
    with pytest.raises(PackingError):
        codecs.unpack(codec, b"no zstd", 7)
    with pytest.raises(PackingError):
        codecs.unpack(Codec.RAW, b"abc", 4)


def test_random_bytes_are_stored_as_they_are():
    plain = random.Random(1).randbytes(1000)
    assert Codecs().pack(plain) == (Codec.RAW, plain)
