"""What Prism's prose decides, for want of a machine-readable reason: the one table, and its safe side.

| meaning | what it allows | prose that is not known |
|---|---|---|
| missing | a GET's 500 that names the thing means that it is gone | the thing may be there: an error |
| wrong | a 500 refused the request: another form may follow a look | the effect is unknown: look, send nothing |
| busy | the same request is sent again, for minutes, each time after a look | given up after a few tries |
| unready | a 500 is borne like a 503, and proves neither of the first two | three tries; then an error |

Only what Prism said is read, never the name of a host or of a call that our own sentence holds; and of what it said
never a path, nor a word with a digit or a hyphen that is not known, nor X in "VM X is powered off": these are names
(``transport-01``, a UUID), which may say anything. A migration must be said to go on: many a VM is called that; where
it may be either, as in "VM migration is running", it goes on.
"""

from __future__ import annotations

import re

from mover.errors import HypervisorError

# Patterns, looked for where a word begins.
_MISSING = ("not found", "not exist", "no such", "enoent")
_WRONG = ("invalid", "not supported", "notsupported", "required", "prohibited", "not allowed", "already in use")
_BUSY = (
    *(r"migrating\b", "being migrated", "migration task", r"migration is (?:still )?(?:ongoing|under ?way)"),
    r"(?:live|during|under|process of|undergoing|ongoing|active|pending) (?:an? |the |vm |live )*migrat",
    r"migration\b.{0,80} is (?:still |currently )?(?:running|active|pending|in process)\b",
    r"migration\b.{0,80} (?:is|has) not (?:yet )?(?:been )?(?:complete|finish|ended|done|over)",
    *(r"busy\b", "in[ _]progress", "another operation", "logical timestamp"),
)
# A service behind Prism's gateway that restarts or elects a leader: the gateway says 500 for it.
_UNREADY = (
    *("unavailable", "not available", "not ready", "timed out", "timeout", "transport", "leader", "retry"),
    *("connection refused", "connection reset", "not connect", "cannot connect", "to connect"),
)

_COMPOUNDS = re.compile(
    r"(?<![\w./-])(?:live-migrat[a-z]+|in-progress|timed?-out|not-(?:found|supported|allowed|ready|available)|in-use)"
    r"(?![\w/-])",
    re.IGNORECASE,
)
_VM_WITH_A_STATE = re.compile(
    r"\bvm\s+(?!migration\s+is\s+running)\S+(?=\s+(?:is|was)\s+(?:not\s+)?(?:powered|off|on|stopped|running|paused|suspended)\b)",
    re.IGNORECASE,
)
_NAMES = re.compile(r"\S*/\S*/\S*|(?<!\w)/\S+|[\w.]*(?:\d|\w-\w)[\w.-]*")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def says_missing(said: str) -> bool:
    """Of something that does not exist; a service that is not ready proves nothing of the kind."""
    return _has(_MISSING, said) and not says_unready(said)


def says_refused(said: str) -> bool:
    """Of what is wrong with the request, or of something that it needs and that is missing."""
    return _has(_MISSING + _WRONG, said) and not says_unready(said)


def says_busy(said: str) -> bool:
    """Of somebody else's change that will end: the same request may be taken then. What is missing does not come."""
    return _has(_BUSY, said) and not _has(_MISSING, said)


def says_unready(said: str) -> bool:
    """Of a service that will be back."""
    return _has(_UNREADY, said)


def said_in(error: HypervisorError) -> str:
    """Prism's own words in an error of ours; empty where it said none."""
    return str(error.facts.get("said") or error.facts.get("detail") or "")


def _has(words: tuple[str, ...], said: str) -> bool:
    return re.search(rf"(?<![^\W_])(?:{'|'.join(words)})", _prose(said)) is not None


def _prose(said: str) -> str:
    """Lower case, without names; ``kVmMigrating`` becomes three words, ``live-migrating`` two."""
    without_names = _VM_WITH_A_STATE.sub("vm", said)
    without_names = _COMPOUNDS.sub(lambda found: found[0].replace("-", " "), without_names)
    without_names = _NAMES.sub(" ", without_names)
    return _HUMPS.sub(" ", without_names).lower()
