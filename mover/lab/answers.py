"""What leaves the lab: a JSON answer, or an error in the shape of the API that was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


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
