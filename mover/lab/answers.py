"""What leaves the lab: a JSON answer, or an error in the shape of the API that was asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_UUID = re.compile(r"[a-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}")
_AS_THEY_ARE = {"categories", "categories_mapping", "usage_stats", "spec"}
"""Objects whose member names are data, and v3's spec: a client may send it back as it came."""


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_page: bool = False
    """Not JSON, but a page for a browser."""


class Refusal(Exception):
    """A call that Prism refuses at once. reason: a v3 word; code: v2's number; is_page: said in HTML."""

    def __init__(self, status: int, reason: str, message: str, *, code: int = 0, is_page: bool = False) -> None:
        super().__init__(message)
        self.is_page = is_page
        self.status = status
        self.reason = reason
        self.message = message
        self.code = code or status


class TaskFailure(Exception):
    """A task that ends FAILED; ``detail`` is what its error_detail says."""

    def __init__(self, detail: str, *, code: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class Stuck(Exception):
    """A task that stays RUNNING for ever."""


def odd(value: Any) -> Any:
    """The same answer as a build to come may give it."""
    if isinstance(value, dict):
        made = {name: item if name in _AS_THEY_ARE else odd(item) for name, item in value.items()}
        return {name: None if item in ([], {}) else item for name, item in made.items()} | {
            "since_7_9": {"is_new": True}
        }
    if isinstance(value, list):
        return [odd(item) for item in value]
    return value.upper() if isinstance(value, str) and _UUID.fullmatch(value) else value


def missing(kind: str, uuid: str) -> Refusal:
    return Refusal(404, "ENTITY_NOT_FOUND", f"{kind} {uuid} does not exist", code=1202)


def v2_error(refusal: Refusal) -> Json:
    return {"message": refusal.message, "detailed_message": "", "error_code": {"code": refusal.code}}


def v3_error(refusal: Refusal, kind: str) -> Json:
    message = {"reason": refusal.reason, "message": refusal.message, "details": {}}
    return {
        "api_version": "3.1",
        "kind": kind,
        "code": refusal.status,
        "state": "ERROR",
        "message_list": [message],
    }
