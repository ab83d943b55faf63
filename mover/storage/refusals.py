"""What an object store's refusal means: obstore's exceptions → our errors, with the remedy.

obstore gives status and code only in its text; the codes are S3's own.
"""

from __future__ import annotations

import re
from typing import Any

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from mover.errors import StorageError, StoreDenied, StoreFull, StoreUnreachable

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CAUSE = re.compile(r'(?:message|error): "([^"]{3,200})"')
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "InsufficientCapacity"}
_DENIED = {
    "InvalidAccessKeyId": "The store does not know this access key: correct access_key_id.",
    "SignatureDoesNotMatch": "The secret key does not fit the access key: correct secret_access_key.",
    "AccessDenied": "Give this key the right to read, write, list and delete in the bucket.",
    "RequestTimeTooSkewed": "This machine's clock is off: set it (chronyc tracking, timedatectl).",
    "ExpiredToken": "The session token has expired: get a new one.",
    "InvalidToken": "The session token is not valid: get a new one.",
    "AuthorizationHeaderMalformed": "The bucket is in another region: set region.",
    "PermanentRedirect": "The bucket is in another region or at another endpoint: set region and endpoint.",
    "AllAccessDisabled": "The store has closed this bucket: ask its administrator.",
}
_RETRYABLE_STATUS = {408, 409, 425, 429}
_PLAIN_ANSWER = "InvalidContentType"
_NOT_PARTIAL = "non-partial response"
_NO_CREDENTIALS = "169.254.169.254"


def refusal(error: BaseError, *, doing: str, place: str) -> StorageError:
    """The error to raise in place of ``error``, met while ``doing`` (``"Writing packs/00/ab"``) at ``place``."""
    text = str(error)
    status, code = _status(text), _code(text)
    facts: dict[str, Any] = {"place": place, "status": status, "store_code": code}
    what = f"{doing} in {place} failed: {code or status or _short(text)}"
    if code == "NoSuchBucket":
        return bucket_missing(place)
    if code in _FULL or status == 507:
        return StoreFull(what, remedy="Free space or raise the quota of the store, then run again.", **facts)
    if code in _DENIED or status in (401, 403) or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        remedy = _DENIED.get(code, "Check the access key and its rights on the bucket.")
        return StoreDenied(what, remedy=remedy, **facts)
    if _NO_CREDENTIALS in text:
        remedy = "Set access_key_id and secret_access_key, or the environment variables AWS_ACCESS_KEY_ID and so on."
        return StoreDenied(f"No credentials for {place} were found", remedy=remedy, **facts)
    if status == 0 and "certificate" in text.lower():
        remedy = "Add the issuer of the store's certificate to the system's trusted ones (SSL_CERT_FILE)."
        return StoreUnreachable(f"The certificate of {place} is not trusted", remedy=remedy, retryable=False, **facts)
    if _NOT_PARTIAL in text:
        remedy = "It, or a proxy before it, gives whole objects where a part is asked for: use one that honours Range."
        return StoreUnreachable(what, remedy=remedy, ignores_range=True, **facts)
    if status == 0 or status >= 500 or status in _RETRYABLE_STATUS:
        remedy = "Check the endpoint, the network and the store's own state, then run again."
        return StoreUnreachable(what, remedy=remedy, **facts)
    return StorageError(what, remedy="The store refused the request: check endpoint, region and bucket.", **facts)


def bucket_missing(place: str) -> StoreUnreachable:
    """The bucket itself does not exist."""
    return StoreUnreachable(
        f"The bucket of {place} does not exist",
        remedy="Create the bucket, or correct its name, the region or the endpoint.",
        retryable=False,
        place=place,
    )


def missing_bucket(error: Exception) -> bool:
    """Whether a 404 speaks of the bucket, not of an object in it."""
    return _code(str(error)) == "NoSuchBucket"


def is_out_of_range(error: StorageError) -> bool:
    """Whether a ranged get began beyond the object's end."""
    return error.facts.get("status") == 416


def is_create_only_unknown(error: BaseError) -> bool:
    """Whether the store says that it does not know If-None-Match at all."""
    text = str(error)
    return _status(text) == 501 or _code(text) == "NotImplemented"


def _status(text: str) -> int:
    found = _STATUS.search(text)
    return int(found[1]) if found else 0


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found[1] if found else ""


def _short(text: str) -> str:
    """The innermost cause that obstore's dump names, else its first sentence."""
    if _PLAIN_ANSWER in text:
        return "the endpoint does not speak TLS"
    causes = _CAUSE.findall(text)
    return causes[-1] if causes else text.split("\n", 1)[0][:300]
