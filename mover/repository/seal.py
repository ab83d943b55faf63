"""The sealed envelope: how bytes of any object are hidden, bound to their place, and opened.

A ``Sealer`` belongs to one object (one key) and may be used by many threads: it keeps no
state between calls. Whoever seals owns the numbers: one number is one nonce.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from struct import pack as struct_pack
from struct import unpack_from
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mover.clock import secret_bytes
from mover.errors import Damaged, FormatUnsupported
from mover.repository import layout
from mover.repository.codec import Codecs, PackingError
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher, Codec, FrameKind, ObjectKind

NO_ID = bytes(layout.KEY_BYTES)
"""Stands for the id in the associated data of frames that hold no block or node."""

_FRAME_BYTES = layout.FRAME.size
_TAG_BYTES = layout.TAG_BYTES
FRAME_OVERHEAD_BYTES = _FRAME_BYTES + _TAG_BYTES
_CODECS = frozenset(int(codec) for codec in Codec)
_KINDS = frozenset(int(kind) for kind in FrameKind)


def damaged(name: str, why: str, **facts: str) -> Damaged:
    """The one way in which this room refuses bytes."""
    return Damaged(
        f"{name} is damaged: {why}",
        remedy="Choose another point (mover points), or bring the object back from a copy. mover verify says what "
        "else is hit; mover repair --read-data lets the next backup store anew what it meets.",
        retryable=False,
        object=name,
        **facts,
    )


class Frame(NamedTuple):
    """The header of a frame, see FORMAT.md section 4."""

    number: int
    plain_bytes: int
    sealed_bytes: int
    codec: Codec
    kind: FrameKind


class Envelope(NamedTuple):
    """The header of an object."""

    kind: ObjectKind
    cipher: Cipher
    key_id: bytes
    salt: bytes


class Sealer:
    """Seals and opens the frames of one object."""

    __slots__ = ("_aes", "_key", "_name", "_place", "name")

    def __init__(self, secrets: Secrets, kind: ObjectKind, name: str, salt: bytes, key_id: bytes | None = None):
        self.name, self._name = name, name.encode()
        self._key = secrets.object_key(kind, name, secrets.key_id if key_id is None else key_id, salt)
        self._aes = AESGCM(self._key) if secrets.cipher is Cipher.AES_256_GCM else None
        self._place = secrets.repository_id + bytes([kind])

    def seal_into(
        self,
        out: memoryview,
        data: bytes | memoryview,
        *,
        number: int,
        kind: FrameKind,
        codec: Codec,
        plain_bytes: int,
        block_id: bytes = NO_ID,
    ) -> None:
        """Fill ``out`` (exactly ``len(data) + FRAME_OVERHEAD_BYTES`` long) with header, bytes and tag."""
        header = layout.FRAME.pack(number, plain_bytes, len(data) + _TAG_BYTES, codec, kind, 0)
        out[:_FRAME_BYTES] = header
        associated = self._associated(header, block_id)
        nonce = number.to_bytes(layout.NONCE_BYTES, "big")
        body = out[_FRAME_BYTES:]
        if self._aes is not None:
            self._aes.encrypt_into(nonce, data, associated, body)
            return
        body[:-_TAG_BYTES] = data
        body[-_TAG_BYTES:] = self._open_tag(nonce, associated, data)

    def open(self, sealed: memoryview, frame: Frame, block_id: bytes = NO_ID) -> bytes | memoryview:
        """The packed bytes of a whole frame (header included). Raises Damaged."""
        associated = self._associated(bytes(sealed[:_FRAME_BYTES]), block_id)
        nonce = frame.number.to_bytes(layout.NONCE_BYTES, "big")
        body = sealed[_FRAME_BYTES : _FRAME_BYTES + frame.sealed_bytes]
        if self._aes is not None:
            try:
                return self._aes.decrypt(nonce, body, associated)
            except InvalidTag:
                raise damaged(self.name, f"frame {frame.number} does not authenticate") from None
        data = body[:-_TAG_BYTES]
        if self._open_tag(nonce, associated, data) != body[-_TAG_BYTES:]:
            raise damaged(self.name, f"frame {frame.number} does not match its checksum")
        return data

    def _associated(self, header: bytes, block_id: bytes) -> bytes:
        return header + self._place + block_id + self._name

    def _open_tag(self, nonce: bytes, associated: bytes, data: bytes | memoryview) -> bytes:
        hasher = blake3(struct_pack("<Q", len(associated)) + associated + nonce, key=self._key)
        return hasher.update(data).digest()[:_TAG_BYTES]


def parse_frame(sealed: memoryview, name: str) -> Frame:
    """The header at the start of ``sealed``, which must hold the whole frame. Raises Damaged."""
    if len(sealed) < FRAME_OVERHEAD_BYTES:
        raise damaged(name, "a frame is cut off")
    number, plain_bytes, sealed_bytes, codec, kind, reserved = layout.FRAME.unpack_from(sealed)
    if codec not in _CODECS or kind not in _KINDS or reserved:
        raise damaged(name, f"the header of frame {number} makes no sense")
    if not _TAG_BYTES <= sealed_bytes <= len(sealed) - _FRAME_BYTES:
        raise damaged(name, f"frame {number} is cut off")
    return Frame(number, plain_bytes, sealed_bytes, Codec(codec), FrameKind(kind))


def parse_envelope(stored: bytes | memoryview, name: str, secrets: Secrets, kinds: Collection[ObjectKind]) -> Envelope:
    """The header of an object, which must be of one of ``kinds``. Raises Damaged, FormatUnsupported."""
    if len(stored) < layout.ENVELOPE.size:
        raise damaged(name, "it is shorter than its header")
    magic, version, kind, cipher, reserved, key_id, salt = layout.ENVELOPE.unpack_from(stored)
    if magic != layout.MAGIC or reserved:
        raise damaged(name, "it does not begin as an object of a repository")
    if version > layout.VERSION:
        raise FormatUnsupported(
            f"{name} has format {version}, this program knows up to {layout.VERSION}",
            remedy="Use a newer version of mover.",
            object=name,
        )
    if version == 0 or kind not in {int(one) for one in kinds} or cipher != secrets.cipher:
        raise damaged(name, "its header is not that of such an object")
    return Envelope(ObjectKind(kind), Cipher(cipher), key_id, salt)


def envelope_bytes(secrets: Secrets, kind: ObjectKind, salt: bytes) -> bytes:
    """The header that every object begins with."""
    return layout.ENVELOPE.pack(layout.MAGIC, layout.VERSION, kind, secrets.cipher, 0, secrets.key_id, salt)


def seal_object(
    secrets: Secrets, kind: ObjectKind, name: str, sections: Sequence[bytes], *, salt: bytes | None = None
) -> list[bytes]:
    """The parts of a sealed object; each section is compressed if that shrinks it. salt: for tests only."""
    salt = salt or secret_bytes(layout.SALT_BYTES)
    sealer, codecs = Sealer(secrets, kind, name, salt), Codecs()
    parts = [envelope_bytes(secrets, kind, salt)]
    for number, plain in enumerate(sections):
        codec, packed = codecs.pack(plain)
        out = bytearray(len(packed) + FRAME_OVERHEAD_BYTES)
        is_last = number == len(sections) - 1
        frame_kind = FrameKind.LAST_SECTION if is_last else FrameKind.SECTION
        sealer.seal_into(memoryview(out), packed, number=number, kind=frame_kind, codec=codec, plain_bytes=len(plain))
        parts.append(bytes(out))
    return parts


def open_object(secrets: Secrets, kind: ObjectKind, name: str, stored: bytes, *, sections: int) -> list[bytes]:
    """The plain sections of a whole object, which must have that many. Raises Damaged."""
    envelope = parse_envelope(stored, name, secrets, (kind,))
    sealer = Sealer(secrets, kind, name, envelope.salt, envelope.key_id)
    rest, is_last = memoryview(stored)[layout.ENVELOPE.size :], False
    found: list[bytes] = []
    while not is_last:
        plain, rest, is_last = _open_section(sealer, rest, len(found))
        found.append(plain)
    if len(rest) or len(found) != sections:
        raise damaged(name, f"it has {len(found)} sections and {len(rest)} bytes behind them")
    return found


def open_first_section(
    secrets: Secrets, kinds: Collection[ObjectKind], name: str, start: bytes
) -> tuple[ObjectKind, bytes] | None:
    """(kind, plain first section) from the first bytes of an object; None when they do not reach. Raises Damaged."""
    envelope = parse_envelope(start, name, secrets, kinds)
    rest = memoryview(start)[layout.ENVELOPE.size :]
    if len(rest) < _FRAME_BYTES or unpack_from("<8xI", rest)[0] > len(rest) - _FRAME_BYTES:
        return None
    sealer = Sealer(secrets, envelope.kind, name, envelope.salt, envelope.key_id)
    return envelope.kind, _open_section(sealer, rest, 0)[0]


def _open_section(sealer: Sealer, rest: memoryview, number: int) -> tuple[bytes, memoryview, bool]:
    frame = parse_frame(rest, sealer.name)
    if frame.number != number or frame.kind not in (FrameKind.SECTION, FrameKind.LAST_SECTION):
        raise damaged(sealer.name, f"section {number} is not where it should be")
    if frame.plain_bytes > layout.SECTION_PLAIN_BYTES_MAX:
        raise damaged(sealer.name, f"section {number} claims {frame.plain_bytes} bytes")
    packed = sealer.open(rest, frame)
    try:
        plain = bytes(Codecs().unpack(frame.codec, packed, frame.plain_bytes))
    except PackingError as error:
        raise damaged(sealer.name, f"section {number} does not unpack: {error}") from None
    return plain, rest[_FRAME_BYTES + frame.sealed_bytes :], frame.kind is FrameKind.LAST_SECTION
