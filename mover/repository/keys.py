"""The secrets of a repository: made, wrapped by a passphrase, opened, derived.

Also the two JSON objects (descriptor, key file), whose every bit is checked: they are
compared with what this code would write for the same content.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_pwhash_scryptsalsa208sha256_ll as scrypt

from mover.clock import secret_bytes
from mover.errors import Damaged, FormatUnsupported, WrongKey
from mover.repository import layout
from mover.repository.layout import Cipher, ObjectKind

FORMAT_NAME = "mover-repository"
HASH_NAME = "blake3-256-keyed"
CIPHER_NAMES = {Cipher.NONE: "none", Cipher.AES_256_GCM: "aes-256-gcm"}
OPEN_KEY_ID = bytes(layout.KEY_ID_BYTES)
"""The key id of a repository without encryption."""
_SCRYPT_BYTES = 1 << 30
"""The most memory that the key of a passphrase may cost."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """The price of one guess at a passphrase. Memory is 128 * n * r bytes."""

    n: int = 1 << 16
    r: int = 8
    p: int = 2
    """64 MiB and about 0.25 s: as dear as n = 2^17 with p = 1, at half its memory."""

    def check(self, name: str) -> None:
        """A forged key file must not exhaust this machine."""
        fits = 2 <= self.n <= 1 << 20 and self.n & (self.n - 1) == 0 and 1 <= self.r <= 16 and 1 <= self.p <= 16
        if not fits or 128 * self.n * self.r > _SCRYPT_BYTES or self.n >= 1 << 16 * self.r:
            raise _damaged(name, "its scrypt parameters are absurd")


DEFAULT_COST = ScryptCost()


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an opened repository knows. Never logged, never shown."""

    repository_id: bytes
    cipher: Cipher
    key_id: bytes
    """The data key that new objects are sealed with."""
    id_secret: bytes = field(repr=False)
    data_secrets: Mapping[bytes, bytes] = field(repr=False)

    @classmethod
    def without_encryption(cls, repository_id: bytes) -> Secrets:
        """Secrets that anybody can compute: they find accidents, not attackers."""
        made = [
            blake3(repository_id, derive_key_context=f"mover/1 open {what} secret").digest() for what in ("id", "data")
        ]
        return cls(repository_id, Cipher.NONE, OPEN_KEY_ID, made[0], {OPEN_KEY_ID: made[1]})

    def block_key(self) -> bytes:
        return self._id_key(b"block id")

    def node_key(self) -> bytes:
        return self._id_key(b"node id")

    def descriptor_key(self) -> bytes:
        return self._id_key(b"descriptor")

    def _id_key(self, what: bytes) -> bytes:
        return _hkdf(self.id_secret, self.repository_id, b"mover/1 " + what)

    def object_key(self, kind: ObjectKind, name: str, key_id: bytes, salt: bytes) -> bytes:
        """The key of one object. Raises Damaged when no key file has that id."""
        secret = self.data_secrets.get(key_id)
        if secret is None:
            raise _damaged(name, f"it names the key {key_id.hex()}, which this repository does not have")
        return _hkdf(secret, salt, b"mover/1 object\0" + bytes([kind]) + name.encode())


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), layout.KEY_BYTES, salt, info).derive(secret)


def _damaged(name: str, why: str) -> Damaged:
    return Damaged(
        f"{name} is damaged: {why}",
        remedy="Restore this object from a copy of the repository; nothing was written.",
        object=name,
    )


# --- descriptor ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The content of ``repository.json``; its tag is checked once the key is known."""

    repository_id: bytes
    cipher: Cipher
    created_at: str
    needs_to_read: tuple[str, ...] = ()
    needs_to_write: tuple[str, ...] = ()
    tag: str = ""

    def encode(self, secrets: Secrets) -> bytes:
        """The stored bytes, with a fresh tag."""
        content = self._content()
        return _canonical({**content, "tag": self._tag(secrets)})

    def check_tag(self, secrets: Secrets) -> None:
        """Raises Damaged when the descriptor is not what the holder of the key wrote."""
        if self.tag != self._tag(secrets):
            raise _damaged(layout.DESCRIPTOR, "its tag does not match its content")

    def check_writable(self) -> None:
        """Raises FormatUnsupported when writing needs a feature that this version lacks."""
        _refuse_unknown(self.needs_to_write, "written to")

    def _tag(self, secrets: Secrets) -> str:
        return blake3(_canonical(self._content()), key=secrets.descriptor_key()).hexdigest()

    def _content(self) -> dict[str, Any]:
        return {
            "cipher": CIPHER_NAMES[self.cipher],
            "created_at": self.created_at,
            "format": FORMAT_NAME,
            "hash": HASH_NAME,
            "id": self.repository_id.hex(),
            "needs_to_read": list(self.needs_to_read),
            "needs_to_write": list(self.needs_to_write),
            "version": layout.VERSION,
        }


def decode_descriptor(stored: bytes) -> Descriptor:
    """Raises FormatUnsupported for a newer format, Damaged for bytes that nobody wrote."""
    content = _parsed(layout.DESCRIPTOR, stored)
    version = content.get("version")
    if isinstance(version, int) and version > layout.VERSION:
        raise FormatUnsupported(
            f"The repository has format {version}, this program knows up to {layout.VERSION}",
            remedy="Use a newer version of mover.",
            format=version,
        )
    _check_canonical(layout.DESCRIPTOR, stored, content)
    try:
        ciphers = {name: cipher for cipher, name in CIPHER_NAMES.items()}
        found = Descriptor(
            bytes.fromhex(content["id"]),
            ciphers[content["cipher"]],
            content["created_at"],
            tuple(content["needs_to_read"]),
            tuple(content["needs_to_write"]),
            content["tag"],
        )
        expected = {**found._content(), "tag": found.tag}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(layout.DESCRIPTOR, f"a field is wrong ({error})") from None
    if content != expected or len(found.repository_id) != layout.REPOSITORY_ID_BYTES:
        raise _damaged(layout.DESCRIPTOR, "a field is wrong")
    _refuse_unknown(found.needs_to_read, "read")
    return found


def _refuse_unknown(features: tuple[str, ...], use: str) -> None:
    unknown = sorted(set(features) - layout.FEATURES)
    if unknown:
        raise FormatUnsupported(
            f"The repository cannot be {use} without the features {', '.join(unknown)}",
            remedy="Use a newer version of mover.",
            features=unknown,
        )


# --- key files ----------------------------------------------------------------------


def wrap(
    secrets: Secrets, passphrase: str, *, created_at: str, cost: ScryptCost = DEFAULT_COST, salt: bytes | None = None
) -> bytes:
    """The stored bytes of a key file with one passphrase slot. Slow by intent. salt: for tests."""
    salt = salt or secret_bytes(layout.SALT_BYTES)
    plain = secrets.id_secret + secrets.data_secrets[secrets.key_id]
    key = _slot_key(passphrase, salt, cost)
    wrapped = AESGCM(key).encrypt(bytes(layout.NONCE_BYTES), plain, _slot_data(secrets.repository_id, secrets.key_id))
    slot = {
        "kind": "passphrase",
        "n": cost.n,
        "p": cost.p,
        "r": cost.r,
        "salt": salt.hex(),
        "wrapped": wrapped.hex(),
    }
    content = {
        "created_at": created_at,
        "id": secrets.key_id.hex(),
        "repository": secrets.repository_id.hex(),
        "slots": [slot],
        "version": layout.VERSION,
    }
    return _canonical({**content, "check": blake3(_canonical(content)).hexdigest()})


def unwrap(name: str, stored: bytes, passphrase: str, repository_id: bytes) -> tuple[bytes, bytes, bytes]:
    """(key id, id secret, data secret). Raises WrongKey, Damaged. Slow by intent."""
    content = _parsed(name, stored)
    _check_canonical(name, stored, content)
    check = content.pop("check", None)
    if check != blake3(_canonical(content)).hexdigest():
        raise _damaged(name, "its check does not match its content")
    try:
        key_id = bytes.fromhex(content["id"])
        slots = [slot for slot in content["slots"] if slot["kind"] == "passphrase"]
        is_ours = content["repository"] == repository_id.hex() and layout.key_name(key_id) == name
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(name, f"a field is wrong ({error})") from None
    if not is_ours:
        raise _damaged(name, "it belongs to another repository or name")
    for slot in slots:
        plain = _open_slot(name, slot, passphrase, _slot_data(repository_id, key_id))
        if plain is not None:
            return key_id, plain[: layout.KEY_BYTES], plain[layout.KEY_BYTES :]
    raise WrongKey("The passphrase does not open this repository", remedy="Give the passphrase that it was made with.")


def _open_slot(name: str, slot: Mapping[str, Any], passphrase: str, associated: bytes) -> bytes | None:
    try:
        cost = ScryptCost(int(slot["n"]), int(slot["r"]), int(slot["p"]))
        salt, wrapped = bytes.fromhex(slot["salt"]), bytes.fromhex(slot["wrapped"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(name, f"a slot is wrong ({error})") from None
    cost.check(name)
    try:
        plain = AESGCM(_slot_key(passphrase, salt, cost)).decrypt(bytes(layout.NONCE_BYTES), wrapped, associated)
    except InvalidTag:
        return None
    return plain if len(plain) == 2 * layout.KEY_BYTES else None


def _slot_key(passphrase: str, salt: bytes, cost: ScryptCost) -> bytes:
    phrase = unicodedata.normalize("NFKC", passphrase).encode()
    # Not OpenSSL's (hashlib, cryptography): the same work takes it a third longer.
    return scrypt(phrase, salt, cost.n, cost.r, cost.p, dklen=layout.KEY_BYTES, maxmem=2 * _SCRYPT_BYTES)


def _slot_data(repository_id: bytes, key_id: bytes) -> bytes:
    return b"mover/1 slot\0" + repository_id + key_id


# --- JSON whose every bit counts ----------------------------------------------------


def _canonical(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _parsed(name: str, stored: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(stored)
    except orjson.JSONDecodeError as error:
        raise _damaged(name, f"it is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise _damaged(name, "it is not a JSON object")
    return content


def _check_canonical(name: str, stored: bytes, content: Mapping[str, Any]) -> None:
    if _canonical(content) != stored:
        raise _damaged(name, "its bytes are not in the written form")
