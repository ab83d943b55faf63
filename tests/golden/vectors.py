"""The golden values that FORMAT.md quotes, computed from fixed secrets and salts.

``python -m tests.golden.vectors`` prints them as they stand in FORMAT.md.
"""

from __future__ import annotations

from blake3 import blake3

from mover.repository import keys
from mover.repository.keys import ScryptCost, Secrets
from mover.repository.layout import Cipher, Codec, FrameKind, ObjectKind
from mover.repository.memory import private_memory
from mover.repository.pack import PackBuilder
from mover.repository.seal import FRAME_OVERHEAD_BYTES, seal_object

REPOSITORY_ID = bytes(range(0x00, 0x10))
KEY_ID = bytes(range(0x10, 0x20))
ID_SECRET = bytes(range(0x20, 0x40))
DATA_SECRET = bytes(range(0x40, 0x60))
SALT = bytes(range(0x60, 0x80))
PACK_ID = bytes(range(0x80, 0xA0))
BLOCK = b"mover"
NODE = bytes(range(32))
PASSPHRASE = "correct horse"
COST = ScryptCost(n=16, r=1, p=1)

SEALED = Secrets(REPOSITORY_ID, Cipher.AES_256_GCM, KEY_ID, ID_SECRET, {KEY_ID: DATA_SECRET})
OPEN = Secrets.without_encryption(REPOSITORY_ID)


def small_pack(secrets: Secrets) -> bytes:
    """A pack of one raw record."""
    builder = PackBuilder(secrets, memory=private_memory(4096), pack_id=PACK_ID)
    block_id = blake3(BLOCK, key=secrets.block_key()).digest()
    size = len(BLOCK) + FRAME_OVERHEAD_BYTES
    number, memory = builder.place(block_id, size, len(BLOCK), Codec.RAW, FrameKind.BLOCK)
    builder.sealer.seal_into(
        memory,
        BLOCK,
        number=number,
        kind=FrameKind.BLOCK,
        codec=Codec.RAW,
        plain_bytes=len(BLOCK),
        block_id=block_id,
    )
    return b"".join(builder.finish())


def small_object(secrets: Secrets) -> bytes:
    """A void of one raw section."""
    return b"".join(seal_object(secrets, ObjectKind.VOID, "points/a/b", [b"{}"], salt=SALT))


def slot() -> str:
    """The wrapped secrets of a passphrase slot."""
    text = keys.wrap(SEALED, PASSPHRASE, created_at="2026-01-01T00:00:00Z", cost=COST, salt=SALT).decode()
    return text.split('"wrapped": "')[1].split('"')[0]


def golden() -> dict[str, str]:
    """Name → hex."""
    return {
        "repository id": REPOSITORY_ID.hex(),
        "key id": KEY_ID.hex(),
        "id secret": ID_SECRET.hex(),
        "data secret": DATA_SECRET.hex(),
        "block key": SEALED.block_key().hex(),
        "node key": SEALED.node_key().hex(),
        "descriptor key": SEALED.descriptor_key().hex(),
        "object key of kind 6, points/a/b": SEALED.object_key(ObjectKind.VOID, "points/a/b", KEY_ID, SALT).hex(),
        "slot (correct horse, n=16 r=1 p=1)": slot(),
        "id of block 6d6f766572": blake3(BLOCK, key=SEALED.block_key()).hexdigest(),
        "id of node 000102..1f": blake3(NODE, key=SEALED.node_key()).hexdigest(),
        "void": small_object(SEALED).hex(),
        "pack": small_pack(SEALED).hex(),
        "open id secret": OPEN.id_secret.hex(),
        "open data secret": OPEN.data_secrets[keys.OPEN_KEY_ID].hex(),
        "open id of block 6d6f766572": blake3(BLOCK, key=OPEN.block_key()).hexdigest(),
        "open void": small_object(OPEN).hex(),
        "open pack": small_pack(OPEN).hex(),
    }


def as_text() -> str:
    """As FORMAT.md shows them: 96 digits a line."""
    lines = []
    for name, digits in golden().items():
        lines += [name, *(f"  {digits[at : at + 96]}" for at in range(0, len(digits), 96))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_text())
