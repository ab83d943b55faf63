"""FORMAT.md is true: its tables are the code's structs, its vectors come out, golden repositories are read."""

from __future__ import annotations

import re
from pathlib import Path
from struct import Struct

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mover.repository import layout, rows
from mover.repository.layout import Cipher, Codec, FrameKind, ObjectKind
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from tests.golden.make import blocks, changed
from tests.golden.vectors import as_text
from tests.support.repositories import backup, open_in, restore

DOCUMENT = (Path(layout.__file__).parent / "FORMAT.md").read_text("utf-8")
GOLDEN = Path(__file__).parents[1] / "golden"
STRUCTS = ["ENVELOPE", "FRAME", "FOOTER", "TABLE_ROW", "PACK_ROW", "INDEX_ROW"]


def table_of(name: str) -> list[tuple[int, int]]:
    """(offset, size) of each field in a byte table."""
    section = DOCUMENT.split(f"### {name}, ")[1].split("\n#")[0]
    return [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE)]


def fields_of(struct: Struct) -> list[tuple[int, int]]:
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", struct.format):
        size = int(count) if code == "s" else Struct(f"<{code}").size
        found.append((at, size))
        at += size
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_byte_tables_are_the_structs(name: str):
    struct = getattr(layout, name)
    assert table_of(name) == fields_of(struct)
    assert f"### {name}, {struct.size} bytes" in DOCUMENT


def test_row_types_are_the_structs():
    assert rows.TABLE_ROW_DTYPE.itemsize == layout.TABLE_ROW.size
    assert rows.INDEX_ROW_DTYPE.itemsize == layout.INDEX_ROW.size
    assert rows.PACK_ROW_DTYPE.itemsize == layout.PACK_ROW.size


def test_magics_and_numbers_are_those_of_the_document():
    assert layout.MAGIC.hex(" ") in DOCUMENT
    assert f"`{layout.END_MAGIC.decode()}`" in DOCUMENT
    assert f"{layout.RECORDS_PER_PACK_MAX:,} records" in DOCUMENT
    assert f"`{layout.TRAILER_NUMBER:x}` for a pack's trailer" in DOCUMENT
    assert f"*fan-out* ({layout.FAN_OUT})" in DOCUMENT
    for kinds in (ObjectKind, FrameKind, Codec):
        for kind in kinds:
            assert f"{kind.value} {kind.name.lower().replace('_', ' ')}" in DOCUMENT, kind
    assert f"{Cipher.NONE.value} none, {Cipher.AES_256_GCM.value} AES-256-GCM" in DOCUMENT


def test_names_are_those_of_the_document():
    for name in (layout.DESCRIPTOR, layout.KEYS, layout.PACKS, layout.INDEX, layout.POINTS, layout.SESSIONS):
        assert f"| `{name}" in DOCUMENT
    assert f"| `{layout.TOMBSTONES}" in DOCUMENT
    assert f"| `{layout.SUSPECTS}" in DOCUMENT
    assert f"| `{layout.RESERVE}" in DOCUMENT


def test_golden_vectors_come_out():
    assert as_text() in DOCUMENT


def derived(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


def vector(title: str) -> bytes:
    digits = re.match(r"(?:  [0-9a-f]+\n)+", DOCUMENT.split(f"\n{title}\n")[1])
    assert digits, title
    return bytes.fromhex("".join(digits[0].split()))


@pytest.mark.parametrize("prefix", ["", "open "])
def test_a_stranger_reads_a_pack_by_the_document_alone(prefix: str):
    """Written from FORMAT.md sections 3 to 5, without the product's code."""
    pack, repository_id = vector(f"{prefix}pack"), vector("repository id")
    id_secret, data_secret = vector(f"{prefix}id secret"), vector(f"{prefix}data secret")
    salt, end = pack[32:64], pack[-32:]
    name = f"packs/{salt.hex()[:2]}/{salt.hex()}".encode()
    key = derived(data_secret, salt, b"mover/1 object\0\x01" + name)

    def opened(frame: bytes, block_id: bytes) -> bytes:
        nonce = frame[:4][::-1].rjust(12, b"\0")
        associated = frame[:16] + repository_id + b"\x01" + block_id + name
        if not prefix:
            return AESGCM(key).decrypt(nonce, frame[16:], associated)
        checked = len(associated).to_bytes(8, "little") + associated + nonce + frame[16:-16]
        assert blake3(checked, key=key).digest()[:16] == frame[-16:]
        return frame[16:-16]

    assert (pack[:8], end[:8]) == (b"\x89MOVER\r\n", b"MOVEREND")
    trailer_bytes = int.from_bytes(end[16:20], "little")
    row = opened(pack[-32 - trailer_bytes : -32], bytes(32))
    offset, stored = int.from_bytes(row[32:36], "little"), int.from_bytes(row[36:40], "little")
    assert opened(pack[offset : offset + stored], row[:32]) == b"mover"
    block_key = derived(id_secret, repository_id, b"mover/1 block id")
    assert blake3(b"mover", key=block_key).digest() == row[:32] == vector(f"{prefix}id of block 6d6f766572")


@pytest.mark.parametrize("version", sorted(path.name for path in GOLDEN.glob("v*") if path.is_dir()))
@pytest.mark.parametrize(("kind", "passphrase"), [("sealed", "correct horse"), ("open", None)])
async def test_invariant_7_every_version_reads_all_older_repositories(
    version: str, kind: str, passphrase: str | None, tmp_path: Path
):
    store, folder = MemoryStore(), GOLDEN / version / kind
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            await store.create(path.relative_to(folder).as_posix(), [path.read_bytes()])
    repository = await open_in(store, tmp_path, passphrase=passphrase)
    assert [line.id for line in await repository.points()] == ["point-1", "point-2"]
    assert await restore(repository, "point-1") == blocks("golden")
    assert await restore(repository, "point-2") == changed()
    assert (await check(repository)).is_clean
    assert (await backup(repository, changed(), "point-3")).kinds.count("new") == 0
    await repository.close()
