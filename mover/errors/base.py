"""What every error is made of: what happened, the remedy, and how both are shown and kept."""

from __future__ import annotations

from typing import Any, ClassVar


class MoverError(Exception):
    """What happened, to what, why, and what to do.

    message: one sentence, names the thing concerned. remedy: one sentence in the
    imperative, never empty. retryable: the same call may succeed later unchanged.
    facts: plain values (str, int, float, bool, list of these) for logs and ``--json``.
    """

    code: ClassVar[str] = "mover"
    exit_code: ClassVar[int] = 1
    retryable: bool = False

    def __init__(self, message: str, *, remedy: str, retryable: bool | None = None, **facts: Any):
        if not remedy.strip():
            raise ValueError(f"{type(self).__name__} needs a remedy")
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.facts: dict[str, Any] = facts
        if retryable is not None:
            self.retryable = retryable

    def as_dict(self) -> dict[str, Any]:
        """The form that logs, ``--json`` and the API share."""
        return {
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "retryable": self.retryable,
            "facts": self.facts,
        }

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.remedy, self.retryable, self.facts)


def _rebuild(kind: type[MoverError], message: str, remedy: str, retryable: bool, facts: dict[str, Any]) -> MoverError:
    error = kind(message, remedy=remedy, retryable=retryable)
    error.facts = facts
    return error
