"""6: the repository."""

from __future__ import annotations

from mover.errors.base import MoverError


class RepositoryError(MoverError):
    """The repository cannot be used as asked."""

    code = "repository"
    exit_code = 6


class RepositoryMissing(RepositoryError):
    """There is no repository at this place."""

    code = "repository.missing"


class WrongKey(RepositoryError):
    """The passphrase opens none of the key slots."""

    code = "repository.key"


class FormatUnsupported(RepositoryError):
    """Written by a newer version, or with a feature that this one lacks."""

    code = "repository.format"


class Damaged(RepositoryError):
    """An object is not what was written: refused. facts: object, and what depends on it."""

    code = "repository.damaged"


class SessionVoided(RepositoryError):
    """This writer was declared dead by a collector; its point cannot be committed."""

    code = "repository.session-voided"


class PointConflict(RepositoryError):
    """A point of this id exists and was committed by another session."""

    code = "repository.point-conflict"


class PointPinned(RepositoryError):
    """The point is the base of the next incremental."""

    code = "repository.point-pinned"
