"""What an HTTP answer of Prism means: a value, a passing trouble, or a refusal in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from mover.errors import (
    Conflict,
    HypervisorError,
    HypervisorUnreachable,
    NotFound,
    Overloaded,
    RequestRefused,
    RightsMissing,
)
from mover.hypervisor.nutanix.reading import items, members, number, text
from mover.hypervisor.nutanix.words import says_missing, says_refused, says_unready

_PASSING = {408: "timeout", 429: "429", 500: "500", 502: "gateway", 503: "503", 504: "gateway"}
_TEXT_LIMIT = 400
# Builds differ in the status of these (400, 409, 422).
_CONFLICTS = ("CONCURRENT_REQUESTS_NOT_ALLOWED", "ENTITY_ALREADY_EXISTS")
_GATEWAY = (408, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``body`` is the parsed JSON; ``is_json`` is False for HTML and cut bodies."""

    status: int
    body: Any
    is_json: bool
    headers: Mapping[str, str]


def read_body(raw: bytes) -> tuple[Any, bool]:
    """Bytes → (JSON, True), (None, True) for an empty body, (None, False) for anything else."""
    if not raw.strip():
        return None, True
    try:
        return orjson.loads(raw), True
    except orjson.JSONDecodeError:
        return None, False


def effective_status(answer: Answer) -> int:
    """The status; a v3 error body inside a 2xx counts as what it says."""
    if answer.status < 300 and text(answer.body, "state").upper() == "ERROR":
        code = number(answer.body, "code")
        return code if code >= 400 else 500
    if answer.status >= 400 and reason_of(answer.body) == "TOO_MANY_REQUESTS":
        return 429
    if answer.status >= 400 and reason_of(answer.body) in _CONFLICTS:
        return 409
    return answer.status


def passing_trouble(answer: Answer) -> str | None:
    """Why a repetition may help (a bounded label for metrics), or None."""
    if not answer.is_json and answer.status not in _GATEWAY:
        return "html"
    status = effective_status(answer)
    if 300 <= status < 400:
        return "redirect"
    if status == 500 and says_unready(message_of(answer.body)):
        return "503"
    return _PASSING.get(status)


def is_login_page(answer: Answer) -> bool:
    """A session that has ended, said as to a browser."""
    return answer.status == 403 and not answer.is_json


def is_missing_by_500(answer: Answer, path: str) -> bool:
    """v2 may answer 500 for a VM that is gone: it must name the very thing of the path."""
    if answer.status != 500 or not members(answer.body, "error_code"):
        return False
    said, asked = message_of(answer.body), path.strip("/").rpartition("/")[2]
    return says_missing(said) and asked.lower() in said.lower()


def is_refusal_by_500(answer: Answer) -> bool:
    """v2 may answer 500 for a change that it refuses: its own error body must say what is wrong with it."""
    if answer.status != 500 or not members(answer.body, "error_code"):
        return False
    return says_refused(message_of(answer.body))


def trouble(answer: Answer, *, what: str, host: str) -> HypervisorError:
    """The error of a passing trouble that did not pass."""
    status = effective_status(answer)
    said = message_of(answer.body) or ("an answer that is not JSON" if not answer.is_json else "no explanation")
    facts: dict[str, Any] = {"status": status, "reason": reason_of(answer.body), "operation": what, "host": host}
    facts["trouble"] = passing_trouble(answer)
    if status in (429, 503) and answer.is_json:
        return Overloaded(
            f"{host} is overloaded ({status}) at {what}: {said}",
            remedy="Try again later, or lower prism.max_calls.",
            **facts,
        )
    return HypervisorUnreachable(
        f"{host} did not answer {what} properly ({status}): {said}",
        remedy="Prism's gateway may be restarting (upgrades take minutes): try again, then look at Prism itself.",
        **facts,
    )


def refusal(answer: Answer, *, what: str, host: str) -> HypervisorError:
    """The error of a definite refusal; no effect has taken place."""
    status = effective_status(answer)
    said = message_of(answer.body) or f"HTTP {status}"
    kind, remedy = _REFUSALS.get(
        status,
        (
            RequestRefused,
            "Correct what it names; where nothing of that is yours, report a bug with the lines of the log around it.",
        ),
    )
    return kind(
        f"{host} refused {what}: {said}",
        remedy=remedy,
        status=status,
        reason=reason_of(answer.body),
        operation=what,
        host=host,
        said=said,
    )


_REFUSALS: dict[int, tuple[type[HypervisorError], str]] = {
    403: (RightsMissing, "Give the user of prism.username the role Cluster Admin on this Prism."),
    404: (NotFound, "Look whether it still exists on Prism; run the command again with what is there now."),
    409: (Conflict, "Somebody else changed the object at the same time: run the command again."),
}


def is_unsupported(refused: HypervisorError) -> bool:
    """This Prism does not have the call: an Element may leave the making of VMs to its Central, and to v2."""
    return refused.facts.get("status") in (405, 501) or "NOT_SUPPORTED" in refused.facts.get("reason", "")


def reason_of(body: Any) -> str:
    """v3's machine-readable reason, upper case, or empty."""
    for message in items(body, "message_list") or items(body, "status", "message_list"):
        if text(message, "reason"):
            return text(message, "reason").upper()
    return text(body, "reason").upper()


def message_of(body: Any) -> str:
    """What Prism says in prose, in any of its three shapes; shortened."""
    entries = items(body, "message_list") or items(body, "status", "message_list")
    parts = [text(entry, "message") or text(entry, "reason") for entry in entries]
    parts += [text(body, "message"), text(body, "detailed_message")]
    said = "; ".join(part for part in parts if part)
    code = number(members(body, "error_code"), "code")
    if code:
        said = f"{said} (code {code})"
    return said[:_TEXT_LIMIT]
