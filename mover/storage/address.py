"""What people write to say where a repository is: an address and options → checked values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mover.errors import ConfigError, UnknownSetting, UsageError
from mover.units import parse_duration

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9._-]{1,62}$", re.IGNORECASE)
_PREFIX = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
_LATER = {
    "az": "Azure",
    "azure": "Azure",
    "abfs": "Azure",
    "abfss": "Azure",
    "gs": "Google Cloud Storage",
    "gcs": "Google Cloud Storage",
}
_FORMS = "Write a folder (/backup/repository) or a bucket (s3://bucket/prefix)."
_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class FolderAddress:
    path: Path


@dataclass(frozen=True, slots=True)
class BucketAddress:
    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class S3Options:
    """Options of a store in a bucket; each is a key below ``repository.store``."""

    endpoint: str = ""
    """https://host:port; empty: Amazon's own for the region."""
    region: str = "us-east-1"
    """Most other S3 servers take any."""
    access_key_id: str = ""
    """Empty: from the environment (AWS_ACCESS_KEY_ID), a web identity or the instance's role."""
    secret_access_key: str = ""
    session_token: str = ""
    path_style: bool = True
    """host/bucket, which every server knows; false: bucket.host."""
    allow_http: bool = False
    """Without TLS packs stay sealed, but whoever listens sees names and sizes."""
    create_only: bool = True
    """false: the store is known to ignore If-None-Match; every create looks first."""
    list_lag_s: float = 0.0
    """How late a listing may show a put; 0 on Amazon S3 and the servers that we test."""


def parse_address(text: str) -> FolderAddress | BucketAddress:
    """Raises UsageError in words for what is neither a folder nor a bucket."""
    if not text.strip():
        raise UsageError("The address of the repository is empty", remedy=_FORMS)
    found = _SCHEME.match(text)
    if found is None:
        if re.match(r"^s3:", text):
            raise UsageError(f"{text!r} lacks the two slashes of an address", remedy=_FORMS)
        return _parse_folder(text)
    scheme = found[1].lower()
    if scheme == "file":
        return _parse_file(text)
    if scheme == "s3":
        return _parse_bucket(text)
    if scheme in _LATER:
        raise UsageError(f"{_LATER[scheme]} ({scheme}://) comes in a later version", remedy=_FORMS)
    raise UsageError(f"{scheme}:// is not a kind of store that mover knows", remedy=_FORMS)


def parse_s3_options(options: Mapping[str, str]) -> S3Options:
    """Raises UnknownSetting with the nearest name, ConfigError for a value that cannot be."""
    refuse_unknown(options, _READERS)
    parsed = S3Options(**dict(_READERS[key](key, text) for key, text in options.items()))
    if bool(parsed.access_key_id) != bool(parsed.secret_access_key):
        missing = "secret_access_key" if parsed.access_key_id else "access_key_id"
        raise ConfigError(
            f"The store has one half of a key: {missing} is missing",
            remedy=f"Set {missing} too (the secret better from secret_access_key_file), or neither.",
        )
    _check_endpoint(parsed)
    return parsed


def refuse_unknown(options: Mapping[str, str], known: Iterable[str]) -> None:
    """Raises UnknownSetting for the first key that is not known."""
    names = list(known)
    for key in options:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            listed = f"Known: {', '.join(names)}." if names else "A folder takes no options: remove it."
            raise UnknownSetting(
                f"The store has no option {key!r}",
                remedy=f"Did you mean {near[0]!r}? {listed}" if near else listed,
                option=key,
            )


def _parse_folder(text: str) -> FolderAddress:
    try:
        return FolderAddress(Path(text).expanduser())
    except RuntimeError:
        remedy = "Write the folder's whole path."
        raise UsageError(f"{text!r} begins with the home of a user who is not known here", remedy=remedy) from None


def _parse_file(text: str) -> FolderAddress:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise UsageError(f"{text!r} names no folder of this machine", remedy="Write file:///backup/repository.")
    return FolderAddress(Path(unquote(parts.path)))


def _parse_bucket(text: str) -> BucketAddress:
    bucket, _, prefix = text.partition("://")[2].partition("/")
    prefix = prefix.strip("/")
    if "@" in bucket:
        remedy = "Put access_key_id and secret_access_key into the options of the store."
        raise UsageError("An address must not carry a secret", remedy=remedy)
    if _BUCKET.match(bucket) is None:
        raise UsageError(f"{bucket!r} cannot be the name of a bucket", remedy="Write s3://bucket/prefix.")
    if prefix and _PREFIX.match(prefix) is None:
        remedy = "Use letters, digits, dot, dash and underscore, parted by single slashes."
        raise UsageError(f"{prefix!r} cannot be a prefix in a bucket", remedy=remedy)
    return BucketAddress(bucket, prefix)


def _text(key: str, text: str) -> tuple[str, Any]:
    return key, text.strip()


def _boolean(key: str, text: str) -> tuple[str, Any]:
    word = text.strip().lower()
    if word not in _YES | _NO:
        raise ConfigError(f"{text!r} is not a value for {key}", remedy=f"Write {key}: true or {key}: false.")
    return key, word in _YES


def _duration(key: str, text: str) -> tuple[str, Any]:
    return f"{key}_s", parse_duration(text)


_READERS: dict[str, Callable[[str, str], tuple[str, Any]]] = {
    "endpoint": _text,
    "region": _text,
    "access_key_id": _text,
    "secret_access_key": _text,
    "session_token": _text,
    "path_style": _boolean,
    "allow_http": _boolean,
    "create_only": _boolean,
    "list_lag": _duration,
}


def _check_endpoint(options: S3Options) -> None:
    if not options.endpoint:
        return
    parts = urlsplit(options.endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        remedy = "Write the endpoint as https://host or https://host:port."
        raise ConfigError(f"{options.endpoint!r} is not an endpoint", remedy=remedy)
    if "@" in parts.netloc:
        remedy = "Put access_key_id and secret_access_key into the options of the store."
        raise ConfigError("An endpoint must not carry a secret", remedy=remedy)
    if parts.scheme == "http" and not options.allow_http:
        raise ConfigError(
            f"The endpoint {options.endpoint} is without TLS",
            remedy="Use https://, or set the store's option allow_http: true if the network is trusted.",
        )
