"""Every magic, number, size and name of the stored format, and nothing else.

`FORMAT.md` is the document of this module; a test holds the two together. All integers
are little-endian and unsigned.
"""

from __future__ import annotations

import re
from enum import IntEnum
from struct import Struct

VERSION = 1
"""The format that this code writes; it reads this one and all older ones."""

MAGIC = b"\x89MOVER\r\n"
"""Begins every sealed object; the bytes beyond ASCII show a transfer that changed them."""
END_MAGIC = b"MOVEREND"
"""Begins the footer of a pack."""

ENVELOPE = Struct("<8sHBBI16s32s")
"""magic, version, object kind, cipher, reserved 0, key id, salt."""
FRAME = Struct("<IIIBBH")
"""number, plain bytes, sealed bytes (tag included), codec, frame kind, reserved 0."""
TABLE_ROW = Struct("<32sIIIBBH")
"""A record in a pack's trailer: id, offset, stored bytes (frame included), plain bytes, codec, frame kind, 0."""
FOOTER = Struct("<8sHHIIIQ")
"""END_MAGIC, version, reserved 0, records, trailer bytes (frame included), reserved 0, bytes of the whole pack."""
PACK_ROW = Struct("<32s16sQII")
"""A pack in an index object: pack id, key id, bytes of the pack, records, reserved 0."""
INDEX_ROW = Struct("<32sIIII")
"""A record in an index object: id, row of its pack, offset, stored bytes, plain bytes; ascending by id."""

TAG_BYTES = 16
SALT_BYTES = 32
KEY_BYTES = 32
KEY_ID_BYTES = 16
REPOSITORY_ID_BYTES = 16
PACK_ID_BYTES = 32
NONCE_BYTES = 12

TRAILER_NUMBER = 0xFFFFFFFF
"""The record number, so the nonce, of a pack's trailer; no record may have it."""
RECORDS_PER_PACK_MAX = 16384
RECORD_PLAIN_BYTES_MAX = 4 << 20
SECTION_PLAIN_BYTES_MAX = 1 << 30
FAN_OUT = 1024
"""Block ids per map node, unless an image says otherwise."""
FAN_OUT_MAX = 65536


class ObjectKind(IntEnum):
    """What a sealed object is; bound into its key."""

    PACK = 1
    INDEX = 2
    MANIFEST = 3
    SESSION = 4
    TOMBSTONE = 5
    VOID = 6
    SUSPECT = 7


class FrameKind(IntEnum):
    """What a frame holds."""

    BLOCK = 1
    NODE = 2
    TRAILER = 3
    SECTION = 4
    LAST_SECTION = 5


class Codec(IntEnum):
    """How the plain bytes were packed before encryption."""

    RAW = 0
    ZSTD = 1


class Cipher(IntEnum):
    """How bytes are hidden and authenticated."""

    NONE = 0
    AES_256_GCM = 1


DESCRIPTOR = "repository.json"
KEYS = "keys/"
PACKS = "packs/"
INDEX = "index/"
POINTS = "points/"
SESSIONS = "sessions/"
TOMBSTONES = "tombstones/"
SUSPECTS = "suspects/"
RESERVE = "reserve"

FEATURES: frozenset[str] = frozenset()
"""Features beyond version 1 that this code knows; a descriptor may demand some."""

_INDEX_NAME = re.compile(r"index/[0-9a-f]{32}-([0-9]{8})")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def key_name(key_id: bytes) -> str:
    return f"{KEYS}{key_id.hex()}.json"


def pack_name(pack_id: bytes) -> str:
    text = pack_id.hex()
    return f"{PACKS}{text[:2]}/{text}"


def pack_id_of(name: str) -> bytes | None:
    """The id in the name of a pack, its tombstone or its suspect; None when the name is none of theirs."""
    text = name.rsplit("/", 1)[-1]
    try:
        pack_id = bytes.fromhex(text)
    except ValueError:
        return None
    known = name in (pack_name(pack_id), tombstone_name(pack_id), suspect_name(pack_id))
    return pack_id if known and len(pack_id) == PACK_ID_BYTES else None


def index_name(session_id: str, number: int) -> str:
    return f"{INDEX}{session_id}-{number:08d}"


def index_number(name: str) -> int | None:
    """The number in an index object's name; None when the name is not one."""
    found = _INDEX_NAME.fullmatch(name)
    return int(found[1]) if found else None


def point_name(vm_uuid: str, point_id: str) -> str:
    """Raises ValueError when either would not be one part of a name."""
    for part in (vm_uuid, point_id):
        if not _PART.fullmatch(part):
            raise ValueError(f"{part!r} cannot be part of an object's name")
    return f"{POINTS}{vm_uuid}/{point_id}"


def point_of(name: str) -> tuple[str, str] | None:
    """(VM UUID, point id) of a manifest's name, None for a stranger's."""
    parts = name.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and f"{parts[0]}/" == POINTS else None


def session_name(session_id: str) -> str:
    return f"{SESSIONS}{session_id}"


def tombstone_name(pack_id: bytes) -> str:
    return f"{TOMBSTONES}{pack_id.hex()}"


def suspect_name(pack_id: bytes) -> str:
    return f"{SUSPECTS}{pack_id.hex()}"
