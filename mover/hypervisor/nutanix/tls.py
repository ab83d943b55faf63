"""Whom we trust at the other end of TLS: a CA, a pinned certificate, or, in words, anybody."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import Any

import aiohttp
from cryptography import x509

from mover.config import PrismSettings
from mover.errors import CertificateRejected, ConfigError
from mover.hypervisor.nutanix.address import PrismAddress
from mover.metrics import PRISM_CERTIFICATE_EXPIRY

_LOOK_TIMEOUT_S = 5.0

Trust = ssl.SSLContext | aiohttp.Fingerprint


class PinnedCertificates(aiohttp.Fingerprint):
    """Accept a certificate whose SHA-256 is one of several; checked before a byte is sent.

    Central and Element have each their own factory certificate, so one pin is not enough.
    """

    def __init__(self, fingerprints: list[bytes]) -> None:
        super().__init__(fingerprints[0])
        self._all = frozenset(fingerprints)

    def check(self, transport: Any) -> None:
        """Called by the connector after the handshake. Raises ServerFingerprintMismatch."""
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        got = hashlib.sha256(certificate).digest()
        if got not in self._all:
            host, port, *_ = transport.get_extra_info("peername")
            raise aiohttp.ServerFingerprintMismatch(self.fingerprint, got, host, port)


def trust_of(settings: PrismSettings) -> Trust:
    """What the settings say: pins first, then off in words, then CA file, then the system's CAs.

    Raises ConfigError for a malformed fingerprint or an unreadable CA file.
    """
    if settings.fingerprint:
        return PinnedCertificates(parse_fingerprints(settings.fingerprint))
    if settings.verify != "yes":
        return _unchecked()
    try:
        return ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"prism.ca_file {settings.ca_file} cannot be used: {error}",
            remedy="Name a readable PEM file with the certificates that sign Prism's.",
        ) from None


def parse_fingerprints(written: str) -> list[bytes]:
    """``"AA:BB:…, cc…"`` → digests of 32 bytes. Raises ConfigError."""
    found = []
    for part in filter(None, (item.strip() for item in written.split(","))):
        plain = part.lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
        try:
            digest = bytes.fromhex(plain)
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ConfigError(
                f"prism.fingerprint: {part!r} is not a SHA-256 fingerprint",
                remedy="Write 64 hexadecimal digits, with or without colons; several are separated by commas.",
            )
        found.append(digest)
    if not found:
        raise ConfigError("prism.fingerprint is empty", remedy="Write a SHA-256 fingerprint, or remove the setting.")
    return found


def written_fingerprint(digest: bytes) -> str:
    """32 bytes → ``AA:BB:…`` as browsers and openssl print it."""
    return digest.hex(":").upper()


async def look_at_certificate(address: PrismAddress) -> str | None:
    """The fingerprint that the server shows now; None if it cannot be read. Sends nothing but a handshake."""
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=_unchecked())
            try:
                certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    note_certificate(address, certificate)
    return written_fingerprint(hashlib.sha256(certificate).digest())


def note_certificate(address: PrismAddress, certificate: bytes) -> None:
    """Tell the metrics until when this certificate (DER), shown by this Prism, is valid."""
    try:
        end = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        # Whether it is trusted was decided elsewhere; one that cannot be read has no known end.
        PRISM_CERTIFICATE_EXPIRY.remove(address.host)
    else:
        PRISM_CERTIFICATE_EXPIRY.labels(address.host).set(end.timestamp())


def rejected(address: PrismAddress, *, why: str, fingerprint: str | None, is_pinned: bool) -> CertificateRejected:
    """The error for a certificate that we do not accept; it shows what to compare and to set."""
    shown = f"; its SHA-256 fingerprint is {fingerprint}" if fingerprint else ""
    # Without its colons it is whole in a line of 80 columns, and can be pasted from there.
    plain = fingerprint.replace(":", "").lower() if fingerprint else ""
    pin = f"set prism.fingerprint to {plain}" if plain else "set prism.fingerprint"
    remedy = f"Compare that value with the certificate on Prism itself; if they agree, {pin}"
    if is_pinned:
        remedy += " (a Central and its Element have each their own: separate them by a comma)."
    elif "expired" in why:
        # A pin is taken whatever its dates; no CA makes it valid.
        remedy = f"Give Prism a new certificate (and look at this node's clock). Until then: {remedy}."
    else:
        remedy += ", or name the CA that signed it in prism.ca_file."
    return CertificateRejected(
        f"The certificate of {address} is not trusted: {why}{shown}",
        remedy=remedy,
        host=address.host,
        port=address.port,
        fingerprint=fingerprint or "",
    )


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
