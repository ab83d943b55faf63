"""The address of a Prism, as users write it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from mover.errors import ConfigError

PRISM_PORT = 9440
_API_ROOTS = ("api", "prismgateway", "console", "static")


@dataclass(frozen=True, slots=True)
class PrismAddress:
    """Where a Prism answers. ``str()`` gives ``host:port`` for messages."""

    host: str
    """Without brackets, even for IPv6."""
    port: int = PRISM_PORT

    @property
    def origin(self) -> str:
        return f"https://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(written: str, *, setting: str = "prism.url") -> PrismAddress:
    """``https://prism:9440/api/nutanix/v3``, ``prism``, ``10.0.0.5:9440/`` → address.

    A path below /api, /PrismGateway or /console is accepted and dropped: which interface
    is spoken is our business. Raises ConfigError that says what is wrong.
    """
    trimmed = written.strip()
    if not trimmed:
        raise _wrong(setting, "is not set")
    parts = _split(trimmed, setting)
    if parts.scheme != "https":
        raise _wrong(setting, f"begins with {parts.scheme}://, but Prism speaks https only")
    if parts.username or parts.password:
        raise _wrong(setting, "carries a user; put it into prism.username and prism.password_file")
    first = parts.path.strip("/").partition("/")[0].lower()
    if first and first not in _API_ROOTS:
        raise _wrong(setting, f"has a path that is not Prism's: {parts.path}")
    host, port = _host_and_port(parts, setting)
    return PrismAddress(host, port)


def _split(trimmed: str, setting: str) -> SplitResult:
    with_scheme = trimmed if "://" in trimmed else f"https://{trimmed}"
    try:
        return urlsplit(with_scheme)
    except ValueError as error:
        raise _wrong(setting, f"is not an address: {error}") from None


def _host_and_port(parts: SplitResult, setting: str) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong(setting, "has a port that is not a number from 1 to 65535") from None
    if not host or any(character.isspace() for character in host):
        raise _wrong(setting, "names no host")
    if port == 0:
        raise _wrong(setting, "has a port that is not a number from 1 to 65535")
    return host, port or PRISM_PORT


def _wrong(setting: str, what: str) -> ConfigError:
    return ConfigError(
        f"{setting} {what}",
        remedy=f"Write {setting} as https://PRISM_HOST:9440 (Element or Central; a path /api/nutanix/v3 may follow).",
        setting=setting,
    )
