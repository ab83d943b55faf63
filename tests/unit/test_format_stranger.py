"""A whole restore by a stranger, who has FORMAT.md, the passphrase and public libraries: nothing of the product."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from struct import iter_unpack, unpack, unpack_from
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.golden.make import blocks, changed

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
NO_ID = bytes(32)
PACK, INDEX, MANIFEST = 1, 2, 3


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(secret)


class Stranger:
    """Sections of FORMAT.md in brackets."""

    def __init__(self, folder: Path, passphrase: str | None) -> None:
        self.folder = folder
        described = self.checked_json("repository.json", "tag")
        self.id = bytes.fromhex(described["id"])
        self.is_sealed = described["cipher"] == "aes-256-gcm"
        self.data_secrets: dict[bytes, bytes] = {}
        if self.is_sealed:
            for path in (folder / "keys").iterdir():
                self.unwrap(path, passphrase or "")
        else:
            self.id_secret = blake3(self.id, derive_key_context="mover/1 open id secret").digest()
            self.data_secrets[bytes(16)] = blake3(self.id, derive_key_context="mover/1 open data secret").digest()
        tag = described.pop("tag")
        assert blake3(self.written(described), key=self.derived(b"descriptor")).hexdigest() == tag

    # --- [3]

    def derived(self, what: bytes) -> bytes:
        return hkdf(self.id_secret, self.id, b"mover/1 " + what)

    @staticmethod
    def written(content: dict[str, Any]) -> bytes:
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    def checked_json(self, name: str, check: str) -> dict[str, Any]:
        stored = (self.folder / name).read_bytes()
        content: dict[str, Any] = json.loads(stored)
        assert self.written(content) == stored
        assert check in content
        return content

    def unwrap(self, path: Path, passphrase: str) -> None:
        content = self.checked_json(f"keys/{path.name}", "check")
        check = content.pop("check")
        assert blake3(self.written(content)).hexdigest() == check
        key_id, slot = bytes.fromhex(content["id"]), content["slots"][0]
        phrase = unicodedata.normalize("NFKC", passphrase).encode()
        costs = {cost: slot[cost] for cost in "nrp"}
        key = hashlib.scrypt(phrase, salt=bytes.fromhex(slot["salt"]), dklen=32, maxmem=1 << 28, **costs)
        associated = b"mover/1 slot\0" + self.id + key_id
        both = AESGCM(key).decrypt(bytes(12), bytes.fromhex(slot["wrapped"]), associated)
        self.id_secret, self.data_secrets[key_id] = both[:32], both[32:]

    # --- [4]

    def object_key(self, stored: bytes, kind: int, name: str) -> bytes:
        magic, version, found, cipher, reserved, key_id, salt = unpack_from("<8sHBBI16s32s", stored)
        assert (magic, version, found, cipher, reserved) == (b"\x89MOVER\r\n", 1, kind, self.is_sealed, 0)
        return hkdf(self.data_secrets[key_id], salt, b"mover/1 object\0" + bytes([kind]) + name.encode())

    def frame(self, key: bytes, frame: bytes, kind: int, name: str, record_id: bytes = NO_ID) -> bytes:
        number, plain_bytes, sealed_bytes, codec, _, reserved = unpack_from("<IIIBBH", frame)
        assert (sealed_bytes, reserved) == (len(frame) - 16, 0)
        nonce = number.to_bytes(12, "big")
        associated = frame[:16] + self.id + bytes([kind]) + record_id + name.encode()
        if self.is_sealed:
            packed = AESGCM(key).decrypt(nonce, frame[16:], associated)
        else:
            packed = frame[16:-16]
            checked = len(associated).to_bytes(8, "little") + associated + nonce + packed
            assert blake3(checked, key=key).digest()[:16] == frame[-16:]
        plain = zstandard.decompress(packed) if codec else packed
        assert len(plain) == plain_bytes
        return plain

    def sections(self, kind: int, name: str) -> list[bytes]:
        stored = (self.folder / name).read_bytes()
        key, at, found, last = self.object_key(stored, kind, name), 64, list[bytes](), 4
        while last != 5:
            number, sealed_bytes, last = *unpack_from("<I4xI", stored, at), stored[at + 13]
            assert number == len(found)
            found.append(self.frame(key, stored[at : at + 16 + sealed_bytes], kind, name))
            at += 16 + sealed_bytes
        assert at == len(stored)
        return found

    # --- [5], [6]

    def record(self, pack_id: bytes, offset: int, stored_bytes: int, record_id: bytes, what: bytes) -> bytes:
        name = f"packs/{pack_id.hex()[:2]}/{pack_id.hex()}"
        pack = (self.folder / name).read_bytes()
        sealed = pack[offset : offset + stored_bytes]
        plain = self.frame(self.object_key(pack, PACK, name), sealed, PACK, name, record_id)
        assert blake3(plain, key=self.derived(what)).digest() == record_id
        return plain

    def places_by_index(self) -> dict[bytes, tuple[bytes, int, int]]:
        found = {}
        for path in sorted((self.folder / "index").iterdir()):
            header, packs, rows = self.sections(INDEX, f"index/{path.name}")
            told = json.loads(header)
            assert path.name == f"{told['session']}-{told['number']:08d}"
            ids = [row[0] for row in iter_unpack("<32s16sQII", packs)]
            table = list(iter_unpack("<32sIIII", rows))
            assert [row[0] for row in table] == sorted(row[0] for row in table)
            found.update({row[0]: (ids[row[1]], row[2], row[3]) for row in table})
        return found

    def places_by_packs(self) -> dict[bytes, tuple[bytes, int, int]]:
        found = {}
        for path in sorted((self.folder / "packs").glob("??/*")):
            name, pack = f"packs/{path.parent.name}/{path.name}", path.read_bytes()
            magic, version, _, records, trailer_bytes, _, size = unpack("<8sHHIIIQ", pack[-32:])
            assert (magic, version, size, pack[32:64].hex()) == (b"MOVEREND", 1, len(pack), path.name)
            trailer = pack[-32 - trailer_bytes : -32]
            rows = list(iter_unpack("<32sIIIBBH", self.frame(self.object_key(pack, PACK, name), trailer, PACK, name)))
            assert len(rows) == records
            found.update({row[0]: (bytes.fromhex(path.name), row[1], row[2]) for row in rows})
        return found

    # --- [7]

    def disks(self, name: str, places: dict[bytes, tuple[bytes, int, int]]) -> list[list[bytes]]:
        header, node_ids = self.sections(MANIFEST, name)
        point = json.loads(header)
        assert name == f"points/{point['vm_uuid']}/{point['id']}"
        found, at = [], 0
        for disk in point["disks"]:
            ids = b""
            count = -(-disk["size_bytes"] // disk["block_bytes"])
            assert disk["nodes"] == -(-count // disk["fan_out"])
            for number in range(disk["nodes"]):
                node_id = node_ids[at : at + 32]
                length = min(disk["fan_out"], count - number * disk["fan_out"]) * 32
                ids += bytes(length) if node_id == NO_ID else self.record(*places[node_id], node_id, b"node id")
                at += 32
            found.append([self.block(disk, number, ids[number * 32 :][:32], places) for number in range(count)])
        assert at == len(node_ids)
        return found

    def block(self, disk: dict[str, Any], number: int, block_id: bytes, places: Any) -> bytes:
        length = min(disk["block_bytes"], disk["size_bytes"] - number * disk["block_bytes"])
        plain = bytes(length) if block_id == NO_ID else self.record(*places[block_id], block_id, b"block id")
        assert len(plain) == length
        return plain


@pytest.mark.parametrize(("kind", "passphrase"), [("sealed", "correct horse"), ("open", None)])
@pytest.mark.parametrize("way", ["index", "packs"])
def test_a_stranger_restores_by_the_document_alone(kind: str, passphrase: str | None, way: str):
    stranger = Stranger(GOLDEN / kind, passphrase)
    places = stranger.places_by_index() if way == "index" else stranger.places_by_packs()
    found = {path.name: f"points/{path.parent.name}/{path.name}" for path in (GOLDEN / kind).glob("points/*/*")}
    assert sorted(found) == ["point-1", "point-2"]
    assert stranger.disks(found["point-1"], places) == [blocks("golden")]
    assert stranger.disks(found["point-2"], places) == [changed()]
