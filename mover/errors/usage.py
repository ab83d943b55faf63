"""2: what the user wrote."""

from __future__ import annotations

from mover.errors.base import MoverError


class UsageError(MoverError):
    """The command line or a file of the user's cannot be acted on."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A setting is missing, malformed or contradicts another."""

    code = "config"


class UnknownSetting(ConfigError):
    """A key that no setting has; the nearest name is offered."""

    code = "config.unknown-key"


class NoSuchVm(UsageError):
    """A VM name or pattern matches nothing."""

    code = "select.none"


class AmbiguousName(UsageError):
    """A name matches several things where one is wanted."""

    code = "select.ambiguous"


class NoSuchPoint(UsageError):
    """A restore point id (or prefix) matches nothing in the repository."""

    code = "select.no-point"


class TargetExists(UsageError):
    """A file, VM slot or repository that would be overwritten exists already."""

    code = "target.exists"
